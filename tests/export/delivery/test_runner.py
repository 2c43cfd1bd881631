"""run.py, with which a deployer checks a bundle where only numpy, Pillow and the runtime are installed.

It fails with one line and exit status 1 where the bundle is not what it was, or answers otherwise.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.delivery import make_bundle
from export.delivery.golden import TOLERANCES
from export.onnx import to_fp16
from tests.helpers.bundles import sign
from tests.helpers.classifiers import Digits


@pytest.fixture(scope="module")
def made(trained_onnx: Path, data: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runner")
    to_fp16(trained_onnx, folder / "student.fp16.onnx")
    return make_bundle(folder / "bundle", [trained_onnx, folder / "student.fp16.onnx"], data)  # type: ignore[arg-type]


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def run(bundle: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    banned = "import sys; sys.modules.update(dict.fromkeys(('torch', 'compress', 'export', 'onnx', 'scipy')));"
    code = f"{banned} import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-P", "-c", code, bundle / "run.py", *arguments]
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        cwd=bundle.parent,
        env={**os.environ, **environment},
    )


def assert_refused(bundle: Path, words: str, *arguments: object) -> None:
    done = run(bundle, *arguments)
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


def with_recorded(bundle: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    with np.load(bundle / "golden.npz") as archive:
        recorded = dict(archive)
    change(recorded)
    np.savez(bundle / "golden.npz", **recorded)
    sign(bundle)


def test_a_whole_bundle_passes_with_the_tolerance_of_its_manifest(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name, precision in (("student.onnx", "fp32"), ("student.fp16.onnx", "fp16")):
        assert manifest["models"][name]["tolerance"] == TOLERANCES[precision]
        done = run(bundle, name)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 31
        assert f"({TOLERANCES[precision]:g} allowed): 0" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_classes_that_the_console_cannot_write_are_escaped(bundle: Path, encoding: str) -> None:
    images = len(json.loads((bundle / "manifest.json").read_text())["golden"])
    sign(bundle, lambda manifest: manifest.update(class_names=["猫"] * len(manifest["class_names"])))
    done = run(bundle, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:-1] == ["\\u732b"] * images
    assert run(bundle, PYTHONIOENCODING="utf-8", PYTHONUTF8="1").stdout.startswith("猫\n")


def test_probabilities_beyond_the_tolerance_fail(bundle: Path) -> None:
    path = bundle / "1" / "student.onnx"
    model = onnx.load(path)
    bias = next(entry for entry in model.graph.initializer if entry.name == "14.bias")
    values = numpy_helper.to_array(bias)
    bias.CopyFrom(numpy_helper.from_array(values + np.linspace(0, 1, len(values), dtype=np.float32), bias.name))
    onnx.save(model, path)
    sign(bundle)
    assert_refused(bundle, "golden pictures get another class than was recorded, and probabilities differ by up to")
    assert run(bundle, "student.fp16.onnx").returncode == 0


def test_other_classes_fail_whatever_the_tolerance(bundle: Path) -> None:
    def swap(recorded: dict[str, np.ndarray]) -> None:
        recorded["student.onnx"][:, [0, 1]] = recorded["student.onnx"][:, [1, 0]]

    sign(bundle, lambda manifest: manifest["models"]["student.onnx"].update(tolerance=1.0))
    assert run(bundle).returncode == 0
    with_recorded(bundle, swap)
    sign(bundle, lambda manifest: manifest["models"]["student.onnx"].update(tolerance=0.5))
    done = run(bundle)
    assert done.returncode == 1
    assert not done.stderr.startswith("error: student.onnx: 0 of 30")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_no_numbers_fail(bundle: Path, value: float) -> None:
    with_recorded(bundle, lambda recorded: recorded["student.onnx"].fill(value))
    assert_refused(bundle, "probabilities differ by up to nan")


@pytest.mark.parametrize("name", ["1/student.onnx", "preprocess.onnx", "golden.npz", "golden/00.png", "rgb.py"])
def test_a_file_that_is_missing_or_altered_fails_and_is_named(bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert_refused(bundle, f"{name} of the bundle was altered")
    (bundle / name).unlink()
    assert_refused(bundle, f"{name} of the bundle cannot be read: No such file")


@pytest.mark.parametrize("name", ["1/student.onnx", "preprocess.onnx"])
def test_a_file_that_is_no_model_fails(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"no model")
    sign(bundle)
    assert_refused(bundle, "student.onnx does not run in ort: ")


def test_golden_answers_that_are_none_fail(bundle: Path) -> None:
    with_recorded(bundle, lambda recorded: recorded.pop("student.onnx"))
    assert_refused(bundle, "golden.npz of the bundle holds no answers of student.onnx")
    (bundle / "golden.npz").write_bytes(b"no archive")
    sign(bundle)
    assert_refused(bundle, "golden.npz of the bundle holds no answers of student.onnx")
    with_shape = {"student.onnx": np.zeros((1, 10), np.float32)}
    np.savez(bundle / "golden.npz", **with_shape)
    sign(bundle)
    assert_refused(bundle, "(1, 10) were recorded")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "manifest.json cannot be read: [Errno 2]"),
        (b"{", "manifest.json cannot be read"),
        (b"\xff", "manifest.json cannot be read"),
        (b"[]", "manifest.json cannot be read"),
        (b"{}", "manifest.json cannot be read"),
        (b'{"sha256": "0", "models": {}, "default_model": "x"}', "manifest.json was altered"),
    ],
)
def test_a_manifest_that_is_none_fails(bundle: Path, content: bytes | None, words: str) -> None:
    (bundle / "manifest.json").unlink()
    if content is not None:
        (bundle / "manifest.json").write_bytes(content)
    assert_refused(bundle, words)


def test_a_manifest_whose_entries_are_missing_fails(bundle: Path) -> None:
    sign(bundle, lambda manifest: manifest.update(default_model="best.onnx"))
    assert_refused(bundle, "names a default model that is not there")
    sign(bundle, lambda manifest: manifest.update(default_model="student.onnx"))
    sign(bundle, lambda manifest: manifest["models"]["student.onnx"].pop("runtime"))
    assert_refused(bundle, "manifest.json does not fit this bundle: KeyError('runtime')")


def test_a_model_that_is_not_there_fails(bundle: Path) -> None:
    assert_refused(bundle, "(pictures, then one of student.onnx, student.fp16.onnx)", "student.int8.onnx")
    (bundle / "1" / "student.fp16.onnx").unlink()
    assert_refused(bundle, "1/student.fp16.onnx of the bundle cannot be read", "student.fp16.onnx")


def test_an_array_that_holds_no_pictures_fails(bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "floats.npy", np.zeros((1, 16, 16, 3), np.float32))
    assert_refused(bundle, "floats.npy holds float32 [1, 16, 16, 3], not uint8 [N, H, W, 3]", tmp_path / "floats.npy")
