"""The loop on small models: what it reports, what it leaves alone, and that it resumes to the same bits."""

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress import recipe
from compress.losses.objective import Means, Objective
from compress.system.errors import DivergedError, Interrupted
from compress.training.batch_rows import epoch_order
from compress.training.divergence import DivergenceWatch
from compress.training.evaluate import accuracy, images_of_a_pass, logits_of
from compress.training.metrics import read_metrics
from tests.helpers.networks import equal, network
from tests.helpers.training import repeatable_metrics, run, splits, stop_after, trained

NO_AUGMENT = recipe.Augment(crop=0, flip=False)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adamw", "ema": 0.9, "lr": 0.003, "clip_grad": 1.0},
        {"precision": "fp32", "schedule": "step", "step_epochs": 1.0},
    ],
)
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_an_interrupted_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], stop: int
) -> None:
    whole = run(tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(Interrupted) as caught:
            run(tmp_path / "parts", **options)
    assert caught.value.code == 143
    resumed = run(tmp_path / "parts", **options)
    assert equal(whole, resumed)
    lines = repeatable_metrics(tmp_path / "parts")
    assert lines == repeatable_metrics(tmp_path / "whole")
    assert [line["epoch"] for line in lines] == [0, 1, 2]


def test_a_run_that_is_extended_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    run(tmp_path, epochs=2)
    run(tmp_path, epochs=3)
    assert [line["epoch"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]


def test_metrics_hold_what_the_contract_names(tmp_path: Path) -> None:
    run(tmp_path, method="ka+dtd")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    expected = {"phase", "epoch", "loss", "kd", "ce", "eval_top1", "images_per_s", "seconds", "lr", "adjusted"}
    expected |= {"temperature_min", "temperature_mean", "temperature_max", "temperature_floored", "peak_memory_mb"}
    for line in lines:
        assert line.keys() >= expected
        assert line["temperature_min"] <= line["temperature_mean"] <= line["temperature_max"]
        assert line["images_per_s"] * line["seconds"] == pytest.approx(3 * 16)  # steps of an epoch, images of a step
    run(tmp_path / "ce", method="ce")
    assert "kd" not in read_metrics(tmp_path / "ce" / "metrics.jsonl")[0]


def test_no_epoch_is_said_to_take_longer_than_all_of_them(tmp_path: Path) -> None:
    began = time.perf_counter()
    run(tmp_path, method="ce", epochs=3)
    elapsed = time.perf_counter() - began
    assert 0 < sum(line["seconds"] for line in read_metrics(tmp_path / "metrics.jsonl")) <= elapsed


def test_the_teacher_is_bit_identical_after_training_and_the_student_in_train_mode_within(tmp_path: Path) -> None:
    teacher = network(2)
    teacher.train()  # handed over in the wrong mode
    before = copy.deepcopy(teacher)
    student = network(1)
    modes: list[bool] = []
    teacher_modes: list[bool] = []
    student[0].register_forward_pre_hook(lambda module, _: modes.append(module.training))
    teacher.register_forward_pre_hook(lambda module, _: teacher_modes.append(module.training))
    run(tmp_path, teacher=teacher, model=student, epochs=2)
    assert equal(before, teacher)
    assert len(teacher_modes) >= 6
    assert not any(teacher_modes)
    # A look at the time a step takes (2), then for each epoch 3 steps in train mode and an evaluation in eval mode.
    assert modes == [True] * 2 + ([True] * 3 + [False]) * 2


def test_one_step_of_plain_kd_is_the_textbook_step(tmp_path: Path) -> None:
    """Against torch's own SGD and kl_div, written out."""
    data = splits(16)
    student, teacher = network(1), network(2).eval()
    reference = copy.deepcopy(student)
    settings = recipe.TrainSettings.model_validate(
        {"epochs": 1, "batch_size": 16, "lr": 0.1, "precision": "fp32", "schedule": "constant", "weight_decay": 0.0}
    )
    result = trained(
        student,
        splits=data,
        teacher=teacher,
        objective=Objective.of(recipe.Supervision(method="kd", temperature=3.0, alpha=0.7), label_smoothing=0.0),
        settings=settings,
        augment=NO_AUGMENT,
        epochs=1,
        folder=tmp_path,
        provenance={},
    )
    images = ((data.train.images / 255 - 0.4) / 0.2).permute(0, 3, 1, 2)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    logits = reference.train()(images)
    kd = F.kl_div(
        F.log_softmax(logits / 3, 1), F.log_softmax(teacher(images) / 3, 1), reduction="batchmean", log_target=True
    )
    (0.7 * 9 * kd + 0.3 * F.cross_entropy(logits, data.train.labels)).backward()
    optimizer.step()
    for mine, theirs in zip(result.state_dict().values(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_training_learns_what_can_be_learned(tmp_path: Path) -> None:
    run(tmp_path, model=network(1, channels=16), method="ce", epochs=60)
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert last["eval_top1"] >= 0.95
    assert last["loss"] < 0.5


class FailingTeacher(nn.Module):
    """Its logits are not finite from the given call on."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.inner, self.calls = network(2), calls

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls -= 1
        return self.inner(images) * (torch.nan if self.calls < 0 else 1.0)


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"optimizer": "adamw", "lr": 0.001}])
def test_a_loss_that_is_not_finite_is_found_before_the_step(tmp_path: Path, options: dict[str, Any]) -> None:
    student = network(1)
    # Its calls: 3 while it is made cheap, 2 for the estimate, 3 in the first epoch, 1 in the second.
    with pytest.raises(DivergedError) as caught:
        run(tmp_path / "bad", model=student, teacher=FailingTeacher(3 + 2 + 3 + 1), **options)
    assert caught.value.code == 5
    assert "epoch 2, step 2: kd is nan" in str(caught.value)
    assert all(value.isfinite().all() for value in student.parameters())
    assert len(list(tmp_path.glob("bad/checkpoints/*.safetensors"))) == 1  # that of the first epoch


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_an_absurd_learning_rate_leaves_nothing_that_is_not_finite_on_disk(tmp_path: Path, precision: str) -> None:
    with pytest.raises(DivergedError):
        run(tmp_path, lr=1e30, precision=precision)
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize("part", ["kd", "ce", "gradient"])
def test_the_part_that_is_not_finite_is_named(part: str) -> None:
    watch = DivergenceWatch(torch.device("cpu"), steps=4)
    good = {"kd": torch.tensor(1.0), "ce": torch.tensor(1.0), "loss": torch.tensor(1.0)}
    watch.check(good, torch.tensor(1.0))
    bad = {**good, **({part: torch.tensor(torch.nan), "loss": torch.tensor(torch.nan)} if part != "gradient" else {})}
    assert watch.check(bad, torch.tensor(torch.inf if part == "gradient" else 1.0)).item() == 1
    assert watch.check(good, torch.tensor(1.0)).item() == 1  # the flag stays up
    with pytest.raises(DivergedError, match=rf"epoch 3, step 6: (the )?{part} is"):
        watch.raise_if_diverged("student", epoch=2)


@pytest.mark.parametrize("terms", [(), ("fitnet",)])
def test_where_terms_may_be_the_cause_their_weights_are_named(terms: tuple[str, ...]) -> None:
    watch = DivergenceWatch(torch.device("cpu"), terms=terms)
    watch.check({"loss": torch.tensor(torch.nan)}, torch.tensor(1.0))
    with pytest.raises(DivergedError) as caught:
        watch.raise_if_diverged("student", epoch=0)
    assert ("the weights of supervision.terms" in str(caught.value)) is bool(terms)


def test_batches_cover_every_image_and_a_small_set_makes_one_batch(tmp_path: Path) -> None:
    order = epoch_order(50, seed=1, epoch=0)
    assert sorted(order.tolist()) == list(range(50))
    assert not torch.equal(order, epoch_order(50, seed=1, epoch=1))
    run(tmp_path, batch_size=1000, epochs=1)


def test_zero_epochs_return_the_model_as_it_was(tmp_path: Path) -> None:
    model = network(1)
    before = copy.deepcopy(model)
    assert equal(run(tmp_path, model=model, epochs=0), before)


@pytest.mark.slow
def test_compiled_training_agrees_with_eager(tmp_path: Path) -> None:
    eager = run(tmp_path / "eager", model=network(1), precision="fp32")
    compiled = run(tmp_path / "compiled", model=network(1), precision="fp32", compile=True)
    for mine, theirs in zip(compiled.state_dict().values(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


def test_accuracy_and_balanced_accuracy_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=generator)
    labels = torch.randint(0, 3, (200,), generator=generator)  # two classes never occur
    result = accuracy(logits, labels)
    predicted = logits.argmax(1)
    assert result.top1 == pytest.approx(accuracy_score(labels, predicted))
    recall = [((predicted == c) & (labels == c)).sum().item() / (labels == c).sum().item() for c in range(3)]
    assert result.balanced_top1 == pytest.approx(sum(recall) / 3)
    within = predicted.clamp(max=2)
    assert accuracy(F.one_hot(within, 5).float(), labels).balanced_top1 == pytest.approx(
        balanced_accuracy_score(labels, within)
    )


def test_evaluation_covers_every_image_in_order_and_restores_the_mode() -> None:
    data, model = splits(50).train, network(1)
    model.train()
    logits = logits_of(model, data)
    assert model.training
    images = ((data.images / 255 - 0.4) / 0.2).permute(0, 3, 1, 2)
    torch.testing.assert_close(logits, model.eval()(images), atol=1e-5, rtol=1e-4)


def test_means_are_means_and_extremes_are_extremes() -> None:
    means = Means()
    for value in (1.0, 4.0, 1.0):
        means.add({"loss": torch.tensor(value), "t_min": torch.tensor(value), "t_max": torch.tensor(value)})
    assert means.read() == {"loss": 2.0, "t_min": 1.0, "t_max": 4.0}


@pytest.mark.parametrize(("size", "count"), [(8, 512), (64, 512), (224, 41), (384, 14), (4000, 1)])
def test_large_images_go_through_a_model_in_smaller_batches(size: int, count: int) -> None:
    """So many that a pass has no more pixels than 512 images of 64 x 64."""
    assert images_of_a_pass(size**2) == count
