"""The loop with terms: projections that are trained and saved, the same bits after a signal, and what is left alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress import recipe
from compress.losses.objective import Objective
from compress.system.errors import DivergedError, Interrupted, UsageError
from compress.system.seeds import stream
from compress.training.memo import Memo
from compress.training.metrics import read_metrics
from tests.helpers.networks import equal, network
from tests.helpers.terms import ALL, FITNET, make, supervision
from tests.helpers.training import newest, repeatable_metrics, run, splits, stop_after, trained


def test_the_epoch_has_the_steps_done_as_its_fraction(tmp_path: Path) -> None:
    """Three steps an epoch: a term that rises over the first has weights 0, 1/3 and 2/3 there, then 1."""
    run(tmp_path, [{**FITNET, "schedule": {"warmup": 1.0}}], method="ce", epochs=2, schedule="constant", lr=1e-12)
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert second["loss"] == pytest.approx(second["ce"] + second["fitnet"], rel=1e-4)
    assert first["loss"] == pytest.approx(first["ce"] + first["fitnet"] / 3, rel=0.02)


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "lr": 0.003, "ema": 0.9}, {"precision": "bf16"}])
def test_a_term_of_no_weight_leaves_every_bit_of_the_student_alone(tmp_path: Path, options: dict[str, Any]) -> None:
    """So the initial weights, the order of the data, augmentation and dropout are those of a run without it."""
    teacher = network(2, channels=12)
    teacher[1] = nn.Identity()  # with nothing to fold: with terms a teacher stays whole, and rounds otherwise
    plain = run(tmp_path / "plain", [], teacher=teacher, **options)
    with_terms = run(tmp_path / "terms", [{**term, "weight": 0.0} for term in ALL], teacher=teacher, **options)
    assert equal(plain, with_terms)
    assert not equal(plain, run(tmp_path / "weighted", [FITNET], teacher=teacher, **options))


def test_a_projection_is_trained_with_the_student_s_learning_rate_and_weight_decay(tmp_path: Path) -> None:
    """One step of SGD, written out."""
    student, teacher = network(1), network(2, channels=12).eval()
    options = {"batch_size": 50, "precision": "fp32", "schedule": "constant", "momentum": 0.0, "nesterov": False}
    settings = recipe.TrainSettings.model_validate({"epochs": 1, "lr": 0.1, "weight_decay": 0.01, "seed": 3, **options})
    before = make([FITNET], student, teacher, seed=stream(3, "student", "terms")).projections["fitnet"]
    images = ((splits().train.images / 255 - 0.4) / 0.2).permute(0, 3, 1, 2)
    loss = F.mse_loss(before(student.train()[:3](images)), teacher[:3](images))
    slopes = torch.autograd.grad(loss, list(before.parameters()))
    trained(
        network(1),
        splits=splits(),
        teacher=teacher,
        objective=Objective.of(supervision([FITNET], "ce"), label_smoothing=0.0),
        settings=settings,
        augment=recipe.Augment(crop=0, flip=False),
        epochs=1,
        folder=tmp_path,
        provenance={},
    )
    found = newest(tmp_path)
    weight = before.weight - 0.1 * (slopes[0] + 0.01 * before.weight)
    torch.testing.assert_close(found["terms.projections.fitnet.weight"], weight.detach(), atol=1e-5, rtol=1e-4)
    bias = before.bias - 0.1 * slopes[1]  # vectors are not decayed, as the student's
    torch.testing.assert_close(found["terms.projections.fitnet.bias"], bias.detach(), atol=1e-5, rtol=1e-4)


def test_the_norm_that_is_clipped_is_that_of_student_and_projections(tmp_path: Path) -> None:
    options = {"clip_grad": 1e-9, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "epochs": 1}
    run(tmp_path, [{**FITNET, "weight": 100.0}], method="ce", **options)
    student, teacher = network(1, dropout=0.1), network(2, channels=12)
    before = make([FITNET], student, teacher, seed=stream(0, "student", "terms")).state_dict()
    for name, value in before.items():
        torch.testing.assert_close(newest(tmp_path)[f"terms.{name}"], value, atol=1e-9, rtol=0)


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "ema": 0.9, "lr": 0.003, "clip_grad": 1.0}])
@pytest.mark.parametrize("stop", [1, 5])
def test_an_interrupted_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], stop: int
) -> None:
    scheduled = [{**term, "schedule": {"warmup": 1.5}} for term in ALL]
    whole = run(tmp_path / "whole", scheduled, **options)
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", scheduled, **options)
    resumed = run(tmp_path / "parts", scheduled, **options)
    assert equal(whole, resumed)
    one, other = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert one.keys() == other.keys()
    assert any(name.startswith("terms.") for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert repeatable_metrics(tmp_path / "parts") == repeatable_metrics(tmp_path / "whole")


def test_what_is_returned_is_the_student_alone_without_hooks(tmp_path: Path) -> None:
    for options in ({}, {"ema": 0.9}):
        trained = run(tmp_path / str(len(options)), ALL, **options)
        assert trained.state_dict().keys() == network(1).state_dict().keys()
        assert not any(module._forward_hooks for module in trained.modules())


def test_metrics_hold_each_term_by_name(tmp_path: Path) -> None:
    run(tmp_path, ALL, method="ce")
    for line in read_metrics(tmp_path / "metrics.jsonl"):
        names = ("fitnet", "attention_transfer", "neuron_selectivity", "similarity_preserving", "relational", "dkd")
        assert line.keys() >= {"ce", "loss", *names, "dist", "fitnet_2"}
        assert "kd" not in line
        weights = {"dist": 0.1, "fitnet_2": 0.5}
        parts = {"ce", *names, "dist", "fitnet_2"}
        assert line["loss"] == pytest.approx(sum(weights.get(name, 1.0) * line[name] for name in parts), rel=1e-4)


def test_a_feature_method_alone_learns_from_its_teacher(tmp_path: Path) -> None:
    run(tmp_path, [{**FITNET, "weight": 10.0}], method="ce", epochs=20, schedule="constant")
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert lines[-1]["fitnet"] < 0.5 * lines[0]["fitnet"]


class InfiniteFeatures(nn.Module):
    """A map that is not finite from the given call on; the logits stay finite."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.inner, self.map, self.calls = network(2), nn.Identity(), calls

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls -= 1
        self.map(self.inner[:3](images) * (torch.inf if self.calls < 0 else 1.0))
        return self.inner(images)


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_a_term_that_is_not_finite_is_found_before_the_step_and_named(tmp_path: Path, weight: float) -> None:
    student = network(1)
    with pytest.raises(DivergedError, match=r"epoch 2, step 2: fitnet is (inf|nan)"):
        run(
            tmp_path,
            [{"name": "fitnet", "student": "2", "teacher": "map", "weight": weight}],
            model=student,
            teacher=InfiniteFeatures(2 + 2 + 3 + 1),  # looks at logits and shapes, and 2 for the estimate of time
        )
    assert all(value.isfinite().all() for value in student.parameters())


