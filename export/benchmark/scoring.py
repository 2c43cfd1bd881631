"""From logits to what benchmark.json says of accuracy: scores, comparisons, classes, waterfall, flips to look at."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from export import statistics
from export.benchmark.results import (
    AccuracyResult,
    ClassChange,
    Comparison,
    Flip,
    Interval,
    Latency,
    NotRun,
    Source,
    Step,
    Thumbnail,
)
from export.statistics import ClassDrop, PairedDrop, Range

THUMBNAILS = 12
SMALL = 64  # pixels, up to which every one of them is seen
_STEPS = (
    ("Teacher", "teacher.torch"),
    ("Student", "student.torch"),
    ("ONNX", "student.onnx"),
    ("FP16", "student.fp16.onnx"),
    ("INT8", "student.int8.onnx"),
)


def accuracy(logits: np.ndarray, labels: np.ndarray, source: Source) -> AccuracyResult:
    """What a model scores.

    Args:
        logits: float32 [N, C], on the whole evaluation split.
        labels: class of each image, [N].
        source: whether the model itself answered, or a stand-in.
    """
    bins = statistics.reliability(logits, labels)
    return AccuracyResult(
        source=source,
        images=len(labels),
        top1=Interval.of(statistics.wilson(int(statistics.right(logits, labels).sum()), len(labels))),
        top5=Interval.of(statistics.wilson(int(statistics.right(logits, labels, 5).sum()), len(labels)))
        if logits.shape[1] > 5
        else None,
        balanced_top1=_balanced_top1(logits, labels),
        nll=Interval.of(statistics.nll(logits, labels)),
        ece=statistics.ece(bins),
        reliability=bins,
    )


def _balanced_top1(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """The mean over classes of the part that is right. None where every class that is there has as many images."""
    counts = np.bincount(labels)
    present = counts > 0
    if len(set(counts[present].tolist())) == 1:
        return None
    hits = np.bincount(labels, weights=statistics.right(logits, labels))
    return float((hits[present] / counts[present]).mean())


def compare(
    reference: str, candidate: str, logits: Mapping[str, np.ndarray], labels: np.ndarray, source: Source
) -> Comparison:
    """Two models on the same images.

    Args:
        reference: name of the model that the other is compared with.
        candidate: name of the other.
        logits: [N, C] by name.
        labels: class of each image, [N].
        source: whether the candidate itself answered, or a stand-in.
    """
    before, after = logits[reference], logits[candidate]
    was_right, is_right = statistics.right(before, labels), statistics.right(after, labels)
    drop = PairedDrop.of(was_right, is_right)
    answers = after.argmax(1)
    same = int((before.argmax(1) == answers).sum())
    return Comparison(
        source=source,
        reference=reference,
        candidate=candidate,
        images=drop.n,
        lost=drop.lost,
        won=drop.won,
        drop=Interval.of(drop.range()),
        bootstrap=Interval.of(statistics.paired_bootstrap(drop)),
        mcnemar_p=statistics.mcnemar(drop.lost, drop.won),
        agreement=Interval.of(statistics.wilson(same, drop.n)),
        flips=[
            Flip(index=int(index), label=int(labels[index]), candidate=int(answers[index]))
            for index in np.flatnonzero(was_right & ~is_right)
        ],
    )


def named_classes(
    reference: np.ndarray, candidate: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> list[tuple[str, ClassDrop]]:
    """Each class by its name and what it loses, the worst first, from logits [N, C] and labels [N]."""
    rows = statistics.class_drops(statistics.right(reference, labels), statistics.right(candidate, labels), labels)
    return [(names[row.label], row) for row in rows]


def class_changes(rows: Sequence[tuple[str, ClassDrop]]) -> list[ClassChange]:
    """The classes as benchmark.json has them."""
    return [
        ClassChange(
            name=name,
            images=row.drop.n,
            reference_top1=row.reference_top1,
            candidate_top1=row.candidate_top1,
            drop=Interval.of(Range(row.drop.value, row.low, row.high)),
        )
        for name, row in rows
    ]


def waterfall(
    logits: Mapping[str, np.ndarray],
    labels: np.ndarray,
    accuracies: Mapping[str, AccuracyResult | NotRun],
    latencies: Mapping[str, Latency],
    sizes: Mapping[str, int],
) -> list[Step]:
    """teacher -> student -> ONNX -> FP16 -> INT8, each against the step before it, without steps that there are not.

    Args:
        logits: [N, C] by candidate.
        labels: class of each image, [N].
        accuracies: by candidate.
        latencies: of the model alone at the smallest batch, by candidate, where it was timed.
        sizes: bytes by candidate.
    """
    steps: list[Step] = []
    for title, candidate in _STEPS:
        score = accuracies.get(candidate)
        if score is None or isinstance(score, NotRun):
            continue
        comparison, difference = None, None
        if steps:
            before = logits[steps[-1].candidate]
            comparison = compare(steps[-1].candidate, candidate, logits, labels, score.source)
            difference = float(np.abs(logits[candidate] - before).max() / max(1.0, float(np.abs(before).max())))
        timed = latencies.get(candidate)
        steps.append(
            Step(
                name=title,
                candidate=candidate,
                source=score.source,
                top1=score.top1,
                drop=comparison.drop if comparison else None,
                p50_ms=timed.p50_ms if timed else None,
                size_bytes=sizes[candidate],
                agreement=comparison.agreement.value if comparison else None,
                max_logit_diff=difference,
            )
        )
    return steps


def thumbnails(comparison: Comparison, images: np.ndarray, names: Sequence[str], side: int = 224) -> list[Thumbnail]:
    """Evenly chosen flips, of at most `side` pixels. Small images keep their own pixels, as PNG; others are WebP."""
    flips = comparison.flips
    chosen = np.unique(np.linspace(0, len(flips) - 1, min(THUMBNAILS, len(flips))).round().astype(int))
    made = []
    for flip in (flips[place] for place in chosen):
        picture = Image.fromarray(np.asarray(images[flip.index]))
        picture.thumbnail((side, side))
        exact = max(picture.size) <= SMALL
        buffer = io.BytesIO()
        picture.save(buffer, **({"format": "PNG", "optimize": True} if exact else {"format": "WEBP", "quality": 85}))
        made.append(
            Thumbnail(
                comparison=f"{comparison.reference} → {comparison.candidate}",
                index=flip.index,
                caption=f"{names[flip.label]}, taken for {names[flip.candidate]}",
                media_type="image/png" if exact else "image/webp",
                image_base64=base64.b64encode(buffer.getvalue()).decode(),
            )
        )
    return made
