"""Accuracy where classes are not equally frequent."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from compress.recipe import BenchmarkLimits
from export.benchmark import scoring
from export.benchmark.verdict import Evidence, decide
from export.statistics import PairedDrop


def answers(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((len(labels), classes)).astype(np.float32)


@pytest.mark.parametrize("labels", [[0] * 60 + [1] * 9 + [2] * 31, [0] * 40 + [3] * 5])
def test_balanced_accuracy_of_unequal_classes_is_that_of_scikit_learn(labels: list[int]) -> None:
    named = np.array(labels)
    logits = answers(named, 4)
    logits[:, 1:3] -= 0 if 1 in labels else 10  # scikit-learn counts only classes that are there
    found = scoring.accuracy(logits, named, "measured").balanced_top1
    assert found == pytest.approx(balanced_accuracy_score(named, logits.argmax(1)))


def test_there_is_none_where_classes_are_equally_frequent() -> None:
    labels = np.arange(60) % 3
    assert scoring.accuracy(answers(labels, 3), labels, "measured").balanced_top1 is None


def test_the_verdict_has_that_of_the_recommended_file() -> None:
    right = np.ones(50, bool)
    drop = PairedDrop.of(right, right)
    files = [
        Evidence(name=name, top1=0.9, size_bytes=size, drop=drop, balanced_top1=balanced)
        for name, size, balanced in (("large", 20, 0.7), ("small", 10, 0.6))
    ]
    verdict = decide(files, BenchmarkLimits(), {})
    assert (verdict.recommended, verdict.balanced_top1) == ("small", 0.6)
