"""A bundle works without this package, and says so when it was changed or computes something else."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageOps
from scipy.special import softmax

from compress.system.errors import InputError
from export.delivery import make_bundle, verify_bundle
from export.delivery.golden import CLASSES
from export.int8 import Quantizer
from export.onnx import add_preprocessing, to_fp16
from tests.helpers.classifiers import MEAN, STD, Digits, normalised


@pytest.fixture(scope="module")
def bundle(trained_onnx: Path, data: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    models = [folder / "student.int8.onnx", trained_onnx, folder / "student.fp16.onnx"]
    Quantizer(trained_onnx, data.train_images[:64], MEAN, STD).write(models[0], target="ort")
    to_fp16(trained_onnx, models[2])
    models.append(folder / "student.pixels.onnx")
    add_preprocessing(trained_onnx, models[3], data.square, mean=MEAN, std=STD)
    return make_bundle(folder / "digits", models, data, card="Read by ten-year-olds.")  # type: ignore[arg-type]


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_it_holds_what_a_deployer_needs(bundle: Path, data: Digits, trained_onnx: Path) -> None:
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    models = {"1/student.onnx", "1/student.fp16.onnx", "1/student.int8.onnx"}
    others = {"README.md", "classes.txt", "config.pbtxt", "golden.npz", "manifest.json", "run.py", "rgb.py"}
    golden = {f"golden/{number:02}.png" for number in range(30)}
    assert names == models | others | golden | {"preprocess.onnx", "1/student.pixels.onnx"}
    assert (bundle / "classes.txt").read_text().splitlines() == data.class_names
    assert "Read by ten-year-olds." in (bundle / "README.md").read_text()
    recorded = np.load(bundle / "golden.npz", allow_pickle=False)
    pictures = np.stack([np.asarray(Image.open(bundle / name)) for name in sorted(golden)])
    session = onnxruntime.InferenceSession(trained_onnx, providers=["CPUExecutionProvider"])
    expected = np.asarray(session.run(["logits"], {"input": normalised(pictures)})[0])
    np.testing.assert_allclose(recorded["student.onnx"], expected, atol=1e-4)
    np.testing.assert_allclose(recorded["student.pixels.onnx"], softmax(expected, axis=1), atol=1e-4)


def test_the_golden_pictures_are_of_every_class_and_of_the_evaluation_split(bundle: Path, data: Digits) -> None:
    golden = json.loads((bundle / "manifest.json").read_text())["golden"]
    assert Counter(golden.values()) == dict.fromkeys(data.class_names, 3)
    images = {image.tobytes(): label for image, label in zip(data.eval_images, data.eval_labels, strict=True)}
    for name, class_name in golden.items():
        assert data.class_names[images[np.asarray(Image.open(bundle / name)).tobytes()]] == class_name


def test_pictures_that_are_files_are_golden_as_they_are(trained_onnx: Path, data: Digits, tmp_path: Path) -> None:
    """Turned by their EXIF data, larger than the model's images and no squares."""
    paths = []
    for row in range(30):
        exif = Image.Exif()
        exif[0x0112] = 6
        image = Image.fromarray(data.eval_images[row]).resize((90, 70), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{row}.JPG", exif=exif, quality=95)
        paths.append(tmp_path / f"{row}.JPG")
    source = SimpleNamespace(evaluation=lambda rows: [paths[row] for row in rows])
    names = ("eval_images", "eval_labels", "class_names", "mean", "std", "interpolation", "crop_pct", "fit", "square")
    files = SimpleNamespace(**{name: getattr(data, name) for name in names}, originals=source)
    files.eval_images, files.eval_labels = data.eval_images[:30], data.eval_labels[:30]
    made = make_bundle(tmp_path / "made", [trained_onnx], files)  # type: ignore[arg-type]
    golden = list(json.loads((made / "manifest.json").read_text())["golden"])
    originals = {path.read_bytes() for path in paths}
    assert {(made / name).read_bytes() for name in golden} <= originals
    assert golden[0].endswith(".jpg")
    upright = [ImageOps.exif_transpose(Image.open(made / name)) for name in golden]
    resized = [image.resize((16, 20), Image.Resampling.BICUBIC).crop((0, 2, 16, 18)) for image in upright]
    squares = np.stack([np.asarray(image) for image in resized])
    session = onnxruntime.InferenceSession(trained_onnx, providers=["CPUExecutionProvider"])
    expected = session.run(["logits"], {"input": normalised(squares)})[0]
    found = np.load(made / "golden.npz")["student.onnx"]
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(found).max())
    assert verify_bundle(made)["student.onnx"] < 1e-5


