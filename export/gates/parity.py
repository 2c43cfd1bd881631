"""The gates: what an exported file must match before it is given its name.

Each measures and returns what it measured for the record. Where the limit is missed it raises GateError, which names
the measured and the allowed value. Accuracies and agreements are fractions; limits on them allow for the size of the
sample.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from scipy.special import betaincinv  # scipy.stats takes 0.7 s to import

from compress.system.errors import GateError, InputError, first_line
from export.onnx import load
from export.records import DropRecord
from export.statistics import CONFIDENCE, PairedDrop


class BatchRunner(Protocol):
    """What answers one batch."""

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Normalised float32 [N, C, H, W] -> float32 [N, classes]."""
        ...


def check_graph(path: Path) -> None:
    """onnx.checker with full shape inference. Raises GateError where it finds a fault."""
    try:
        onnx.checker.check_model(load(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = first_line(error)
        raise GateError(f"{path.name} is not valid ONNX: {reason}", "This is a fault of the exporter") from error


def check_logits(
    reference: BatchRunner,
    candidate: BatchRunner,
    *,
    shape: Sequence[int],
    batches: Sequence[int],
    max_diff: float,
    seed: int = 0,
) -> dict[int, float]:
    """The largest |difference| of the logits at each batch size, on noise.

    Several batches, because an exporter may fix one silently. Logits larger than 1 are compared relative to the
    largest, since float32 itself is only that exact.

    Args:
        reference: the model.
        candidate: what was exported from it.
        shape: of one image, [C, H, W].
        batches: the sizes to try.
        max_diff: the limit.
        seed: of the noise.

    Returns:
        The difference by batch size.

    Raises:
        GateError: a difference is above the limit, or the candidate does not run at one of the sizes.
    """
    generator = np.random.default_rng(seed)
    measured: dict[int, float] = {}
    for batch in sorted(set(batches)):
        inputs = generator.standard_normal((batch, *shape), dtype=np.float32)
        expected = reference.run(inputs)
        try:
            actual = candidate.run(inputs)
        except InputError as error:
            raise GateError(
                f"at batch {batch} {error.message}", "The batch dimension was fixed by the export"
            ) from error
        if actual.shape != expected.shape:
            raise GateError(
                f"at batch {batch} the logits have shape {actual.shape}, {expected.shape} wanted",
                "The batch dimension was fixed by the export",
            )
        scale = max(1.0, float(np.abs(expected).max()))
        measured[batch] = float(np.abs(actual - expected).max()) / scale
        # `not <=` also catches NaN.
        if not measured[batch] <= max_diff:
            raise GateError(
                f"at batch {batch} the logits differ by {measured[batch]:.3g}, {max_diff:.3g} allowed",
                "The exported graph does not compute what the model does",
            )
    return measured


def check_agreement(reference: np.ndarray, candidate: np.ndarray, min_agreement: float, what: str) -> float:
    """The share of images whose top class is the same in both logits [N, C].

    Raises:
        GateError: the upper end of the exact (Clopper-Pearson) interval lies below `min_agreement`, or a logit of the
            candidate is not finite. `what` names the candidate in the message.
    """
    same = reference.argmax(1) == candidate.argmax(1)
    check_finite(candidate, what)
    measured = float(same.mean())
    agreed, n = int(same.sum()), len(same)
    # The upper end of Clopper and Pearson's exact interval.
    upper = float(betaincinv(agreed + 1, n - agreed, 0.5 + CONFIDENCE / 2)) if agreed < n else 1.0
    if upper < min_agreement:
        raise GateError(
            f"{what} agrees with FP32 on {measured:.2%} of {len(same)} images, {min_agreement:.2%} required",
            "Deploy another precision, or look for overflow in the model",
        )
    return measured


def check_finite(logits: np.ndarray, what: str) -> None:
    """Raises GateError where one of the logits [N, C] is not finite."""
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if broken:
        raise GateError(
            f"{what} gives logits that are not finite on {broken} of {len(logits)} images, 0 allowed",
            "Deploy another precision: the values overflow this one",
        )


def paired_drop(reference: np.ndarray, candidate: np.ndarray, labels: np.ndarray) -> DropRecord:
    """The drop of top-1 accuracy from one model to another, and its 95 % interval.

    Pairing removes the variance of the images themselves. Only so a drop of half a point is visible at all.

    Args:
        reference: logits [N, C].
        candidate: logits [N, C] of the same images.
        labels: class of each image, [N].
    """
    right, still = reference.argmax(1) == labels, candidate.argmax(1) == labels
    drop, low, high = PairedDrop.of(right, still).range()
    return DropRecord(
        reference_top1=float(right.mean()),
        candidate_top1=float(still.mean()),
        drop=drop,
        low=low,
        high=high,
        n=len(labels),
    )


def check_drop(measured: DropRecord, max_drop: float, what: str) -> None:
    """Raises GateError where the whole interval lies beyond the limit: a small split does not fail by chance."""
    if measured.low > max_drop:
        raise GateError(
            f"{what} loses {100 * measured.drop:.2f} points of top-1 (95 % interval {100 * measured.low:.2f} to "
            f"{100 * measured.high:.2f}, {measured.n} images), {100 * max_drop:.2f} allowed",
            "Deploy another precision, or allow more in the recipe's export section",
        )
