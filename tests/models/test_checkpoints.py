"""Checkpoints as other tools write them: the wrappers and savers here are the real ones."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.utils.checkpoint_saver import CheckpointSaver
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from compress.models.checkpoints import read_checkpoint, without_prefix
from compress.models.weight_files import weights_in
from compress.system.errors import InputError


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=3, channels=[8, 8, 8, 8])


def opened(path: Path, model: nn.Module) -> dict[str, torch.Tensor]:
    """What a model of that architecture is given."""
    return without_prefix(read_checkpoint(path), model.state_dict(), path)


def same(found: dict[str, torch.Tensor], model: nn.Module) -> bool:
    expected = model.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


class Distiller(nn.Module):
    """A module that holds a student and more, as mdistiller's do."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student, self.projection = student, nn.Linear(2, 2)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "compile": lambda model: torch.compile(model),  # type: ignore[dict-item]
    "both": lambda model: nn.DataParallel(torch.compile(model)),  # type: ignore[arg-type]
    "AveragedModel": AveragedModel,
    "distiller": lambda model: nn.DataParallel(Distiller(model)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("key", [None, "state_dict", "model", "net"])
def test_what_a_wrapper_put_before_the_names_is_taken_off(
    tmp_path: Path, model: nn.Module, wrapper: str, key: str | None
) -> None:
    weights = WRAPPERS[wrapper](model).state_dict()
    assert weights.keys() != model.state_dict().keys()
    torch.save(weights if key is None else {key: weights, "epoch": 3}, tmp_path / "w.pth")
    assert same(opened(tmp_path / "w.pth", model), model)


def test_of_timm_s_training_checkpoint_the_moving_average_is_taken_and_that_is_said(
    tmp_path: Path, model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    averaged = ModelEmaV3(model, decay=0.5)
    for value in averaged.module.parameters():
        value.data += 1.0
    saver = CheckpointSaver(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        args=argparse.Namespace(model="resnet10t", lr=0.1),
        model_ema=averaged,
        checkpoint_dir=str(tmp_path),
    )
    saver.save_checkpoint(epoch=4, metric=71.25)
    found = opened(tmp_path / "checkpoint-4.pth.tar", model)
    assert same(found, averaged.module)
    assert not same(found, model)
    assert "'state_dict_ema' is taken" in caplog.text


def averaged_of(model: nn.Module) -> nn.Module:
    """A moving average of other weights, as torch's own AveragedModel holds it."""
    average = AveragedModel(model, use_buffers=True)
    for value in average.module.parameters():
        value.data += 1.0
    return average.module


@pytest.mark.parametrize("key", ["ema", "model_ema", "ema_state_dict"])
@pytest.mark.parametrize("inner", ["module", "shadow", "state_dict"])
def test_a_moving_average_one_level_deeper_is_taken_and_that_is_said(
    tmp_path: Path, model: nn.Module, caplog: pytest.LogCaptureFixture, key: str, inner: str
) -> None:
    caplog.set_level(logging.INFO)
    average = averaged_of(model)
    content = {"model": model.state_dict(), key: {"decay": 0.99, inner: average.state_dict()}, "epoch": 3}
    torch.save(content, tmp_path / "w.pth")
    assert same(opened(tmp_path / "w.pth", model), average)
    assert f"'{key}.{inner}' is taken, of '{key}' and 'model'" in caplog.text


def test_a_moving_average_of_the_parameters_alone_has_the_statistics_of_the_weights(
    tmp_path: Path, model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    average = averaged_of(model)
    torch.save({"model": model.state_dict(), "ema": {"shadow": dict(average.named_parameters())}}, tmp_path / "w.pth")
    found = opened(tmp_path / "w.pth", model)
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in average.named_parameters())
    assert all(torch.equal(found[name], value) for name, value in model.named_buffers())
    assert "what the moving average lacks is of the weights: conv1.1.running_mean" in caplog.text


def test_a_moving_average_without_names_is_not_passed_over_in_silence(
    tmp_path: Path, model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    shadow = [value + 1.0 for value in model.parameters()]
    torch.save({"model": model.state_dict(), "ema": {"shadow_params": shadow}}, tmp_path / "w.pth")
    assert same(opened(tmp_path / "w.pth", model), model)
    assert "'ema' holds no weights by name, and so 'model' is taken" in caplog.text


@pytest.mark.parametrize(("raw", "prefix"), [("model.", "ema_model."), ("model.", "ema.module."), ("", "ema.")])
def test_of_names_before_which_is_a_moving_average_that_is_taken_and_said(
    tmp_path: Path, model: nn.Module, caplog: pytest.LogCaptureFixture, raw: str, prefix: str
) -> None:
    caplog.set_level(logging.INFO)
    average = averaged_of(model)
    both = {raw + name: value for name, value in model.state_dict().items()}
    both |= {prefix + name: value for name, value in average.state_dict().items()}
    torch.save({"state_dict": both, "pytorch-lightning_version": "2.4.0"}, tmp_path / "last.ckpt")
    assert same(opened(tmp_path / "last.ckpt", model), average)
    assert f"{prefix!r} before the names is taken off" in caplog.text
    assert "it is the moving average of" in caplog.text


def test_a_moving_average_whose_names_do_not_fit_is_said(
    tmp_path: Path, model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    without_dots = {f"model_ema.{name.replace('.', '')}": value for name, value in model.named_parameters()}
    torch.save({"state_dict": weights | without_dots}, tmp_path / "last.ckpt")
    assert same(opened(tmp_path / "last.ckpt", model), model)
    assert "a moving average of the weights whose names do not fit, such as model_ema.conv10weight" in caplog.text


def test_half_precision_and_lightning_s_other_entries_do_not_matter(tmp_path: Path, model: nn.Module) -> None:
    half = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    for file in ("half.safetensors", "HALF2.SAFETENSORS"):
        save_file(half, tmp_path / file)
        assert all(torch.equal(value, half[name]) for name, value in opened(tmp_path / file, model).items())
    lightning = {f"model.{name}": value for name, value in model.state_dict().items()} | {"loss.weight": torch.ones(3)}
    content = {"state_dict": lightning, "pytorch-lightning_version": "2.4.0", "callbacks": {}, "epoch": 1}
    torch.save(content, tmp_path / "last.ckpt")
    assert same(opened(tmp_path / "last.ckpt", model), model)


def test_a_folder_of_shards_or_of_torch_weights_is_found(tmp_path: Path, model: nn.Module) -> None:
    (tmp_path / "shards").mkdir()
    huggingface_hub.save_torch_state_dict(model.state_dict(), tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert same(opened(weights_in(tmp_path / "shards"), model), model)
    (tmp_path / "torch").mkdir()
    torch.save(model.state_dict(), tmp_path / "torch" / "pytorch_model.bin")
    assert same(opened(weights_in(tmp_path / "torch"), model), model)


def test_several_models_behind_prefixes_are_refused(tmp_path: Path, model: nn.Module) -> None:
    torch.save(nn.ModuleDict({"student": model, "teacher": model}).state_dict(), tmp_path / "two.pth")
    with pytest.raises(InputError, match="several models: student, teacher"):
        opened(tmp_path / "two.pth", model)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"optimizer": {}, "epoch": 3}, "it has 'optimizer', 'epoch'"),
        ({"one": {"a": torch.ones(1)}, "two": {"a": torch.ones(1)}}, "it has 'one', 'two'"),
        ([torch.ones(1)], "holds a list"),
        ({"a": torch.tensor([1.0, float("nan")])}, "a is not finite"),
    ],
)
def test_what_is_no_set_of_weights_is_named(tmp_path: Path, content: object, words: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=words):
        read_checkpoint(tmp_path / "w.pth")


def test_names_before_which_is_a_prefix_need_no_counters_of_batchnorm(tmp_path: Path, model: nn.Module) -> None:
    old = {f"module.{name}": value for name, value in model.state_dict().items() if "num_batches" not in name}
    torch.save(old, tmp_path / "old.pth")
    found = opened(tmp_path / "old.pth", model)
    other = timm.create_model("resnet10t", num_classes=3, channels=[8, 8, 8, 8])
    other.load_state_dict(found)
    assert same(dict(other.state_dict()), model)
