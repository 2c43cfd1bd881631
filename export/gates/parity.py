"""The gates: what an exported file must match before it is given its name.

Each measures and returns what it measured for the record. Where the limit is missed it raises GateError, which names
the measured and the allowed value. Accuracies and agreements are fractions; limits on them allow for the size of the
sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx

from compress.system.errors import GateError, InputError, first_line
from export.onnx import load
from export.records import DropRecord, Outcome
from export.statistics import PairedDrop, exact_interval, images_to_agree, images_to_decide

FLOAT32_ERROR = 1e-5
"""A float32 error of the logits, as a share of the largest, above which a net counts as sensitive to rounding."""


class BatchRunner(Protocol):
    """What answers one batch."""

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Normalised float32 [N, C, H, W] -> float32 [N, classes]."""
        ...


class Candidate(BatchRunner, Protocol):
    """What answers one batch, or all images."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, classes]."""
        ...


class LogitParity(NamedTuple):
    """What was measured of an FP32 file. `tolerance`: by how much a logit may be off, in its own unit."""

    diff_by_batch: dict[int, float]
    float32_error: float
    tolerance: float


@dataclass(frozen=True)
class Limits:
    """What a file may lose against FP32.

    same_is_enough: whether it passes where no image changes its class, however few there are. True of a precision that
    only rounds a little more.
    """

    max_drop: float
    min_agreement: float
    same_is_enough: bool = False


@dataclass(frozen=True)
class Judged:
    """What a file loses against FP32, and what follows. images_to_decide: where it is UNDECIDED and ever will be."""

    agreement: float
    drop: DropRecord
    outcome: Outcome
    images_to_decide: int | None
    limits: Limits

    @property
    def within(self) -> bool:
        """Whether the measured values are within the limits, whatever their intervals."""
        return self.drop.drop <= self.limits.max_drop and self.agreement >= self.limits.min_agreement

    def dump(self) -> dict[str, Any]:
        """As the fields of a FileRecord."""
        return {
            "top1": self.drop.candidate_top1,
            "agreement": self.agreement,
            "drop": self.drop,
            "outcome": self.outcome,
            "images_to_decide": self.images_to_decide,
        }


