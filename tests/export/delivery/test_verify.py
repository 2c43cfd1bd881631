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

from compress.data.decode import Square
from compress.system.errors import GateError, InputError
from export.delivery import make_bundle, verify_bundle
from export.onnx import load, preprocessing_metadata, save, set_metadata, to_fp16
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


def test_a_run_is_told_from_a_bundle(finished: Path) -> None:
    with pytest.raises(InputError, match="is a run") as caught:
        verify_bundle(finished)
    assert caught.value.hint == "Its bundle is in export/bundle."


def test_a_model_with_its_classes_in_another_order_is_refused(bundle: Path) -> None:
    names = (bundle / "classes.txt").read_text().splitlines()
    (bundle / "classes.txt").write_text("\n".join(reversed(names)) + "\n")
    sign(bundle, lambda manifest: manifest["class_names"].reverse())
    with pytest.raises(InputError, match=r"student\.onnx in .* has other class names, or in another order"):
        verify_bundle(bundle)


def reverse_classes(bundle: Path) -> None:
    """In all places but the models and the golden pictures."""
    names = (bundle / "classes.txt").read_text().splitlines()
    (bundle / "classes.txt").write_text("\n".join(reversed(names)) + "\n")
    sign(bundle, lambda manifest: manifest["class_names"].reverse())


def test_classes_in_another_order_are_told_by_the_golden_pictures_where_no_model_names_its_own(bundle: Path) -> None:
    for name in ("student.onnx", "student.fp16.onnx"):
        model = load(bundle / "1" / name)
        set_metadata(model, {})
        save(model, bundle / "1" / name)
    sign(bundle)
    verify_bundle(bundle)
    reverse_classes(bundle)
    with pytest.raises(InputError, match=r"student\.onnx gets \d+ of 30 golden pictures right, and its manifest says"):
        verify_bundle(bundle)


def test_a_golden_set_that_was_cut_is_refused(bundle: Path) -> None:
    with np.load(bundle / "golden.npz") as archive:
        recorded = {name: values[:1] for name, values in archive.items()}
    np.savez(bundle / "golden.npz", **recorded)

    def cut(manifest: dict[str, Any]) -> None:
        for name in list(manifest["golden"])[1:]:
            del manifest["golden"][name], manifest["files"][name]
            (bundle / name).unlink()
        right = recorded["student.onnx"][0].argmax() == 0
        for entry in manifest["models"].values():
            entry["golden_right"] = int(right)

    sign(bundle, cut)
    with pytest.raises(InputError, match="has 1 golden pictures of digit 0, and 3 by its evaluation split"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [0.1, 0.2, 0.3]},
        {"std": [0.1, 0.2, 0.3]},
        {"image_size": 32},
        {"crop_pct": 0.5},
        {"fit": "pad"},
        {"interpolation": "box"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_preprocessing_that_the_files_do_not_do_is_refused(bundle: Path, change: dict[str, Any]) -> None:
    """By what preprocess.onnx says of itself, and by what a model says."""
    (key,) = change
    sign(bundle, **change)
    with pytest.raises(InputError, match=rf"preprocess\.onnx in .* has {key} .*, and the manifest says"):
        verify_bundle(bundle)
    path = bundle / "1" / "student.onnx"
    manifest = json.loads((bundle / "manifest.json").read_text())
    own = {entry.key: entry.value for entry in load(bundle / "preprocess.onnx").metadata_props}
    model = load(path)
    set_metadata(model, {key: own[key]})
    save(model, path)
    front = load(bundle / "preprocess.onnx")
    square = Square(manifest["image_size"], manifest["interpolation"], manifest["crop_pct"], manifest["fit"])
    set_metadata(front, preprocessing_metadata(square, manifest["mean"], manifest["std"]))
    save(front, bundle / "preprocess.onnx")
    sign(bundle)
    with pytest.raises(InputError, match=rf"student\.onnx in .* has {key} .*, and the manifest says"):
        verify_bundle(bundle)


def test_preprocessing_that_says_nothing_of_itself_is_refused(bundle: Path) -> None:
    front = load(bundle / "preprocess.onnx")
    set_metadata(front, {})
    save(front, bundle / "preprocess.onnx")
    sign(bundle)
    with pytest.raises(
        InputError, match=r"preprocess\.onnx in .* has mean nothing, and the manifest says 0\.4,0\.45,0\.5"
    ):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('default_model_filename: "student.onnx"', 'default_model_filename: "nowhere.onnx"'),
        ('default_model_filename: "student.onnx"', 'default_model_filename: "student.fp16.onnx"'),
        ('default_model_filename: "student.onnx"', '# default_model_filename: "student.onnx"'),
        ("max_batch_size", 'default_model_filename: "nowhere.onnx"\nmax_batch_size'),
        ('platform: "onnxruntime_onnx"', 'backend: "openvino"'),
        ('label_filename: "classes.txt"', 'label_filename: "labels.txt"'),
        ("dims: [ 10 ]", "dims: [ 11 ]"),
        ("dims: [ 3, 16, 16 ]", "dims: [ 3, 32, 32 ]"),
    ],
)
def test_a_triton_configuration_of_another_model_is_refused(bundle: Path, before: str, after: str) -> None:
    path = bundle / "config.pbtxt"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    sign(bundle)
    with pytest.raises(InputError, match=r"config\.pbtxt in .* does not say .*, as the manifest does"):
        verify_bundle(bundle)
    path.write_text(text.replace(": ", " :  ").replace("count :  1", "count :  4"))
    sign(bundle)
    verify_bundle(bundle)


def test_a_tolerance_that_is_wider_than_that_of_verify_is_refused(bundle: Path) -> None:
    sign(bundle, lambda manifest: manifest["models"]["student.onnx"].update(tolerance=0.5))
    with pytest.raises(InputError, match=r"lets probabilities of student\.onnx differ by 0\.5, and 0\.001 is allowed"):
        verify_bundle(bundle)


def test_preprocessing_with_other_inputs_or_outputs_is_refused(bundle: Path) -> None:
    front = load(bundle / "preprocess.onnx")
    front.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 16
    save(front, bundle / "preprocess.onnx")
    sign(bundle)
    with pytest.raises(
        InputError, match=r"preprocess\.onnx in .* is pixels: uint8\[batch, 16, width, 3\] -> input: float"
    ):
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
