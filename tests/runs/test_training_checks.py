"""Settings that a training cannot follow are refused before any teacher is trained; a run with all others ends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import _registry, build_model_with_cfg, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from compress import distill, load_recipe, load_student
from compress.system.errors import EXIT_INPUT, EXIT_USAGE, CompressError, InputError, UsageError
from compress.training.metrics import read_metrics

ENSEMBLE = "teacher.ensemble=[{model: resnet10t, args: {channels: [8, 8, 8, 16]}, train: {optimizer: adamm}}]"
ASSISTANT = "teacher.assistants=[{model: mobilenetv3_small_050}]"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.optimizer=adamm"], "train.optimizer: timm has no optimiser 'adamm'. Nearest: adam"),
        (["teacher.train={optimizer: kron}"], "teacher.train.optimizer: kron draws random numbers"),
        ([ENSEMBLE], "teacher.ensemble.0.train.optimizer: timm has no optimiser 'adamm'"),
        (["train.freeze=layr1"], "train.freeze: 'layr1' of ResNet is none of its modules. Nearest: layer1"),
        (
            ["train.freeze=layer1", ASSISTANT],
            "assistant 1, mobilenetv3_small_050: train.freeze: 'layer1' of MobileNetV3",
        ),
        (["train.freeze=fc"], "train.freeze: fc leaves nothing to train"),
        (["train.grad_accumulation=17"], "train.grad_accumulation: 16 images of a batch in a process cannot be"),
        (["teacher.train={grad_accumulation: 99}"], "teacher.train.grad_accumulation: 16 images of a batch"),
    ],
)
def test_what_a_training_cannot_do_is_refused_before_any_teacher_is_trained(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        distill(load_recipe(tiny_recipe, overrides=["train.batch_size=16", *overrides]))
    assert str(caught.value).startswith(message)
    assert caught.value.code == EXIT_USAGE
    assert not list(tmp_path.glob("runs/**/*.safetensors"))


class Student(nn.Module):
    def __init__(self, weight: float, *, in_training: float = 0.0) -> None:
        super().__init__()
        self.fc, self.in_training = nn.Linear(192, 3), in_training
        with torch.no_grad():
            self.fc.weight[0, 0] = weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.flatten(1)) + (self.in_training if self.training else 0.0)


class Statistics(nn.Module):
    """Of its BatchNorm a variance is no number, which shows in eval mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm2d(3), nn.Linear(192, 3)
        assert self.norm.running_var is not None
        self.norm.running_var[1] = float("nan")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(images).flatten(1))


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (Student(float("nan")), "the student's fc.weight is not finite"),
        (Student(float("inf")), "the student's fc.weight is not finite"),
        (Statistics(), "the student's logits are not finite"),
        (Student(0.0, in_training=float("nan")), "the student's logits are not finite in train mode"),
    ],
)
def test_a_student_that_is_not_finite_is_refused_before_any_teacher_is_trained(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: nn.Module, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        distill(load_recipe(tiny_recipe), student=student)
    assert str(caught.value).startswith(message)
    assert caught.value.code == EXIT_INPUT
    assert not list(tmp_path.glob("runs/**/*.safetensors"))


@pytest.mark.slow
def test_a_run_with_all_settings_of_fine_tuning_ends_and_keeps_what_is_frozen(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {
        "optimizer": "lamb", "lr": 0.004, "head_lr": 0.01, "layer_decay": 0.7, "freeze": "layer1",
        "freeze_epochs": 0.5, "grad_accumulation": 2, "epochs": 2, "quantize": "int8", "quantize_epochs": 1,
    }  # fmt: skip
    run = distill(load_recipe(tiny_recipe, overrides=[f"train.{key}={value}" for key, value in settings.items()]))
    assert run.manifest["status"] == "finished"
    lines = read_metrics(run.path / "metrics.jsonl")
    assert {line["phase"] for line in lines} == {"teacher", "student", "quantize"}
    plain = distill(load_recipe(tiny_recipe, overrides=["train.epochs=2", "train.freeze=layer1"]))
    student, other = (load_student(each).state_dict() for each in (run, plain))
    same = {name for name, value in student.items() if torch.equal(value, other[name])}
    stem = {name for name in student if name.startswith(("conv1", "bn1", "layer1"))}
    assert same >= stem  # both are as they were made
    assert not any(name.startswith(("layer4.", "fc.")) for name in same if name.endswith("weight"))


@pytest.fixture
def aux() -> Iterator[str]:
    """A model of timm that has auxiliary heads in train mode, as torchvision's GoogLeNet has."""

    class Aux(ResNet):
        def forward(self, x: torch.Tensor) -> Any:
            logits = super().forward(x)
            return (logits, logits) if self.training else logits

    def resnet_aux(pretrained: bool = False, **options: Any) -> Any:
        return build_model_with_cfg(Aux, "resnet_aux", False, block=BasicBlock, layers=(1, 1, 1, 1), **options)

    resnet_aux.__module__ = __name__
    register_model(resnet_aux)
    yield "resnet_aux"
    for known in (_registry._model_entrypoints, _registry._model_to_module):
        known.pop("resnet_aux", None)


@pytest.mark.parametrize(
    ("setting", "role"),
    [
        ("teacher={model: AUX}", "the teacher"),
        ("teacher.ensemble=[{model: AUX}]", "the teacher"),
        ("teacher.assistants=[{model: AUX}]", "assistant 1"),
        ("student={model: AUX}", "the student"),
    ],
)
def test_what_fails_in_train_mode_alone_is_refused_before_any_teacher_is_trained(
    here: Path, tiny_recipe: Path, aux: str, setting: str, role: str
) -> None:
    with pytest.raises(CompressError, match="in train mode") as caught:
        distill(load_recipe(tiny_recipe, overrides=[setting.replace("AUX", aux)]))
    assert role in str(caught.value)
    assert not list(here.glob("runs/**/*.safetensors"))