def check_graph(path: Path) -> None:
    """onnx.checker with full shape inference. Raises GateError where it finds a fault."""
    try:
        onnx.checker.check_model(load(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = first_line(error)
        raise GateError(f"{path.name} is not valid ONNX: {reason}", "This is a fault of the exporter") from error


def check_logits(
    reference: np.ndarray,
    exact: np.ndarray,
    candidate: BatchRunner,
    inputs: np.ndarray,
    *,
    batches: Sequence[int],
    max_diff: float,
) -> LogitParity:
    """The largest |difference| of the logits at each batch size, on images, against what float64 gives.

    Several batches, because an exporter may fix one silently. A difference is a share of the largest logit. How much is
    allowed follows from the model: another order of sums moves the logits of some nets more than those of others, and
    torch's own float32 error shows by how much.

    Args:
        reference: logits [N, C] of the model in float32.
        exact: the same in float64.
        candidate: what was exported from it.
        inputs: the images, normalised, float32 [N, C, H, W]. They are repeated where a batch is larger.
        batches: the sizes to try.
        max_diff: the limit where torch's own error is at most FLOAT32_ERROR. Above, it grows with that error.

    Raises:
        GateError: a difference is above the limit, or the candidate does not run at one of the sizes.
    """
    scale = float(np.abs(exact).max()) or 1.0
    own = float(np.abs(reference - exact).max()) / scale
    allowed = max_diff * max(1.0, own / FLOAT32_ERROR)
    measured: dict[int, float] = {}
    for batch in sorted(set(batches)):
        rows = np.arange(batch) % len(inputs)
        try:
            actual = candidate.run(inputs[rows])
        except InputError as error:
            raise GateError(
                f"at batch {batch} {error.message}", "The batch dimension was fixed by the export"
            ) from error
        if actual.shape != exact[rows].shape:
            raise GateError(
                f"at batch {batch} the logits have shape {actual.shape}, {exact[rows].shape} wanted",
                "The batch dimension was fixed by the export",
            )
        measured[batch] = float(np.abs(actual - exact[rows]).max()) / scale
        # `not <=` also catches NaN.
        if not measured[batch] <= allowed:
            raise GateError(
                f"at batch {batch} the logits differ by {measured[batch]:.3g} of the largest, {allowed:.3g} allowed "
                f"(torch's own float32 error is {own:.3g})",
                "The exported graph does not compute what the model does",
            )
    return LogitParity(measured, own, allowed * scale)


def check_classes(reference: np.ndarray, candidate: np.ndarray, tolerance: float, what: str) -> float:
    """The share of images whose top class is the same in both logits [N, C]. It must be all but ties.

    Raises:
        GateError: an image has another class, though its two logits are further apart than both may be off.
            `tolerance`: by how much a logit may be off. `what` names the candidate in the message.
    """
    check_finite(candidate, what)
    rows = np.arange(len(reference))
    before, after = reference.argmax(1), candidate.argmax(1)
    gap = reference[rows, before] - reference[rows, after]
    if changed := int((gap > 2 * tolerance).sum()):
        raise GateError(
            f"{what} gives {changed} of {len(reference)} images another class than torch does, 0 allowed",
            "The exported graph does not compute what the model does",
        )
    return float((before == after).mean())


def check_agreement(reference: np.ndarray, candidate: np.ndarray, min_agreement: float, what: str) -> float:
    """The share of images whose top class is the same in both logits [N, C].

    Raises:
        GateError: the upper end of the exact (Clopper-Pearson) interval lies below `min_agreement`, or a logit of the
            candidate is not finite. `what` names the candidate in the message.
    """
    check_finite(candidate, what)
    same = reference.argmax(1) == candidate.argmax(1)
    measured = float(same.mean())
    _, upper = exact_interval(int(same.sum()), len(same))
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
    counts = PairedDrop.of(right, still)
    drop, low, high = counts.range()
    return DropRecord(
        reference_top1=float(right.mean()),
        candidate_top1=float(still.mean()),
        drop=drop,
        low=low,
        high=high,
        n=len(labels),
        lost=counts.lost,
        won=counts.won,
    )


def judge(reference: np.ndarray, candidate: np.ndarray, labels: np.ndarray, limits: Limits) -> Judged:
    """What a file loses against FP32, and whether that is allowed.

    PASS: the whole intervals of the drop and of the agreement lie within their limits. FAIL: one lies beyond. Else
    UNDECIDED: there are too few images to tell.

    Args:
        reference: logits [N, C] of the FP32 file.
        candidate: logits [N, C] of the same images.
        labels: class of each image, [N].
        limits: what is allowed.
    """
    agreement = float((reference.argmax(1) == candidate.argmax(1)).mean())
    return judge_measured(paired_drop(reference, candidate, labels), agreement, limits)


def judge_measured(drop: DropRecord, agreement: float, limits: Limits) -> Judged:
    """What follows from what was measured, as in `judge`. agreement: the share of images with the same class."""
    agreed, outcome, needed = round(agreement * drop.n), _outcome(drop, agreement, limits), None
    if outcome == "UNDECIDED" and drop.lost is not None and drop.won is not None:
        accuracy = images_to_decide(PairedDrop(drop.n, drop.lost, drop.won), limits.max_drop)
        classes = images_to_agree(agreed, drop.n, limits.min_agreement)
        missed = [accuracy] * (drop.drop > limits.max_drop) + [classes] * (agreement < limits.min_agreement)
        if missed:  # one limit that is missed for sure is enough for FAIL
            needed = min((count for count in missed if count is not None), default=None)
        elif accuracy is not None and classes is not None:
            needed = max(accuracy, classes)
    return Judged(agreement, drop, outcome, needed, limits)


def _outcome(drop: DropRecord, agreement: float, limits: Limits) -> Outcome:
    agreed = round(agreement * drop.n)
    low, high = exact_interval(agreed, drop.n)
    if drop.low > limits.max_drop or high < limits.min_agreement:
        return "FAIL"
    if limits.same_is_enough and agreed == drop.n:
        return "PASS"
    return "PASS" if drop.high <= limits.max_drop and low >= limits.min_agreement else "UNDECIDED"


def check_outcome(judged: Judged, what: str) -> None:
    """Raises GateError for FAIL, with the limit that is missed. `what` names the file in the message."""
    if judged.outcome == "FAIL":
        check_drop(judged.drop, judged.limits.max_drop, what)
        raise GateError(
            f"{what} agrees with FP32 on {judged.agreement:.2%} of {judged.drop.n} images, "
            f"{judged.limits.min_agreement:.2%} required",
            "Deploy another precision, or look for overflow in the model",
        )


def check_drop(measured: DropRecord, max_drop: float, what: str) -> None:
    """Raises GateError where the whole interval lies beyond the limit: a small split does not fail by chance."""
    if measured.low > max_drop:
        raise GateError(
            f"{what} loses {100 * measured.drop:.2f} points of top-1 (95 % interval {100 * measured.low:.2f} to "
            f"{100 * measured.high:.2f}, {measured.n} images), {100 * max_drop:.2f} allowed",
            "Deploy another precision, or allow more in the recipe's export section",
        )
