"""tools/study/pictures.py: which images of a data set become files, and that nothing of them is lost."""

from pathlib import Path

import numpy as np
import pictures
import pytest
from click.testing import CliRunner
from PIL import Image

from compress.system.errors import MachineError
from tests.helpers.pictures import write_cifar100, write_tiny_imagenet


def test_every_fifth_image_of_a_class_becomes_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path))
    pixels = write_cifar100(tmp_path)  # 40 and 12 images; the class of image i is abcd[i % 4]
    out = tmp_path / "fifth"
    CliRunner().invoke(pictures.main, [str(out), "--every", "5"], catch_exceptions=False)
    expected = {("train", "abcd"[row % 4], row) for row in (0, 1, 2, 3, 20, 21, 22, 23)}
    expected |= {("val", "abcd"[row % 4], row) for row in range(12)}
    found = {(path.parent.parent.name, path.parent.name, int(path.stem)) for path in out.rglob("*.png")}
    assert found == expected
    for split, source in (("train", "train"), ("val", "test")):
        for path in out.glob(f"{split}/*/*.png"):
            planes = np.asarray(Image.open(path)).transpose(2, 0, 1).reshape(-1)
            np.testing.assert_array_equal(planes, pixels[source][int(path.stem)])
    with pytest.raises(MachineError, match="exists"):
        CliRunner().invoke(pictures.main, [str(out)], catch_exceptions=False)


def test_of_tiny_imagenet_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path))
    monkeypatch.setattr("compress.data.sources._holds_tiny_imagenet", lambda _: True)  # it has three of the classes
    write_tiny_imagenet(tmp_path)
    out = tmp_path / "tiny"
    CliRunner().invoke(pictures.main, [str(out), "--data", "tinyimagenet", "--every", "3"], catch_exceptions=False)
    given = tmp_path / "tiny-imagenet-200"
    named = {"n01": "crane (n01)", "n02": "crane (n02)", "n03": "goldfish"}
    expected = {
        (f"train/{name}", pixels_of(given / f"train/{wnid}/images/{row}.png"))
        for wnid, name in named.items()
        for row in ("000", "003")
    }
    of_val = {"000": "goldfish", "001": "crane (n01)", "002": "crane (n02)"}
    expected |= {(f"val/{name}", pixels_of(given / f"val/images/{row}.png")) for row, name in of_val.items()}
    assert {(str(path.parent.relative_to(out)), pixels_of(path)) for path in out.rglob("*.png")} == expected
    assert len(list(out.rglob("*.png"))) == 9


def pixels_of(path: Path) -> bytes:
    return Image.open(path).convert("RGB").tobytes()
