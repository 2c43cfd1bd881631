"""Files that mean harm or were altered: nothing of theirs runs, and none is taken for what it was."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.system.files import sha256_file
from tests.helpers.command import Command, assert_fails, snapshot
from tests.helpers.damage import flip_a_bit

pytestmark = pytest.mark.faults


class Evil:
    """Unpickled, it touches the sentinel."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.sentinel}'",)


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Evil]:
    """The test fails where the sentinel is there afterwards; that it would be touched is tried first."""
    sentinel = tmp_path / "sentinel"
    pickle.loads(pickle.dumps(Evil(sentinel)))
    sentinel.unlink()
    yield Evil(sentinel)
    assert not sentinel.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "folder/model.safetensors"])
def test_weights_that_are_a_malicious_pickle_are_refused(
    command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path, evil: Evil, name: str
) -> None:
    path = tmp_path / name
    if path.parent != tmp_path:
        shutil.copytree(finished / "teacher", path.parent)
    torch.save({"conv1.weight": evil}, path)
    checkpoint = path if path.parent == tmp_path else path.parent
    override = f"teacher={{model: resnet10t, source: checkpoint, checkpoint: {checkpoint}}}"
    assert_fails(command("distill", tiny_recipe, "--set", override, cwd=tmp_path), 3, str(path))


def test_a_published_model_that_is_a_malicious_pickle_is_refused(
    command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path, evil: Evil
) -> None:
    folder = tmp_path / "published"
    shutil.copytree(finished / "teacher", folder)
    (folder / "model.safetensors").unlink()
    torch.save({"conv1.weight": evil}, folder / "pytorch_model.bin")
    override = f"teacher={{model: 'local-dir:{folder}', source: pretrained}}"
    result = command("distill", tiny_recipe, "--set", override, cwd=tmp_path)
    assert result.returncode in (3, 4)
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")


def test_a_data_cache_that_holds_a_pickle_is_made_anew(
    command: Command, tiny_recipe: Path, tmp_path: Path, evil: Evil
) -> None:
    """The hashes that its description holds are made to fit."""
    cache = tmp_path / "cache"
    first = command("distill", tiny_recipe, "--json", cwd=tmp_path, COMPRESS_CACHE=str(cache))
    (meta,) = cache.glob("data/*/meta.json")
    array = meta.with_name("train_images.npy")
    np.save(array, np.array([evil], dtype=object), allow_pickle=True)
    content = json.loads(meta.read_text())
    content["arrays"]["train_images"] = sha256_file(array)
    meta.write_text(json.dumps(content))
    again = command("distill", tiny_recipe, "--json", cwd=tmp_path, COMPRESS_CACHE=str(cache))
    assert "decoding" in again.stderr
    assert json.loads(again.stdout)["data"] == json.loads(first.stdout)["data"]


def test_a_checkpoint_that_is_a_pickle_is_no_checkpoint(
    command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path, evil: Evil
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for path in (run / "checkpoints").glob("*.safetensors"):
        torch.save({"model.conv1.weight": evil}, path)
        meta = json.loads(path.with_suffix(".json").read_text())
        rest = {key: value for key, value in meta.items() if key != "sha256"}
        digest = hashlib.sha256(path.read_bytes() + json.dumps(rest, sort_keys=True).encode()).hexdigest()
        path.with_suffix(".json").write_text(json.dumps({**rest, "sha256": digest}))
    longer = ("distill", tiny_recipe, "--out", run, "--resume", "--set", "train.epochs=4")
    assert_fails(command(*longer, cwd=tmp_path), 3, "none of the")


@pytest.mark.parametrize("protocol", [0, 4])
def test_cifar_pickles_run_nothing(
    command: Command, tiny_recipe: Path, tmp_path: Path, evil: Evil, protocol: int
) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a", "b"]}, protocol=2))
    (folder / "train").write_bytes(pickle.dumps({"data": evil, "fine_labels": [0]}, protocol=protocol))
    override = f"data={{name: cifar100, root: {tmp_path}}}"
    assert_fails(command("distill", tiny_recipe, "--set", override, cwd=tmp_path), 3, str(folder / "train"), "system")


@pytest.fixture(scope="module")
def exported(command: Command, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run with an export, a bundle and a brief benchmark."""
    run = tmp_path_factory.mktemp("exported") / finished.name
    shutil.copytree(finished, run)
    for arguments in (["export", run, "--bundle"], ["benchmark", run, "--batch", 1, "--seconds", 0, "--threads", 1]):
        result = command(*arguments, cwd=run.parent)
        assert result.returncode == 0, result.stderr
    return run


def test_altered_weights_and_onnx_files_are_refused(
    command: Command, exported: Path, tmp_path: Path, folder_data: Path
) -> None:
    image = folder_data / "val" / "dark" / "000.png"
    for name in ("student/model.safetensors", "export/student.onnx"):
        run = tmp_path / Path(name).stem
        shutil.copytree(exported, run)
        flip_a_bit(run / name)
        before = snapshot(run)
        model = run / name if name.endswith("onnx") else run
        assert_fails(command("predict", model, image, cwd=tmp_path), 3, name, "altered")
        assert_fails(command("benchmark", run, cwd=tmp_path), 3, name, "altered")
        assert snapshot(run) == before


def test_an_altered_engine_is_refused_before_it_is_opened(command: Command, exported: Path, tmp_path: Path) -> None:
    """No TensorRT is needed for that: an engine is code, and what it would do is never found out."""
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    engine, record = run / "export" / "student.engine", run / "export" / "export.json"
    engine.write_bytes(b"as it was built")
    content = json.loads(record.read_text())
    content["files"]["student.engine"] = {"sha256": sha256_file(engine), "bytes": engine.stat().st_size}
    record.write_text(json.dumps(content))
    flip_a_bit(engine)
    assert_fails(command("benchmark", run, cwd=tmp_path), 3, "student.engine", "altered")


def test_an_altered_bundle_is_refused(command: Command, exported: Path, tmp_path: Path) -> None:
    """That altered words in it are refused, too, is in tests/cli."""
    for name in ("1/student.onnx", "golden.npz", "run.py"):
        bundle = tmp_path / Path(name).stem
        shutil.copytree(exported / "export" / "bundle", bundle)
        flip_a_bit(bundle / name)
        assert_fails(command("verify", bundle, cwd=tmp_path), 3, name, "altered")


def test_an_altered_benchmark_is_refused_and_an_earlier_report_stays(
    command: Command, exported: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    assert command("report", run, cwd=tmp_path).returncode == 0
    path = run / "benchmark.json"
    content = json.loads(path.read_text())
    content["verdict"]["outcome"] = "PASS" if content["verdict"]["outcome"] != "PASS" else "FAIL"
    path.write_text(json.dumps(content))
    before = snapshot(run)
    assert_fails(command("report", run, cwd=tmp_path), 3, "benchmark.json", "altered")
    assert snapshot(run) == before
