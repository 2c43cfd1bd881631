"""Statistics against scipy, slow references and cases worked out by hand."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from export import parity, scoring, statistics
from export.statistics import Pairs


def answers(n: int, lost: int, won: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    """Which images reference and candidate get right: `lost` only the reference, `won` only the candidate."""
    reference, candidate = np.zeros(n, bool), np.zeros(n, bool)
    reference[: lost + both] = True
    candidate[lost : lost + both + won] = True
    return reference, candidate


def logits_for(answer: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[answer] * 4


@pytest.mark.parametrize(("k", "n"), [(0, 10), (7, 10), (10, 10), (812, 1000)])
def test_wilson_is_the_root_of_the_score_test(k: int, n: int) -> None:
    value, low, high = statistics.wilson(k, n)
    assert value == k / n
    z = norm.ppf(0.975)
    for end in {low, high} - {0.0, 1.0}:
        assert abs(value - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(z)
    assert low <= value <= high


def test_mcnemar_of_a_known_flip_table() -> None:
    # 1 against 9: twice the chance of at most one head in ten tosses.
    assert statistics.mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert statistics.mcnemar(9, 1) == statistics.mcnemar(1, 9)
    assert statistics.mcnemar(5, 5) == 1.0
    assert statistics.mcnemar(0, 0) == 1.0


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (3, 1), (30, 42), (0, 5)])
def test_the_paired_interval_is_that_of_the_export_gates(lost: int, won: int) -> None:
    reference, candidate = answers(400, lost, won, 300)
    labels = np.zeros(400, np.int64)
    gate = parity.paired_drop(logits_for(~reference * 1, 2), logits_for(~candidate * 1, 2), labels)
    assert statistics.paired_interval(lost, won, 400) == pytest.approx((gate.low, gate.high))
    assert Pairs.of(reference, candidate) == Pairs(400, lost, won)


def test_the_paired_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(500, [0.05, 0.03, 0.92], size=2000)
    ends = [statistics.paired_interval(lost, won, 500) for lost, won, _ in drawn.tolist()]
    covered = np.mean([low <= 0.02 <= high for low, high in ends])
    assert 0.935 <= covered <= 0.97


def test_the_bootstrap_is_that_of_drawing_images() -> None:
    reference, candidate = answers(200, 14, 5, 150)
    difference = reference.astype(int) - candidate.astype(int)
    generator = np.random.default_rng(1)
    slow = [generator.choice(difference, 200).mean() for _ in range(20_000)]
    value, low, high = statistics.paired_bootstrap(Pairs.of(reference, candidate))
    assert value == pytest.approx(9 / 200)
    assert (low, high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.0051)


def test_a_student_equal_to_its_teacher_shows_no_difference_and_no_false_certainty() -> None:
    generator = np.random.default_rng(2)
    logits, labels = generator.standard_normal((300, 10)).astype(np.float32), generator.integers(0, 10, 300)
    found = scoring.compare("teacher", "student", {"teacher": logits, "student": logits.copy()}, labels, "measured")
    assert (found.lost, found.won, found.flips) == (0, 0, [])
    assert found.mcnemar_p == 1.0
    assert found.drop.value == 0 == found.bootstrap.low == found.bootstrap.high
    assert found.drop.low < 0 < found.drop.high
    assert found.agreement.value == 1


def test_flips_name_the_images_that_only_the_reference_gets_right() -> None:
    labels = np.array([0, 1, 2, 0])
    logits = {"a": logits_for(np.array([0, 1, 2, 1]), 3), "b": logits_for(np.array([0, 2, 2, 0]), 3)}
    found = scoring.compare("a", "b", logits, labels, "measured")
    assert [(flip.index, flip.label, flip.candidate) for flip in found.flips] == [(1, 1, 2)]
    assert (found.lost, found.won, found.images) == (1, 1, 4)


@pytest.mark.parametrize(("lost", "won", "limit"), [(5, 1, 0.02), (8, 2, 0.02), (0, 0, 0.001), (40, 30, 0.02)])
def test_the_number_of_images_that_decide_is_the_smallest_that_does(lost: int, won: int, limit: float) -> None:
    pairs = Pairs(400, lost, won)

    def decided(n: int) -> bool:
        low, high = statistics.paired_interval(lost * n / 400, won * n / 400, n)
        return high <= limit or low > limit

    needed = statistics.images_to_decide(pairs, limit)
    assert needed is not None
    assert decided(needed)
    assert needed == 400 or not decided(needed - 1)


def test_a_drop_that_equals_its_limit_is_never_decided() -> None:
    assert statistics.images_to_decide(Pairs(400, 12, 4), 0.02) is None


def test_top_k_counts_the_label_among_the_k_largest() -> None:
    logits = np.array([[3.0, 2.0, 1.0], [1.0, 1.0, 0.0], [0.0, 5.0, 4.0]])
    labels = np.array([1, 1, 0])
    assert statistics.right(logits, labels).tolist() == [False, False, False]
    assert statistics.right(logits, labels, 2).tolist() == [True, True, False]
    assert statistics.right(logits, np.array([0, 0, 1])).tolist() == [True, True, True]


def test_nll_of_even_odds_is_log_two() -> None:
    value, low, high = statistics.nll(np.zeros((50, 2), np.float32), np.zeros(50, np.int64))
    assert (value, low, high) == pytest.approx((math.log(2),) * 3)


def test_ece_of_a_case_worked_out_by_hand() -> None:
    # Four images at confidence 0.9, of which three are right; two at 0.6, both right.
    def row(confidence: float) -> list[float]:
        return [math.log(confidence), math.log(1 - confidence)]

    logits = np.array([row(0.9)] * 4 + [row(0.6)] * 2)
    bins = statistics.reliability(logits, np.array([0, 0, 0, 1, 0, 0]))
    assert [(b.images, round(b.accuracy, 3)) for b in bins] == [(2, 1.0), (4, 0.75)]
    assert statistics.ece(bins) == pytest.approx((4 * 0.15 + 2 * 0.4) / 6)


def test_classes_are_listed_by_what_they_lose_with_intervals_for_all_together() -> None:
    labels = np.repeat([0, 1, 3], 20)
    reference = np.ones(60, bool)
    candidate = reference.copy()
    candidate[20:25] = False
    rows = statistics.class_drops(reference, candidate, labels)
    assert [row.label for row in rows] == [1, 0, 3]
    assert rows[0].pairs.drop == pytest.approx(0.25)
    single = statistics.paired_interval(5, 0, 20)
    assert rows[0].low < single[0] < single[1] < rows[0].high
    assert statistics.joint_confidence(3) == pytest.approx(1 - 0.05 / 3)
