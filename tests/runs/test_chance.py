"""A teacher must know more than chance. The limits are quantiles of the binomial distribution, from its table."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom
from sklearn.metrics import accuracy_score, recall_score

from compress.recipe import Recipe, validate_recipe
from compress.runs.checks import _draws, check_above_chance
from compress.runs.records import TeacherRecord
from compress.system.errors import InputError


def recipe(method: str = "kd", terms: str = "") -> Recipe:
    supervision: dict[str, Any] = {"method": method, "terms": [{"name": terms}] if terms else []}
    models = {"teacher": {"model": "resnet18"}, "student": {"model": "resnet10t"}}
    return validate_recipe({"data": {"name": "digits"}, **models, "supervision": supervision})


def judged(labels: list[int], right: int, of: Recipe, source: str = "train", balanced: float | None = None) -> None:
    """Judges a teacher of so many right answers. Its balanced top-1 is blind chance where none is given."""
    dataset: Any = SimpleNamespace(eval_labels=np.array(labels), num_classes=len(set(labels)))
    balanced = 1 / len(set(labels)) if balanced is None else balanced
    top1 = right / len(labels)
    check_above_chance(TeacherRecord(source=source, sha256="", data="", top1=top1, balanced_top1=balanced), dataset, of)


def answered(labels: np.ndarray, answers: np.ndarray) -> bool:
    """Whether a teacher of those answers is accepted. Its accuracy is scikit-learn's."""
    right = accuracy_score(labels, answers, normalize=False)
    try:
        judged(labels.tolist(), int(right), recipe(), balanced=recall_score(labels, answers, average="macro"))
    except InputError:
        return False
    return True


@pytest.mark.parametrize(
    ("labels", "chance"), [(list(range(10)) * 20, 0.1), ([0] * 150 + [1, 2] * 25, 0.75), ([0, 1] * 50, 0.5)]
)
def test_chance_must_not_explain_the_right_answers(labels: list[int], chance: float) -> None:
    images = len(labels)
    fewest = next(right for right in range(images) if binom.sf(right - 1, images, chance) < 0.01)
    judged(labels, fewest, recipe())
    judged(labels, images, recipe())
    with pytest.raises(InputError, match="is not above chance"):
        judged(labels, fewest - 1, recipe())


@pytest.mark.parametrize(("images", "classes"), [(18, 3), (99, 2), (60, 10)])
def test_of_few_images_a_checkpoint_must_be_right_once(images: int, classes: int) -> None:
    labels = [number % classes for number in range(images)]
    judged(labels, 1, recipe(), "checkpoint")
    judged(labels[:4], 0, recipe(), "checkpoint")
    for source in ("train", "module"):
        judged(labels, 0, recipe(), source)
    with pytest.raises(InputError, match="is not above chance"):
        judged(labels, 0, recipe(), "checkpoint")


def test_few_images_and_methods_without_a_teacher_are_not_judged() -> None:
    judged([0, 1] * 49 + [1], 50, recipe())
    with pytest.raises(InputError):
        judged([0, 1] * 50, 0, recipe())
    judged([0, 1] * 50, 0, recipe("ce"))
    with pytest.raises(InputError):
        judged([0, 1] * 50, 0, recipe("ce", "dkd"))


def labelled(*counts: int) -> np.ndarray:
    """Labels of classes with so many images."""
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ((291, 9), (288, 6)),  # 98.0 % top-1, where 97 % are of one class, and 82.8 % balanced
        ((970, 30), (880, 24)),  # 90.4 % top-1, less than whoever gives one class: trained with class weights
        ((400, 40, 4), (370, 30, 3)),
    ],
)
def test_a_good_teacher_of_rare_classes_is_accepted(counts: tuple[int, ...], found: tuple[int, ...]) -> None:
    """Of each class so many are found, and the rest are taken for the next class."""
    labels = labelled(*counts)
    answers = np.concatenate(
        [np.where(np.arange(count) < hits, label, (label + 1) % len(counts))
         for label, (count, hits) in enumerate(zip(counts, found, strict=True))]
    )  # fmt: skip
    images, most = len(labels), max(counts)
    assert accuracy_score(labels, answers) < binom.isf(0.01, images, most / images) / images  # top-1 alone says nothing
    assert answered(labels, answers)


@pytest.mark.parametrize("counts", [(100, 100), (291, 9), (970, 30), (198, 2), (400, 40, 4), (*[100] * 20, 1, 2, 3)])
@pytest.mark.parametrize("of_the_most", [1.0, 0.97, 0.7, 0.5])
def test_who_guesses_is_refused_with_any_odds(counts: tuple[int, ...], of_the_most: float) -> None:
    """Answers that do not depend on the picture: the most frequent class with those odds, else any of the others."""
    draws, labels, others = np.random.default_rng(0), labelled(*counts), len(counts) - 1
    odds = [of_the_most, *[(1 - of_the_most) / others] * others]
    guesses = draws.choice(len(counts), size=(200, len(labels)), p=odds)
    accepted = sum(answered(labels, answers) for answers in guesses)
    assert accepted <= 8  # 4 %: each of two tests errs in 1 %, and 200 draws by chance


@pytest.mark.parametrize("counts", [(291, 9), (7, 7, 7), (1, 2, 50, 900), (*[100] * 20, 1, 2, 3)])
def test_blind_answers_vary_most_with_the_odds_that_an_optimiser_finds(counts: tuple[int, ...]) -> None:
    classes = len(counts)
    found = minimize(
        lambda odds: -np.sum(odds * (1 - odds) / counts),
        np.full(classes, 1 / classes),
        bounds=[(0, 1)] * classes,
        constraints={"type": "eq", "fun": lambda odds: odds.sum() - 1},
        options={"maxiter": 2000, "ftol": 1e-12},
    )
    variance = -found.fun / classes**2
    assert _draws(np.array(counts)) == pytest.approx((1 / classes) * (1 - 1 / classes) / variance, rel=1e-4)
