"""A bundle whose default model runs in OpenVINO: its runner needs nothing else, and verify replays in it."""

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from compress.system.errors import InputError
from compress.system.platform import processor
from export.delivery import Recommended, make_bundle, verify_bundle
from export.openvino import core, session_options
from export.records import BundledModel
from tests.helpers.bundles import sign
from tests.helpers.classifiers import Digits, float_logits, normalised
from tests.helpers.exporting import export_to
from tests.helpers.signals import assert_signals_are_heard

OPTIONS = session_options(1, "f32")
FLAGS = ["avx2", "avx512f", "amx_int8"]


@pytest.fixture(scope="module")
def bundle(trained: nn.Module, data: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("bundle")
    export_to(home / "export", trained, data, formats=("openvino",), threads=1)
    about = BundledModel(precision="fp32", runtime="openvino", file="student.xml", options=OPTIONS)
    best = Recommended("student.xml", home / "export" / "openvino" / "student.xml", about, "A processor", FLAGS)
    onnx = [home / "export" / "student.onnx"]
    return make_bundle(home / "made", onnx, data, recommended=best, threads=1)  # type: ignore[arg-type]


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_the_recommended_model_is_the_default_one_with_its_options(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["default_model"] == "student.xml"
    assert list(manifest["models"]) == ["student.xml", "student.onnx"]
    assert manifest["models"]["student.xml"]["options"] == OPTIONS
    assert {"1/student.xml", "1/student.bin", "1/student.onnx"} <= set(manifest["files"])
    assert 'backend: "openvino"\ndefault_model_filename: "student.xml"' in (bundle / "config.pbtxt").read_text()


def test_the_runner_needs_numpy_and_openvino_alone(bundle: Path, trained: nn.Module, data: Digits) -> None:
    np.save(bundle.parent / "pictures.npy", data.eval_images[:20])
    code = (
        "import sys, runpy; sys.modules.update(dict.fromkeys(('onnxruntime', 'onnx', 'torch', 'PIL', 'compress')));"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-P", "-c", code, bundle / "run.py", bundle.parent / "pictures.npy"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=bundle.parent)
    expected = float_logits(trained, data.eval_images[:20]).argmax(1)
    assert done.stdout.split("\n")[:-1] == [data.class_names[number] for number in expected]


OTHER = "or name a model of another runtime:"


@pytest.mark.parametrize(
    ("missing", "asked", "words"),
    [
        ("openvino", [], f"student.xml needs openvino: pip install openvino, {OTHER} student.onnx"),
        ("onnxruntime", ["student.onnx"], f"needs onnxruntime: pip install onnxruntime, {OTHER} student.xml"),
        ("PIL", [], "student.xml needs PIL: pip install pillow"),
        (
            "",
            ["nowhere.png"],
            "No such file or directory (pictures, then one of student.xml, student.onnx)",
        ),
    ],
)
def test_the_runner_says_in_a_line_what_it_lacks(bundle: Path, missing: str, asked: list[str], words: str) -> None:
    code = (
        f"import sys, runpy; sys.modules.update({{{missing!r}: None}});"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-P", "-c", code, bundle / "run.py", *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(words)


def test_a_server_hears_signals_after_two_runners_ended_in_the_order_in_which_they_began(bundle: Path) -> None:
    assert_signals_are_heard(
        f"""
        from run import in_openvino
        def opened():
            runner = in_openvino(Path("1/student.xml"), {OPTIONS!r})
            return runner, runner(np.zeros((1, 3, 16, 16), np.float32))
        """,
        cwd=bundle,
    )


def test_the_golden_answers_are_those_of_openvino(bundle: Path, data: Digits) -> None:
    from PIL import Image

    names = json.loads((bundle / "manifest.json").read_text())["golden"]
    pictures = np.stack([np.asarray(Image.open(bundle / name)) for name in names])
    compiled = core().compile_model(str(bundle / "1" / "student.xml"), "CPU", OPTIONS)
    recorded = np.load(bundle / "golden.npz")["student.xml"]
    np.testing.assert_allclose(recorded, compiled(normalised(pictures))[0], atol=1e-4)


def test_verify_replays_every_model_in_its_runtime(bundle: Path) -> None:
    assert list(verify_bundle(bundle, threads=1)) == ["student.xml", "student.onnx"]


def test_the_manifest_has_the_inputs_and_outputs_of_the_ir(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    assert manifest["models"]["student.xml"]["signature"] == "input: float[?, 3, 16, 16] -> logits: float[?, 10]"
    assert manifest["preprocessing_signature"].startswith("pixels: uint8[batch, height, width, 3] -> input: float")
    path = copy / "1" / "student.xml"
    text = path.read_text()
    for before, after in (('shape="?,3,16,16"', 'shape="2,3,16,16"'), ('names="logits"', 'names="scores"')):
        assert before in text
        path.write_text(text.replace(before, after))
        sign(copy)
        with pytest.raises(
            InputError, match=r"student\.xml in .* is input: .*, and the manifest says input: float\[\?"
        ):
            verify_bundle(copy, threads=1)


def test_an_ir_whose_classes_are_in_another_order_is_refused(copy: Path) -> None:
    """By its own metadata; and where it has none, by the golden pictures."""
    names = (copy / "classes.txt").read_text().splitlines()
    (copy / "classes.txt").write_text("\n".join(reversed(names)) + "\n")

    def only_ir(manifest: dict[str, Any]) -> None:
        manifest["class_names"].reverse()
        del manifest["models"]["student.onnx"], manifest["files"]["1/student.onnx"]
        (copy / "1" / "student.onnx").unlink()

    sign(copy, only_ir)
    with pytest.raises(InputError, match=r"student\.xml in .* has other class names, or in another order"):
        verify_bundle(copy, threads=1)
    path = copy / "1" / "student.xml"
    path.write_text(re.sub(r"<class_names [^>]*/>", "", path.read_text()))
    sign(copy)
    with pytest.raises(InputError, match=r"student\.xml gets \d+ of 30 golden pictures right, and its manifest says"):
        verify_bundle(copy, threads=1)


def test_a_damaged_ir_is_an_input_error(copy: Path) -> None:
    (copy / "1" / "student.xml").write_text("<net>")
    sign(copy)
    with pytest.raises(InputError, match="OpenVINO cannot open"):
        verify_bundle(copy, threads=1)


def test_altered_weights_are_refused(copy: Path) -> None:
    path = copy / "1" / "student.bin"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(InputError, match=r"1/student\.bin in .* was altered"):
        verify_bundle(copy)


@pytest.mark.skipif(not processor()[1], reason="only Linux tells the flags of its CPU")
def test_verify_says_which_instructions_this_machine_lacks(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    here = processor()[1]
    for flags, said in (([*here, "amx_of_tomorrow"], ["amx_of_tomorrow"]), (here[:5], [])):
        sign(copy, cpu_flags=flags)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            verify_bundle(copy, threads=1)
        assert [name for name in said if f"lacks {name}" in caplog.text] == said
        assert bool(caplog.records) == bool(said)
    assert manifest["cpu_flags"] == FLAGS
