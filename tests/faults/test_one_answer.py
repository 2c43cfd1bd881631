"""An odd file gets one answer from `data check`, training, `predict` and the deployed graph.

What they read is read alike by all of them, what they cannot read is named by all of them.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress import load_recipe, load_student
from compress.data import load_data
from compress.data.check import check_data
from compress.runs.folder import Run
from compress.system.errors import InputError
from export import export_run
from export.runtimes import normalise
from tests.helpers.command import Command, assert_fails
from tests.helpers.damage import empty, huge, not_an_image, truncate
from tests.helpers.pictures import smooth_picture, write_folder_data

pytestmark = pytest.mark.faults
Write = Callable[[Image.Image, Path], None]


def transparent(image: Image.Image, path: Path) -> None:
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


def transparent_palette(image: Image.Image, path: Path) -> None:
    image.quantize(64).save(path, transparency=3)


def turned(image: Image.Image, path: Path) -> None:
    """The camera was held upright: the pixels lie on their side, and EXIF says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif, quality=95)


def grey_of_bits(bits: int) -> Write:
    def write(image: Image.Image, path: Path) -> None:
        values = np.asarray(image.convert("L")).astype(np.float64) / 255
        Image.fromarray(np.round(values * (2**bits - 1)).astype(np.uint16)).save(path)

    return write


def floats(image: Image.Image, path: Path) -> None:
    Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255).save(path)


def in_mode(mode: str) -> Write:
    return lambda image, path: image.convert(mode).save(path)


def two_frames(image: Image.Image, path: Path) -> None:
    image.save(path, save_all=True, append_images=[Image.new("RGB", image.size, "red")])


def plain(image: Image.Image, path: Path) -> None:
    image.save(path)


def web_page(path: Path) -> None:
    """What a download leaves where the picture is gone."""
    path.write_text("<html>404</html>")


READ: dict[str, Write] = {
    "jpeg.jpg": plain,
    "upper.JPG": plain,
    "jfif.jfif": plain,
    "turned.jpg": turned,
    "cmyk.jpg": in_mode("CMYK"),
    "grey.jpg": in_mode("L"),
    "palette.png": in_mode("P"),
    "bilevel.png": in_mode("1"),
    "transparent.png": transparent,
    "transparent.webp": transparent,
    "transparent-palette.png": transparent_palette,
    "grey-alpha.png": in_mode("LA"),
    "twelve.png": grey_of_bits(12),
    "sixteen.tif": grey_of_bits(16),
    "float.tif": floats,
    "cmyk.tif": in_mode("CMYK"),
    "lab.tif": in_mode("LAB"),
    "frames.gif": two_frames,
    "frames.tif": two_frames,
    "avif.avif": plain,
    "bitmap.bmp": plain,
    "a png inside.jpg": lambda image, path: image.save(path, "PNG"),
    "Bäume 1.png": plain,
}
REFUSED: dict[str, Callable[[Path], None]] = {
    "cut.png": truncate,
    "empty.png": empty,
    "text.png": not_an_image,
    "page.png": web_page,
    "huge.png": huge,
}


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The finished run with a bundle."""
    copied = Run(tmp_path_factory.mktemp("home") / finished.name)
    shutil.copytree(finished, copied.path)
    export_run(copied, bundle="folder", threads=1)
    return copied


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = write_folder_data(tmp_path / "data", evaluation=1)
    for path in (root / "val").rglob("*.png"):
        path.rename(path.with_name("0.png"))
    return root


def in_graph(bundle: Path, paths: list[Path]) -> np.ndarray:
    """The bundle's runner as a server imports it: logits [N, C]."""
    code = """
import json, sys
from pathlib import Path
import run
print(json.dumps([run.classify([run.read(Path(path))], "student.onnx")[0].tolist() for path in sys.argv[1:]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], cwd=bundle, capture_output=True, text=True, check=True
    )
    return np.array(json.loads(done.stdout))


def probabilities(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.asarray(logits, np.float64)).softmax(1).numpy()


def predict(command: Command, model: Path, paths: list[Path], classes: list[str]) -> np.ndarray:
    """The probabilities [N, C] of `compress predict`."""
    result = command("predict", model, *paths, "--top", len(classes), "--json", cwd=paths[0].parent)
    assert result.returncode == 0, result.stderr
    found = [{entry["class"]: entry["probability"] for entry in row["classes"]} for row in json.loads(result.stdout)]
    return np.array([[row[name] for name in classes] for row in found])


def test_what_is_read_is_read_alike(run: Run, command: Command, tiny_recipe: Path, data: Path) -> None:
    grey = data / "val" / "grey"
    for number, (name, write) in enumerate(READ.items()):
        write(smooth_picture(40, 30, seed=number), grey / name)
    settings = load_recipe(tiny_recipe, overrides=[f"data.root={data}"]).data
    report = check_data(settings)
    assert [finding for finding in report.findings if finding.kind == "unreadable"] == []

    paths = [grey / name for name in sorted(path.name for path in grey.iterdir())]
    dataset = load_data(settings)
    assert len(dataset.eval_images) == len(paths) + 2
    seen = dataset.eval_images[dataset.eval_labels == dataset.class_names.index("grey")]
    student = load_student(run)
    cfg = student.pretrained_cfg
    with torch.inference_mode():
        trained = student(torch.from_numpy(normalise(seen, cfg["mean"], cfg["std"]))).numpy()
    trained = probabilities(trained)

    predicted = predict(command, run.path, paths, dataset.class_names)
    copied = Path(shutil.copy(run.export / "student.onnx", data / "COPY.ONNX"))
    np.testing.assert_allclose(predict(command, copied, paths, dataset.class_names), predicted, atol=1e-3)
    deployed = probabilities(in_graph(run.export / "bundle", paths))
    differ = {
        path.name: (one.round(3).tolist(), two.round(3).tolist(), three.round(3).tolist())
        for path, one, two, three in zip(paths, trained, predicted, deployed, strict=True)
        if np.abs(one - two).max() > 1e-3 or np.abs(two - three).max() > 0.02
    }
    assert differ == {}
    assert len({tuple(row) for row in predicted.round(4)}) > len(paths) // 2, "the pictures can be told apart"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_named_by_all(run: Run, command: Command, tiny_recipe: Path, data: Path, name: str) -> None:
    path = data / "val" / "grey" / name
    smooth_picture(40, 30).save(path)
    REFUSED[name](path)
    override = ("--set", f"data.root={data}")
    assert_fails(command("data", "check", tiny_recipe, *override, cwd=data), 3, "would stop a training")
    settings = load_recipe(tiny_recipe, overrides=[f"data.root={data}"]).data
    (unreadable,) = [finding for finding in check_data(settings).findings if finding.kind == "unreadable"]
    assert len(unreadable.files) == 1
    assert name in unreadable.files[0]
    with pytest.raises(InputError, match=name):
        load_data(settings)
    assert_fails(command("predict", run.path, path, cwd=data), 3, name)
    bundle = run.export / "bundle"
    done = subprocess.run([sys.executable, bundle / "run.py", path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert name in line
