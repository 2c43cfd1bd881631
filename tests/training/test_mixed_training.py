"""Training with mixed pictures and pictures without labels: both models see the same, and the bits are repeatable."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import recipe
from compress.data.augment import Images
from compress.losses.objective import Objective
from compress.system.errors import Interrupted
from compress.system.interrupts import Flag
from compress.training.accumulation import gradients
from compress.training.batches import Batch, Batches, batches_and_teacher
from compress.training.memo import Memo
from compress.training.metrics import read_metrics
from compress.training.state import Training, prepare
from compress.training.teacher_cache import TeacherViews
from tests.helpers.networks import Exact, Staged, equal, network
from tests.helpers.terms import STAGED_TERMS, supervision
from tests.helpers.training import newest, repeatable_metrics, run, splits, stop_after, without_labels
from tests.helpers.two_processes import in_two_processes

MIXED = recipe.Augment(crop=1, flip=True, erase=0.5, mixup=0.8, cutmix=1.0)
ALL: dict[str, Any] = {"augment": MIXED, "unlabeled_share": 0.5, "method": "ka+dtd"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))


def test_the_student_and_the_teacher_see_the_mixed_pictures_and_labels_follow() -> None:
    data = without_labels(splits(), 30).train
    mixed = MIXED.model_copy(update={"crop": 0})  # black borders would be equal in both pictures
    seen: list[Tensor] = []

    def teacher(images: Tensor) -> Tensor:
        seen.append(images)
        return images.mean((2, 3))

    batch = Batches(data, mixed, batch_size=16, seed=7, teacher=teacher, unlabeled_share=0.5).get(2, 0, Flag())
    plain = mixed.model_copy(update={"mixup": 0.0, "cutmix": 0.0})
    before = Batches(data, plain, batch_size=16, seed=7, unlabeled_share=0.5).get(2, 0, Flag())
    assert batch.mixed is not None
    assert seen[0] is batch.images
    assert torch.equal(batch.labels, before.labels)
    assert torch.equal(batch.mixed.labels, torch.cat([before.labels[:8].flip(0), before.labels[8:].flip(0)]))
    assert (batch.labels >= 0).tolist() == [True] * 8 + [False] * 8
    others = torch.cat([before.images[:8].flip(0), before.images[8:].flip(0)])
    share = batch.mixed.share.view(-1, 1, 1, 1)
    blend = share * before.images + (1 - share) * others
    for image, own, other, average, part in zip(batch.images, before.images, others, blend, share, strict=True):
        same, pasted = (image == own).all(0), (image == other).all(0)
        if (same | pasted).all():  # CutMix
            assert same.float().mean().item() == pytest.approx(part.item(), abs=1e-5)
        else:
            torch.testing.assert_close(image, average, rtol=1e-5, atol=1e-5)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.images = network(2), 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        with torch.no_grad():
            return self.inner.eval()(images)


def test_kept_logits_are_the_teachers_for_the_mixed_pictures_of_the_batch() -> None:
    data, teacher = splits().train, Counting()
    views = TeacherViews(count=2, samples=50, of_a_pass=64, device=torch.device("cpu"), determined_by={})
    source = Batches(data, MIXED, batch_size=16, seed=7, teacher=teacher, views=views)
    again: list[Batch] = []
    for epoch in range(4):
        for step in range(3):
            batch = source.get(epoch, step, Flag())
            torch.testing.assert_close(batch.teacher_logits, teacher.inner(batch.images), rtol=2**-9, atol=1e-3)
            again.append(batch)
    assert teacher.images == 2 * 50
    assert torch.equal(again[0].images, again[6].images)
    assert not torch.equal(again[0].images, again[3].images)


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = without_labels(splits(), 30)
    whole = run(tmp_path / "whole", data=data, **ALL)
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", data=data, **ALL)
    assert equal(whole, run(tmp_path / "parts", data=data, **ALL))
    assert repeatable_metrics(tmp_path / "whole") == repeatable_metrics(tmp_path / "parts")
    assert all(torch.equal(value, newest(tmp_path / "parts")[key]) for key, value in newest(tmp_path / "whole").items())


def test_without_a_share_pictures_without_labels_change_nothing(tmp_path: Path) -> None:
    """As for a teacher that is trained by labels."""
    plain = run(tmp_path / "plain", method="ce")
    assert equal(plain, run(tmp_path / "more", method="ce", data=without_labels(splits(), 30)))
    assert not equal(
        run(tmp_path / "kd"), run(tmp_path / "used", data=without_labels(splits(), 30), unlabeled_share=0.5)
    )


def test_the_accuracy_in_training_is_of_rows_with_labels(tmp_path: Path) -> None:
    run(tmp_path, data=without_labels(splits(), 30), model=network(1, channels=16), epochs=20, unlabeled_share=0.75)
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["train_top1"] > 0.4  # of all rows it is at most 0.25


def step(data: Images, method: str, parts: int, share: float) -> tuple[Training, dict[str, Tensor]]:
    settings = recipe.TrainSettings.model_validate({"batch_size": 16, "precision": "fp32", "grad_accumulation": parts})
    terms = [term for term in STAGED_TERMS if term["name"] in ("dkd", "fitnet")]
    objective = Objective.of(supervision(terms, method), label_smoothing=0.1)
    teacher = network(2, channels=12)
    batches, cheap = batches_and_teacher(
        *(data, teacher, objective, settings, MIXED, "student"), views=None, unlabeled_share=share, memo=Memo()
    )
    state = prepare(Exact(), batches, objective, settings, 1, "student", teacher=cheap)
    assert state.terms is not None
    state.terms.double()
    state.begin_training()
    batch = batches.get(0, 0, Flag())
    assert batch.teacher_logits is not None
    batch = replace(batch, teacher_logits=batches_logits(batch))
    values, _ = gradients(state, batch)
    return state, values


def batches_logits(batch: Batch) -> Tensor:
    """Rounded, since the teacher's float32 logits differ in the last bits between a batch and its parts."""
    assert batch.teacher_logits is not None
    return (batch.teacher_logits * 1024).round().double() / 1024


