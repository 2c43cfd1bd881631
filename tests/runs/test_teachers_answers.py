"""What a teacher says is looked at before a student learns from it, and counts in what is kept."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from compress import distill, load_recipe
from compress.data import load_data
from compress.models.answers import answers_hash
from compress.models.class_order import reorder_classes
from compress.models.folder import save_model
from compress.runs import Run
from compress.runs.checks import check_answers
from compress.system.errors import EXIT_INPUT, InputError, UsageError

KD = ["train.epochs=1", "teacher.cache={views: 1}"]


class Net(nn.Module):
    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.sign = nn.Linear(192, 3), sign

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.sign * self.fc(images.flatten(1))


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("teacher-logits/*/")}


def test_kept_logits_and_assistants_are_of_a_modules_code_and_weights(
    here: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(here / "cache"))
    assistant = "teacher.assistants=[{model: resnet10t, args: {channels: [8, 8, 8, 8]}}]"
    for count, sign in enumerate((1.0, 1.0, -1.0)):
        distill(load_recipe(tiny_recipe, method="kd", overrides=KD), teacher=Net(sign), out=f"kd-{count}")
        assert len(kept(here / "cache")) == (2 if sign < 0 else 1)
    for sign, made in ((1.0, 1), (1.0, 1), (-1.0, 2)):
        recipe = load_recipe(tiny_recipe, method="kd", overrides=["train.epochs=1", assistant])
        distill(recipe, teacher=Net(sign), out=f"ta-{sign}-{made}-{len(list(here.glob('ta-*')))}")
        assert len(list(here.glob("runs/assistants/*/manifest.json"))) == made


def test_the_hash_of_answers_ignores_modes_and_threads_and_sees_code_and_weights() -> None:
    def made() -> nn.Sequential:
        torch.manual_seed(0)
        norm, drop = nn.BatchNorm2d(4), nn.Dropout(0.5)
        return nn.Sequential(nn.Conv2d(3, 4, 3), norm, drop, nn.Flatten(), nn.Linear(144, 3))

    expected = answers_hash(made(), 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert answers_hash(made().eval(), 8) == expected
    torch.set_num_threads(threads)
    other = made()
    with torch.no_grad():
        other[4].bias[0] += 0.01  # type: ignore[index]
    assert answers_hash(other, 8) != expected
    assert answers_hash(Net(), 8) != answers_hash(Net(-1.0), 8)


class InFloat32(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.sign * self.fc(images.flatten(1).float() + torch.zeros(1))


class Asserts(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.float32
        return super().forward(images)


class Refuses(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.dtype != torch.float32:
            raise ValueError("float32 please")
        return super().forward(images)


@pytest.mark.parametrize("kind", [InFloat32, Asserts, Refuses])
def test_a_module_that_is_float32_whatever_it_is_told_has_a_hash(kind: type[Net]) -> None:
    assert answers_hash(kind(), 8) == answers_hash(kind(), 8)
    assert answers_hash(kind(), 8) != answers_hash(kind(-1.0), 8)


class Never(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise LookupError("no such thing")


def test_a_module_that_cannot_be_asked_is_said_in_words() -> None:
    with pytest.raises(UsageError, match=r"running the module Never failed in .*no such thing.*float32 images"):
        answers_hash(Never(), 8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_is_not_finite_is_a_bad_teacher(here: Path, tiny_recipe: Path, value: float) -> None:
    teacher = Net()
    with torch.no_grad():
        teacher.fc.weight[0, 0] = value
    with pytest.raises(InputError, match="the teacher's logits are not finite for 24 of 24 images") as caught:
        distill(load_recipe(tiny_recipe, method="kd"), teacher=teacher, out="out")
    assert caught.value.code == EXIT_INPUT


def test_a_teacher_of_probabilities_is_said(here: Path, tiny_recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = load_recipe(tiny_recipe, method="kd", overrides=["train.epochs=1"])
    lasts = ((nn.Softmax(dim=1), "softmax"), (nn.Sigmoid(), "sigmoid"), (nn.LogSoftmax(dim=1), ""), (nn.ReLU(), ""))
    for last, said in lasts:
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="compress"):
            distill(recipe, teacher=nn.Sequential(Net(), last), out=f"out-{type(last).__name__}")
        words = [one.message for one in caplog.records if "probabilities, not logits" in one.message]
        assert bool(words) == bool(said)
        assert all(f"Take off its last {said}" in one for one in words)


@pytest.mark.parametrize(
    "name", ["resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_050", "convnext_atto", "resnetv2_50"]
)
def test_the_classes_of_a_model_are_put_into_another_order(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    size, order = model.pretrained_cfg["input_size"][-1], [3, 0, 4, 1, 2]
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        before = model(images)
        assert reorder_classes(model, order)
        torch.testing.assert_close(model(images), before[:, order], rtol=1e-4, atol=1e-5)


def test_a_teacher_whose_names_are_in_another_order_is_mapped_by_them(here: Path, tiny_recipe: Path) -> None:
    settings = ["teacher.epochs=3", "train.epochs=1"]
    first = distill(load_recipe(tiny_recipe, method="kd", overrides=settings), out="first")
    data = load_data(load_recipe(tiny_recipe).data)
    model: Any = timm.create_model(f"local-dir:{(first.path / 'teacher').resolve()}", pretrained=True)
    assert reorder_classes(model, [2, 0, 1])
    save_model(model, here / "other", data)
    config = json.loads((here / "other" / "config.json").read_text())
    config["label_names"] = [data.class_names[number] for number in (2, 0, 1)]
    (here / "other" / "config.json").write_text(json.dumps(config))
    args = json.dumps({"channels": config["model_args"]["channels"]})
    teacher = f"teacher={{model: resnet10t, args: {args}, source: checkpoint, checkpoint: {here / 'other'}}}"
    run = distill(load_recipe(tiny_recipe, method="kd", overrides=[teacher, "train.epochs=1"]), out="second")
    assert Run(run.path).manifest.teacher_top1 == first.manifest.teacher_top1


def test_natural_order_is_said_where_a_teacher_is_better_with_it(caplog: pytest.LogCaptureFixture) -> None:
    class Data:
        class_names = sorted(str(number) for number in range(1, 13))
        num_classes = 12
        eval_labels = torch.cat([torch.arange(1, 121) % 12, torch.zeros(12, dtype=torch.long)]).numpy()

    labels = torch.from_numpy(Data.eval_labels)
    natural = [Data.class_names.index(str(number)) for number in range(1, 13)]
    scores = torch.nn.functional.one_hot(labels, 12).float() * 5
    foreign = ("checkpoint", "pretrained", "module")
    cases = [(scores[:, natural], source, True) for source in foreign] + [(scores, source, False) for source in foreign]
    for logits, source, said in [*cases, (scores[:, natural], "train", False), (scores[:, natural], "finetune", False)]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="compress"):
            check_answers(logits, Data, source)  # type: ignore[arg-type]
        words = (
            "top-1 is 16.67%, and 100.00% if its classes are in natural order"  # only the first class is where it was
        )
        assert any(words in one.message for one in caplog.records) == said
