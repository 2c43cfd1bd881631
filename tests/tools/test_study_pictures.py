"""tools/study/pictures.py: which images of CIFAR-100 become files, and that nothing of them is lost."""

from pathlib import Path

import numpy as np
import pictures
import pytest
from click.testing import CliRunner
from PIL import Image

from compress.system.errors import MachineError
from tests.helpers.pictures import write_cifar100


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