@pytest.mark.parametrize("method", ["ce", "kd", "ka-lsr", "ka+dtd"])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_step_of_parts_is_that_of_the_whole_batch(method: str, share: float) -> None:
    data = without_labels(splits(), 30).train
    (whole, expected), (parts, found) = (step(data, method, count, share) for count in (1, 5))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    for one, other in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-7)


def in_one(folder: Path) -> dict[str, Tensor]:
    data = without_labels(splits(), 30)
    return run(folder, model=Staged(1, statistics=False), data=data, lr=0.02, precision="fp32", **ALL).state_dict()


def whole_and_stopped(folder: Path) -> tuple[dict[str, Tensor], bool]:
    """The weights of a training, and whether one that SIGTERM stops ends at the same bits."""
    expected = in_one(folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 8, rank=1)
        with pytest.raises(Interrupted):
            in_one(folder / "resumed")
    resumed = in_one(folder / "resumed")
    return expected, all(torch.equal(value, resumed[key]) for key, value in expected.items())


@pytest.mark.slow
def test_two_processes_end_at_the_weights_and_metrics_of_one_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    (first, stopped), (second, _) = in_two_processes(whole_and_stopped, tmp_path)
    assert stopped
    alone = in_one(tmp_path / "one")
    for key, value in alone.items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], value, atol=2e-5, rtol=1e-3)
    for one, two in zip(repeatable_metrics(tmp_path / "one"), repeatable_metrics(tmp_path / "whole"), strict=True):
        assert one.pop("phase") == two.pop("phase")
        assert two == pytest.approx(one, rel=2e-3, abs=1e-4)


def test_trainings_in_turns_share_the_mixed_batches() -> None:
    memo, data, teacher = Memo(), splits().train, network(2)
    settings = recipe.TrainSettings.model_validate({"batch_size": 16})
    objective = Objective.of(supervision([], "kd"), label_smoothing=0.0)
    changed = MIXED.model_copy(update={"mixup": 0.1})
    one, two, other = (
        batches_and_teacher(data, teacher, objective, settings, augment, "student", views=None, memo=memo)[0]
        for augment in (MIXED, MIXED, changed)
    )
    assert one is two
    assert one is not other