def test_a_feature_that_does_not_exist_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    for role in ("student", "teacher"):
        with pytest.raises(UsageError, match=f"the {role} has no feature '22'. Nearest: 2"):
            run(tmp_path, [{**FITNET, role: "22"}])
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.slow
def test_a_model_that_was_compiled_before_anybody_looked_inside_is_looked_into(tmp_path: Path) -> None:
    """Also by a second student in another place."""
    memo, teacher = Memo(), network(2, channels=12)
    for number, terms in enumerate(([], [FITNET], [{"name": "relational", "student": "3", "teacher": "3"}])):
        folder = tmp_path / str(number)
        run(folder, terms, model=network(1), teacher=teacher, memo=memo, compile=True, epochs=1)
        (line,) = read_metrics(folder / "metrics.jsonl")
        assert line[terms[0]["name"]] > 0 if terms else "fitnet" not in line


@pytest.mark.slow
def test_compiled_training_agrees_with_eager(tmp_path: Path) -> None:
    run(tmp_path / "eager", ALL, model=network(1), precision="fp32")
    run(tmp_path / "compiled", ALL, model=network(1), precision="fp32", compile=True)
    eager, compiled = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("eager", "compiled"))
    for one, other in zip(eager, compiled, strict=True):
        for name in ("loss", "fitnet", "relational", "dkd", "fitnet_2"):
            assert other[name] == pytest.approx(one[name], rel=1e-2), name
