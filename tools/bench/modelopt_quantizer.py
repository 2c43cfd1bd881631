"""ONNX files to INT8 with the defaults of NVIDIA's ModelOpt. A process of its own: it needs ModelOpt, not us.

    PYTHON tools/bench/modelopt_quantizer.py calibration.npy student.onnx...

calibration.npy: float32 [N, C, H, W] for input "input". Makes student.modelopt.onnx beside each file.
"""

import sys
from pathlib import Path

import numpy as np


def main(calibration: str, *sources: str) -> None:
    from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found]

    inputs = np.load(calibration)
    for source in map(Path, sources):
        quantize(
            str(source),
            calibration_data=inputs,
            calibration_method="max",
            calibration_eps=["cpu"],
            calibration_shapes="input:" + "x".join(map(str, (1, *inputs.shape[1:]))),
            output_path=str(source.with_suffix(".modelopt.onnx")),
            log_level="ERROR",
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
