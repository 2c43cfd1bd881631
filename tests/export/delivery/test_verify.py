"""What `compress verify` must find: bundles that contradict themselves, and models that answer otherwise.

Each attack puts the right hashes into the manifest again, as someone does who makes a bundle by hand.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compress.system.errors import GateError, InputError
from export.delivery import make_bundle, verify_bundle
from export.onnx import load, save, set_metadata, to_fp16
from tests.helpers.bundles import sign
from tests.helpers.classifiers import Digits


@pytest.fixture(scope="module")
def made(trained_onnx: Path, data: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    model = load(trained_onnx)
    set_metadata(model, {"class_names": "\n".join(data.class_names)})
    save(model, folder / "student.onnx")
    to_fp16(folder / "student.onnx", folder / "student.fp16.onnx")
    return make_bundle(folder / "bundle", [folder / "student.onnx", folder / "student.fp16.onnx"], data)  # type: ignore[arg-type]


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def with_weights(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    model = onnx.load(path)
    tensor = next(entry for entry in model.graph.initializer if entry.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)).astype(np.float32), name))
    onnx.save(model, path)


def test_signing_again_alone_changes_nothing(bundle: Path) -> None:
    sign(bundle)
    assert max(verify_bundle(bundle).values()) < 1e-5


def test_a_manifest_that_was_altered_is_told_by_its_own_hash(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["mean"] = [0.1, 0.2, 0.3]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="was altered: its hash differs"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["class_names"].reverse(), r"classes\.txt in .* has other class names, or in another order"),
        (lambda m: m.update(default_model="best.onnx"), "names a default model that is not there"),
        (lambda m: m.update(schema_version=99), "is of another version"),
        (lambda m: m["files"].pop("1/student.onnx"), r"holds 1/student\.onnx, which its manifest does not list"),
        (lambda m: m["models"]["student.onnx"].update(signature="x"), r"student\.onnx in .* is input: .* says x"),
    ],
    ids=["classes", "default", "version", "unlisted", "signature"],
)
def test_a_manifest_that_contradicts_the_files_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    sign(bundle, change)
    with pytest.raises(InputError, match=said):
        verify_bundle(bundle)


def test_a_model_with_its_classes_in_another_order_is_refused(bundle: Path) -> None:
    names = (bundle / "classes.txt").read_text().splitlines()
    (bundle / "classes.txt").write_text("\n".join(reversed(names)) + "\n")
    sign(bundle, lambda manifest: manifest["class_names"].reverse())
    with pytest.raises(InputError, match=r"student\.onnx in .* has other class names, or in another order"):
        verify_bundle(bundle)


def test_a_model_of_other_weights_answers_otherwise(bundle: Path) -> None:
    with_weights(bundle / "1" / "student.onnx", "14.bias", lambda bias: bias + np.linspace(0, 1, len(bias)))
    sign(bundle)
    with pytest.raises(GateError, match=r"student\.onnx: .* probabilities differ by up to .*, 0\.001 allowed"):
        verify_bundle(bundle)


def test_two_classes_that_changed_places_are_found_whatever_the_tolerance(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.delivery.verify.TOLERANCES", {"fp32": 0.3, "fp16": 0.3, "int8": 0.3})
    with np.load(bundle / "golden.npz") as archive:
        recorded = dict(archive)
    recorded["student.onnx"][:, [0, 1]] = recorded["student.onnx"][:, [1, 0]]
    np.savez(bundle / "golden.npz", **recorded)
    sign(bundle)
    with pytest.raises(GateError, match=r"student\.onnx: [1-9]\d* of 30 golden pictures get another class"):
        verify_bundle(bundle)


def test_golden_answers_without_a_model_are_an_input_error(bundle: Path) -> None:
    np.savez(bundle / "golden.npz", images=np.zeros((1, 16, 16, 3), np.uint8))
    sign(bundle)
    with pytest.raises(InputError, match=r"golden\.npz"):
        verify_bundle(bundle)
