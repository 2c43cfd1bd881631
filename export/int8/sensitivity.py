"""Which layers INT8 hurts, measured one by one, and how many must go back to float until the accuracy holds.

In: a calibrated Quantizer and training images. Out: the layers by harm, then an INT8 file that holds, or a GateError.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from compress.system.console import progress_bar
from compress.system.errors import GateError
from export.int8.macs import counted_ops, int8_mac_fraction, layer_macs
from export.int8.quantize import Quantizer, Target
from export.runtimes import OrtRuntime


def divergence(reference: np.ndarray, candidate: np.ndarray) -> float:
    """The KL divergence of a candidate's class probabilities from the reference's, by logits [N, C]; mean, in nats."""
    expected, actual = (log_softmax(logits.astype(np.float64), axis=1) for logits in (reference, candidate))
    return float((np.exp(expected) * (expected - actual)).sum(axis=1).mean())


def layer_sensitivity(
    quantizer: Quantizer,
    reference: np.ndarray,
    images: np.ndarray,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    target: Target = "ort",
    threads: int | None = None,
) -> dict[str, float]:
    """How much each layer hurts: the KL divergence of the class probabilities from FP32's when it alone is quantised.

    Args:
        quantizer: calibrated already.
        reference: logits [N, C] of the FP32 file for `images`.
        images: uint8 [N, H, W, C], of the training split.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        target: which of the two INT8 forms.
        threads: of ONNX Runtime; None takes what this process may use.

    Returns:
        The mean over the images in nats by layer, worst first.
    """
    harm: dict[str, float] = {}
    layers = quantizer.layers
    bar = progress_bar("sensitivity of the layers", len(layers))
    with tempfile.TemporaryDirectory() as folder, bar as shown:
        path = Path(folder) / "one_layer.onnx"
        for done, layer in enumerate(layers, start=1):
            quantizer.write(path, target=target, only=[layer])
            runtime = OrtRuntime(path, mean, std, threads=threads, literal=target == "trt")
            harm[layer] = divergence(reference, runtime(images))
            shown.show(done)
    return dict(sorted(harm.items(), key=lambda item: -item[1]))


def quantize_until(
    quantizer: Quantizer,
    dst: Path,
    gate: Callable[[Path], None],
    *,
    target: Target,
    sensitivity: Callable[[], dict[str, float]],
    min_int8_macs: float,
) -> list[str]:
    """Writes an INT8 file that passes a gate, with as few of the most sensitive layers in float as that takes.

    Args:
        quantizer: calibrated already.
        dst: the file to write.
        gate: raises GateError for a file that is not good enough.
        target: which of the two INT8 forms.
        sensitivity: harm by layer, worst first. Asked only where the fully quantised model is not good enough.
        min_int8_macs: share of the multiply-adds that must stay INT8. A layer whose return would leave less is passed
            over.

    Returns:
        The layers left in float.

    Raises:
        GateError: no such file can be made. `dst` is not left.
    """
    quantizer.write(dst, target=target)
    counted = counted_ops(dst)
    try:
        share = int8_mac_fraction(dst, counted)
        if share < min_int8_macs:
            raise GateError(
                f"{share:.1%} of the multiply-adds are INT8, at least {min_int8_macs:.1%} must be",
                "The rest has no INT8 form; deploy FP16 instead",
            )
        breach = _breach(gate, dst)
        if breach is None:
            return []
        macs = {name: count for name, (count, _) in layer_macs(dst, counted).items()}
        worst = [name for name in sensitivity() if name not in quantizer.left_in_float(target)]
        affordable = _affordable(worst, macs, (share - min_int8_macs) * sum(macs.values()))
        returned = 0
        while returned < len(affordable):
            # One more at first, then in growing steps: each try costs a pass over the evaluation images.
            returned = min(len(affordable), returned + max(1, returned // 2))
            quantizer.write(dst, target=target, exclude=affordable[:returned])
            breach = _breach(gate, dst)
            if breach is None:
                return affordable[:returned]
        share = int8_mac_fraction(dst, counted)
        raise GateError(
            f"{breach.message}, even with {returned} layers in float, which leaves {share:.1%} of the multiply-adds in "
            f"INT8 ({min_int8_macs:.1%} required)",
            "Calibrate on more images or by another export.calibration_method, fine-tune the student for it (compress "
            "distill --resume --set train.quantize=int8), or deploy FP16",
        ) from breach
    except BaseException:
        dst.unlink(missing_ok=True)
        raise


def _breach(gate: Callable[[Path], None], path: Path) -> GateError | None:
    try:
        gate(path)
    except GateError as error:
        return error
    return None


def _affordable(worst_first: Sequence[str], macs: dict[str, int], budget: float) -> list[str]:
    """The layers that may be returned to float, in order, without the sum of their multiply-adds passing `budget`."""
    chosen = []
    for name in worst_first:
        cost = macs.get(name, 0)
        if cost <= budget:
            chosen.append(name)
            budget -= cost
    return chosen
