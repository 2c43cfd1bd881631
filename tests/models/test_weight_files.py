"""Files of weights in every format: read as what they are, whatever they are called, and without running their code."""

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from compress.models.checkpoints import read_checkpoint
from compress.models.weight_files import weights_in
from compress.system.errors import InputError
from tests.helpers.damage import truncate


def test_a_pointer_of_git_lfs_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(InputError, match="git lfs pull"):
        read_checkpoint(tmp_path / "w.pth")


def save_old(content: object, path: Path) -> None:
    """In the format of torch before 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [save_file, torch.save, save_old])
def test_a_file_whose_download_broke_off_is_told_apart_from_one_of_another_kind(
    tmp_path: Path, save: Callable[[object, Path], None]
) -> None:
    path = tmp_path / ("w.safetensors" if save is save_file else "w.pth")
    save({"a": torch.ones(2000), "b": torch.ones(100, 10)}, path)
    whole = path.read_bytes()
    for length in (0, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError) as raised:
            read_checkpoint(path)
        assert (
            str(raised.value) == f"{path} is not whole: its end is missing. Delete it, and download or copy it again."
        )
    path.write_text("<html>Log in first, then you may download the file.</html>")
    with pytest.raises(InputError, match="does not hold plain weights"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("save", "name"), [(save_file, "w.pth"), (torch.save, "w.safetensors"), (save_old, "w.safetensors")]
)
def test_a_format_is_told_by_the_content(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, save: Callable[[object, Path], None], name: str
) -> None:
    save({"a": torch.arange(3.0)}, tmp_path / name)
    assert torch.equal(read_checkpoint(tmp_path / name)["a"], torch.arange(3.0))
    truncate(tmp_path / name)
    with pytest.raises(InputError, match="is not whole"):
        read_checkpoint(tmp_path / name)
    assert not recwarn.list


def save_script(content: object, path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (lambda _, path: torch.save(nn.Linear(2, 2), path), "it holds code: torch.nn.modules.linear.Linear"),
        (lambda _, path: save_old(nn.Linear(2, 2), path), "it holds code: torch.nn.modules.linear.Linear"),
        (save_script, "TorchScript"),
        (
            lambda _, path: path.write_bytes(b"\x89HDF\r\n" + bytes(64)),
            "neither safetensors nor a torch file of tensors",
        ),
        (lambda _, path: path.write_text("<html>"), "neither safetensors nor a torch file of tensors"),
    ],
)
def test_no_message_advises_to_run_the_code_of_a_file(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, save: Callable[[object, Path], None], words: str
) -> None:
    save(None, tmp_path / "w.pth")
    recwarn.clear()
    with pytest.raises(InputError, match=words) as raised:
        read_checkpoint(tmp_path / "w.pth")
    assert "weights_only" not in str(raised.value)
    assert "will likely succeed" not in str(raised.value)
    assert not recwarn.list


def test_of_shards_the_one_that_is_not_whole_is_named(tmp_path: Path) -> None:
    weights = timm.create_model("resnet10t", num_classes=3, channels=[8, 8, 8, 8]).state_dict()
    huggingface_hub.save_torch_state_dict(weights, tmp_path, max_shard_size="20KB")
    second = sorted(tmp_path.glob("*.safetensors"))[1]
    truncate(second)
    with pytest.raises(InputError, match=f"{second.name} is not whole"):
        read_checkpoint(weights_in(tmp_path))


@pytest.mark.parametrize(
    ("name", "words"), [("../secret.safetensors", "outside of its folder"), ("model-1.safetensors", "missing")]
)
def test_an_index_names_files_that_are_there_and_nowhere_else(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"a": "{name}"}}}}')
    with pytest.raises(InputError, match=words):
        read_checkpoint(weights_in(tmp_path))


def test_the_shards_of_torch_files_are_read_by_their_index(tmp_path: Path) -> None:
    whole = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    for number, (name, value) in enumerate(whole.items()):
        torch.save({name: value}, tmp_path / f"pytorch_model-{number}.bin")
    names = {name: f"pytorch_model-{number}.bin" for number, name in enumerate(whole)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    read = read_checkpoint(weights_in(tmp_path))
    assert read.keys() == whole.keys()
    assert all(torch.equal(read[name], value) for name, value in whole.items())
