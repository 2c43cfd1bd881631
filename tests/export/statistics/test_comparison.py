"""Statistics against scipy, slow references and cases worked out by hand."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm, t, ttest_rel

from export import statistics
from export.benchmark import scoring
from export.gates import parity
from export.statistics import PairedDrop, paired_interval


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


@pytest.mark.parametrize(("k", "n"), [(0, 10), (7, 10), (10, 10), (812, 1000)])
def test_the_exact_interval_is_scipys(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(0.95, method="exact")
    assert statistics.exact_interval(k, n) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("agreed", "n", "limit"), [(91, 100, 0.9), (89, 100, 0.9), (335, 341, 0.99)])
def test_as_many_images_as_are_named_settle_an_agreement_and_fewer_do_not(agreed: int, n: int, limit: float) -> None:
    needed = statistics.images_to_agree(agreed, n, limit)
    assert needed is not None
    share = agreed / n

    def settled(images: int) -> bool:
        ends = binomtest(round(share * images), images).proportion_ci(0.95, method="exact")
        return ends.low >= limit or ends.high < limit

    assert settled(round(1.2 * needed))
    assert not settled(round(0.8 * needed))


def test_no_number_of_images_settles_an_agreement_at_its_limit() -> None:
    assert statistics.images_to_agree(90, 100, 0.9) is None


def test_mcnemar_of_a_known_flip_table() -> None:
    # 1 against 9: twice the chance of at most one head in ten tosses.
    assert statistics.mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert statistics.mcnemar(9, 1) == statistics.mcnemar(1, 9)
    assert statistics.mcnemar(5, 5) == 1.0
    assert statistics.mcnemar(0, 0) == 1.0


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (3, 1), (30, 42), (0, 5)])
def test_the_paired_interval_is_walds_of_images_with_half_a_one_more_in_each_cell(lost: int, won: int) -> None:
    changes, weights = np.array([1.0, -1.0, 0.0]), np.array([lost + 0.5, won + 0.5, 400 - lost - won + 1])
    mean = np.average(changes, weights=weights)
    reach = norm.ppf(0.975) * np.sqrt(np.average((changes - mean) ** 2, weights=weights) / 402)
    assert paired_interval(lost, won, 400) == pytest.approx((mean - reach, mean + reach))

    reference, candidate = answers(400, lost, won, 300)
    labels = np.zeros(400, np.int64)
    gate = parity.paired_drop(logits_for(~reference * 1, 2), logits_for(~candidate * 1, 2), labels)
    assert (gate.low, gate.high) == pytest.approx((mean - reach, mean + reach))
    assert PairedDrop.of(reference, candidate) == PairedDrop(400, lost, won)


def test_the_paired_interval_stays_within_what_a_drop_can_be() -> None:
    assert paired_interval(3, 0, 3)[1] == 1.0
    assert paired_interval(0, 3, 3)[0] == -1.0


def test_the_paired_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(500, [0.05, 0.03, 0.92], size=2000)
    ends = [paired_interval(lost, won, 500) for lost, won, _ in drawn.tolist()]
    covered = np.mean([low <= 0.02 <= high for low, high in ends])
    assert 0.935 <= covered <= 0.97


def test_the_bootstrap_is_that_of_drawing_images() -> None:
    reference, candidate = answers(200, 14, 5, 150)
    difference = reference.astype(int) - candidate.astype(int)
    generator = np.random.default_rng(1)
    slow = [generator.choice(difference, 200).mean() for _ in range(20_000)]
    value, low, high = statistics.paired_bootstrap(PairedDrop.of(reference, candidate))
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
    drop = PairedDrop(400, lost, won)

    def decided(n: int) -> bool:
        low, high = paired_interval(lost * n / 400, won * n / 400, n)
        return high <= limit or low > limit

    needed = statistics.images_to_decide(drop, limit)
    assert needed is not None
    assert decided(needed)
    assert needed == 400 or not decided(needed - 1)


def test_a_drop_that_equals_its_limit_is_never_decided() -> None:
    assert statistics.images_to_decide(PairedDrop(400, 12, 4), 0.02) is None


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
    assert rows[0].drop.value == pytest.approx(0.25)
    single = paired_interval(5, 0, 20)
    assert rows[0].low < single[0] < single[1] < rows[0].high
    assert statistics.joint_confidence(3) == pytest.approx(1 - 0.05 / 3)


def test_the_paired_t_test_is_students_by_hand() -> None:
    # Differences 1, 2, 3, 4: mean 2.5, s = sqrt(5/3), t = 2.5 / (s / 2) = sqrt(15); t(0.975, 3) = 3.182446 (tables).
    found = statistics.paired_t([0.0, 10.0, 20.0, 30.0], [1.0, 12.0, 23.0, 34.0])
    assert found
    reach = 3.182446 * math.sqrt(5 / 3) / 2
    assert found.difference == pytest.approx((2.5, 2.5 - reach, 2.5 + reach), rel=1e-6)
    assert found.p == pytest.approx(2 * t.sf(math.sqrt(15), 3))


def test_the_paired_t_test_is_that_of_scipy_and_its_sign_is_the_candidates() -> None:
    generator = np.random.default_rng(1)
    reference = generator.normal(0.7, 0.01, 5)
    candidate = reference + generator.normal(0.004, 0.003, 5)
    found = statistics.paired_t(reference.tolist(), candidate.tolist())
    expected = ttest_rel(candidate, reference)
    ends = expected.confidence_interval(0.95)
    assert found
    assert found.difference == pytest.approx((np.mean(candidate - reference), ends.low, ends.high))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.difference.value > 0


def test_the_paired_t_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(0)
    drawn = generator.normal(0.01, 0.005, (2000, 3))
    found = [statistics.paired_t([0.0] * 3, row.tolist()) for row in drawn]
    assert 0.935 <= np.mean([one.difference.low <= 0.01 <= one.difference.high for one in found if one]) <= 0.965


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ([], []),
        ([0.5], [0.6]),
        ([0.5, 0.6], [0.5, 0.6]),
        ([0.1, 0.2, 0.7], [0.2, 0.3, 0.8]),  # 0.1 each, but for rounding
    ],
)
def test_one_pair_or_equal_differences_test_nothing(reference: list[float], candidate: list[float]) -> None:
    assert statistics.paired_t(reference, candidate) is None


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([], []),
        ([0.03], [0.03]),
        # Holm by hand: 4 × 0.005, 3 × 0.01, then 2 × 0.03 and 1 × 0.04, which may not be below the one before it.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9, 0.4], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_by_hand(p_values: list[float], expected: list[float]) -> None:
    assert statistics.holm(p_values) == pytest.approx(expected)


def test_holm_holds_the_rate_of_any_false_alarm() -> None:
    drawn = np.random.default_rng(0).uniform(size=(4000, 5))
    assert 0.04 <= np.mean([min(statistics.holm(row.tolist())) < 0.05 for row in drawn]) <= 0.06