def test_triton_config_matches_the_model(bundle: Path) -> None:
    config = (bundle / "config.pbtxt").read_text()
    session = onnxruntime.InferenceSession(bundle / "1" / "student.onnx", providers=["CPUExecutionProvider"])
    for value in (*session.get_inputs(), *session.get_outputs()):
        dims = ", ".join(str(size) for size in value.shape[1:])
        assert f'name: "{value.name}", data_type: TYPE_FP32, dims: [ {dims} ]' in config
    assert 'default_model_filename: "student.int8.onnx"' in config
    assert 'platform: "onnxruntime_onnx"' in config
    assert f'{{ name: "logits", data_type: TYPE_FP32, dims: [ 10 ], label_filename: "{CLASSES}" }}' in config
    assert (bundle / CLASSES).read_text().splitlines() == json.loads((bundle / "manifest.json").read_text())[
        "class_names"
    ]
    assert "instance_group [ { kind: KIND_CPU, count: 1 } ]" in config
    assert "max_batch_size: 64" in config


def test_the_runner_needs_only_numpy_pillow_and_onnxruntime(bundle: Path, data: Digits, tmp_path: Path) -> None:
    banned = "import sys\nfor name in ('torch', 'compress', 'export', 'onnx', 'timm'): sys.modules[name] = None\n"
    start = (
        banned
        + f"import runpy; sys.argv[0] = 'run.py'; runpy.run_path({str(bundle / 'run.py')!r}, run_name='__main__')"
    )
    np.save(tmp_path / "images.npy", data.eval_images[:50])
    result = subprocess.run(
        [sys.executable, "-c", start, tmp_path / "images.npy", "student.onnx"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    named = result.stdout.split("\n")[:50]
    truth = [data.class_names[label] for label in data.eval_labels[:50]]
    assert np.mean([a == b for a, b in zip(named, truth, strict=True)]) > 0.9
    golden = [bundle / name for name in json.loads((bundle / "manifest.json").read_text())["golden"]]
    from_files = subprocess.run(
        [sys.executable, "-c", start, *golden[:2]], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert len(from_files.stdout.splitlines()) == 2
    alone = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert float(alone.stdout.rsplit(maxsplit=1)[-1]) < 1e-4


def test_verify_replays_every_model(bundle: Path) -> None:
    measured = verify_bundle(bundle)
    assert set(measured) == {"student.onnx", "student.fp16.onnx", "student.int8.onnx", "student.pixels.onnx"}
    assert max(measured.values()) < 1e-5


@pytest.mark.parametrize("name", ["1/student.onnx", "preprocess.onnx", "golden/00.png", "golden.npz", "run.py"])
def test_an_altered_or_missing_file_is_an_input_error(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} in .* was altered"):
        verify_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"lacks {name}"):
        verify_bundle(copy)


def test_a_bundle_that_was_used_verifies(copy: Path, tmp_path: Path) -> None:
    use = f"import sys; sys.path.insert(0, {str(copy)!r}); import run"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", use], check=True, cwd=tmp_path, env=environment)
    assert list((copy / "__pycache__").iterdir())
    for name in (".DS_Store", "1/._student.onnx", "Thumbs.db", ".ipynb_checkpoints/run-checkpoint.py"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes(b"left by use")
    names = ("student.onnx", "student.fp16.onnx", "student.int8.onnx", "student.pixels.onnx")
    assert set(verify_bundle(copy)) == set(names)
    zipped = shutil.make_archive(str(tmp_path / "again"), "zip", copy)
    assert set(verify_bundle(Path(zipped))) == set(names)
    (copy / "1" / "more.onnx").touch()
    with pytest.raises(InputError, match=r"holds 1/more\.onnx"):
        verify_bundle(copy)


def test_an_added_file_and_a_damaged_manifest_are_input_errors(copy: Path) -> None:
    (copy / "extra.py").write_text("")
    with pytest.raises(InputError, match=r"holds extra\.py"):
        verify_bundle(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="manifest"):
        verify_bundle(copy)
    with pytest.raises(InputError, match="no bundle"):
        verify_bundle(copy / "nowhere")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", ["a"]),
        ("mean", None),
        ("std", [0, 0, 0]),
        ("models", {"student.onnx": {"precision": "bf8"}}),
        ("models", {}),
        ("files", 1),
        ("schema_version", 99),
    ],
)
def test_a_manifest_of_other_types_is_an_input_error(copy: Path, key: str, value: object) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {key: value}))
    with pytest.raises(InputError, match="manifest"):
        verify_bundle(copy)


def test_a_zip_is_the_same_bytes_each_time_and_verifies(trained_onnx: Path, data: Digits, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        make_bundle(tmp_path / name, [trained_onnx], data)  # type: ignore[arg-type]
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip"]
    verify_bundle(tmp_path / "a.zip")
    half = (tmp_path / "a.zip").read_bytes()[:20_000]
    (tmp_path / "half.zip").write_bytes(half)
    with pytest.raises(InputError, match="not a whole zip"):
        verify_bundle(tmp_path / "half.zip")


def test_a_zip_that_would_write_elsewhere_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../evil.txt", "x")
    with pytest.raises(InputError, match="leave its folder"):
        verify_bundle(tmp_path / "evil.zip")


def test_a_folder_in_use_is_not_overwritten(bundle: Path, trained_onnx: Path, data: Digits) -> None:
    with pytest.raises(InputError, match="already holds"):
        make_bundle(bundle, [trained_onnx], data)  # type: ignore[arg-type]
    verify_bundle(bundle)
