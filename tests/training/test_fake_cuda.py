"""No step on a GPU copies from the host, mixes devices or waits: every method, term, precision and augmentation.

A step is the real one (`run_epoch`) on torch's fake `cuda` tensors, which need no GPU. Only the order of an epoch is
copied, once.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from compress import recipe
from compress.data import StreamedImages
from compress.data.decode import Square
from compress.data.picture_files import PixelPictures
from compress.distributed.agreement import Agreement
from compress.losses import Objective
from compress.models.inference import InferenceTeacher
from compress.models.wrappers import Adapted, Ensemble
from compress.recipe.methods import METHODS
from compress.system.console import Bar
from compress.system.interrupts import Flag
from compress.training.batches import Batches
from compress.training.evaluate import logits_of
from compress.training.loop import finish, run_epoch
from compress.training.state import Training, prepare
from tests.helpers.fake_cuda import CUDA, Copies, fake_cuda, fake_splits
from tests.helpers.networks import Staged
from tests.helpers.terms import supervision

FEATURES = {"student": "layer1", "teacher": "layer2"}
TERMS: list[dict[str, Any]] = [
    *({"name": name, **FEATURES} for name in (
        "fitnet", "attention_transfer", "neuron_selectivity", "similarity_preserving", "relational"
    )),
    *({"name": name} for name in ("dkd", "dist", "adversarial")),
]  # fmt: skip
AUGMENT = {"crop": 1, "flip": True, "scale": 0.5, "erase": 0.5, "erase_mode": "rand"}


def prepared(
    terms: list[dict[str, Any]], method: str, augment: dict[str, Any], train: Any = None, **options: Any
) -> Training:
    """A student of a fake teacher, before its first step."""
    with CUDA:
        student, teacher = Staged(1, channels=8), Staged(2, channels=12)
    settings = recipe.TrainSettings.model_validate({"epochs": 2, "batch_size": 16, "precision": "fp32", **options})
    objective = Objective.of(supervision(terms, method), label_smoothing=settings.label_smoothing)
    light = None
    if objective.supervised_by_teacher:
        precision = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        light = InferenceTeacher(teacher, precision, centred=True)
    batches = Batches(
        train or fake_splits().train, recipe.Augment.model_validate(augment), batch_size=16, seed=1, teacher=light,
        parts=settings.grad_accumulation,
    )  # fmt: skip
    return prepare(student, batches, objective, settings, 2, "student", teacher=light)


def copies_of_an_epoch(state: Training, copies: Copies) -> list[str]:
    copies.found.clear()
    finish(run_epoch(state, Agreement(Flag()), Bar(), lambda: None))
    assert state.step == state.batches.steps_per_epoch == 2
    state.world.follow_leader(state.kept)
    logits_of(state.kept, fake_splits().evaluation, precision=state.settings.precision)
    return copies.found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_stays_on_the_gpu(monkeypatch: pytest.MonkeyPatch, method: str, precision: str) -> None:
    with fake_cuda(monkeypatch) as copies:
        state = prepared([], method, AUGMENT, precision=precision, ema=0.9, clip_grad=1.0, label_smoothing=0.1)
        made: set[torch.dtype] = set()
        state.model.get_submodule("fc").register_forward_hook(lambda module, _, logits: made.add(logits.dtype))
        assert copies_of_an_epoch(state, copies) == [copies.of_an_order]
        assert made == {torch.bfloat16 if precision == "bf16" else torch.float32}


@pytest.mark.parametrize(("method", "precision"), [("ce", "fp32"), ("ka+dtd", "bf16")])
@pytest.mark.parametrize("term", TERMS, ids=lambda term: term["name"])
def test_so_does_every_term(monkeypatch: pytest.MonkeyPatch, term: dict[str, Any], method: str, precision: str) -> None:
    with fake_cuda(monkeypatch) as copies:
        state = prepared([term], method, {}, precision=precision)
        assert copies_of_an_epoch(state, copies) == [copies.of_an_order]


@pytest.mark.parametrize(
    "options", [{"grad_accumulation": 2}, {"optimizer": "adamw", "schedule": "step"}, {"freeze": "layer1", "lr": 0.5}]
)
def test_so_do_other_ways_of_training(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    with fake_cuda(monkeypatch) as copies:
        state = prepared([{"name": "dkd"}], "kd", {"crop": 2}, **options)
        assert copies_of_an_epoch(state, copies) == [copies.of_an_order]


@pytest.mark.parametrize("augment", [{"mixup": 0.8}, {"cutmix": 1.0}, {"erase": 0.5, "erase_mode": "pixel"}])
def test_so_does_every_other_augmentation(monkeypatch: pytest.MonkeyPatch, augment: dict[str, Any]) -> None:
    """A table of the draws is kept on the GPU, and goes there once."""
    with fake_cuda(monkeypatch) as copies:
        state = prepared([], "ka+dtd", augment)
        assert len(copies_of_an_epoch(state, copies)) <= 2
        state.step, state.epoch = 0, 1
        assert copies_of_an_epoch(state, copies) == [copies.of_an_order]


def test_of_streamed_pictures_only_the_pictures_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their decoding, which happens on the host, is left out."""

    def decoded(self: StreamedImages, view: object, rows: Any) -> Iterator[Tensor]:
        return (torch.zeros(16, 8, 8, 3, dtype=torch.uint8) for _ in range(2))

    monkeypatch.setattr(StreamedImages, "_by_threads", decoded)
    monkeypatch.setattr(StreamedImages, "_fill", (0.4, 0.4, 0.4))
    files = PixelPictures(np.zeros((32, 8, 8, 3), dtype=np.uint8), Square(8))
    with fake_cuda(monkeypatch) as copies:
        images = fake_splits().train
        streamed = StreamedImages(files, images.labels, images.mean, images.std)
        state = prepared([], "ka+dtd", AUGMENT, train=streamed)
        found = copies_of_an_epoch(state, copies)
    assert sorted(found) == sorted(
        [copies.of_an_order, "aten._to_copy.default: cuda to cpu", *2 * [copies.of_an_order]]
    )


def test_so_do_an_ensemble_and_a_teacher_of_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda(monkeypatch) as copies:
        state = prepared([], "ka+dtd", AUGMENT)
        with CUDA:
            members = [Adapted(Staged(3), torch.ones(3), torch.zeros(3), 12), Staged(4)]
            state.batches.teacher = InferenceTeacher(Ensemble(members), torch.bfloat16, centred=True)
        assert copies_of_an_epoch(state, copies) == [copies.of_an_order]


@pytest.mark.parametrize("hidden", ["copy", "wait", "mix"])
def test_it_shows_what_is_hidden(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    def spoiled(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (images,) = inputs
        if hidden == "copy":
            return (images * torch.zeros(1).to(images.device),)
        if hidden == "wait":
            return (images * float(images.amax()),)
        return (images + torch.zeros(8),)

    with fake_cuda(monkeypatch) as copies:
        state = prepared([], "kd", {})
        state.model.register_forward_pre_hook(spoiled)
        if hidden == "wait":
            with pytest.raises(DataDependentOutputException, match="_local_scalar_dense"):
                copies_of_an_epoch(state, copies)
        elif hidden == "mix":
            with pytest.raises(RuntimeError, match=r"[Dd]evice"):
                copies_of_an_epoch(state, copies)
        else:  # 2 steps, 1 batch of evaluation
            assert len(copies_of_an_epoch(state, copies)) == 1 + 2 + 1
