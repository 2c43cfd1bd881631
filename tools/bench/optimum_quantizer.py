"""One ONNX file to INT8 with Optimum's defaults for this processor. A process of its own: it needs Optimum, not us.

    PYTHONPATH=FOLDER python tools/bench/optimum_quantizer.py student.onnx calibration.npy vnni OUT

calibration.npy: float32 [N, C, H, W] for input "input". vnni or avx2: which of Optimum's x86 settings to take. Makes
OUT/student_quantized.onnx.
"""

import sys
from pathlib import Path

import numpy as np


def main(source: str, calibration: str, instructions: str, out: str) -> None:
    from onnxruntime.quantization import CalibrationMethod
    from optimum.onnxruntime import ORTQuantizer  # type: ignore[import-not-found]
    from optimum.onnxruntime.configuration import (  # type: ignore[import-not-found]
        AutoQuantizationConfig,
        CalibrationConfig,
    )

    images = [{"input": image} for image in np.load(calibration)]
    make = AutoQuantizationConfig.avx512_vnni if instructions == "vnni" else AutoQuantizationConfig.avx2
    settings = make(is_static=True)
    quantizer = ORTQuantizer(Path(source))
    ranges = quantizer.fit(
        images,
        CalibrationConfig("images", "", "train", len(images), CalibrationMethod.MinMax),
        onnx_augmented_model_name=str(Path(out) / "augmented.onnx"),
        operators_to_quantize=settings.operators_to_quantize,
    )
    quantizer.quantize(settings, out, calibration_tensors_range=ranges)


if __name__ == "__main__":
    main(*sys.argv[1:])
