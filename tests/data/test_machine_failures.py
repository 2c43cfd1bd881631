"""Where memory, open files, disk or network fail, nothing is known of a picture: it is not skipped as a bad one."""

import errno
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from compress.data import decode, load_data
from compress.data.check import check_data
from compress.data.contents import content_digests
from compress.data.decode import Square, read_images, read_rgb
from compress.data.picture_files import PictureFiles
from compress.data.stream import StreamedImages
from compress.recipe import Augment, Data
from compress.system.errors import EXIT_ENVIRONMENT, CompressError, InputError, MachineError
from tests.helpers.damage import truncate
from tests.helpers.pictures import write_folder_data

FAILING = "train/grey/050.png"


@contextmanager
def no_more_open_files() -> Iterator[None]:
    """Within the block the operating system opens no file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder_data(tmp_path / "photos", train=100, evaluation=4)


def failing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading that one picture raises the error."""
    real: Callable[..., Any] = Image.open

    def opening(path: Any, *args: Any, **options: Any) -> Any:
        if str(path).endswith(FAILING):
            raise error
        return real(path, *args, **options)

    monkeypatch.setattr(Image, "open", opening)


def test_too_many_open_files_are_no_bad_picture(root: Path) -> None:
    path = root / FAILING
    for read in (read_rgb, Square(8).read, lambda path: content_digests([str(path)])):
        read(path)  # imports what it needs
        with no_more_open_files(), pytest.raises(MachineError, match=r"grey/050\.png.*Too many open files") as caught:
            read(path)
        assert caught.value.code == EXIT_ENVIRONMENT


@pytest.mark.parametrize("loader", ["resident", "stream"])
@pytest.mark.parametrize(
    "error",
    [MemoryError(), *(OSError(code, os.strerror(code)) for code in (errno.EMFILE, errno.EIO, errno.ESTALE))],
    ids=["memory", "open files", "disk", "network"],
)
def test_such_a_picture_is_not_left_out_and_is_there_the_next_time(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, loader: Literal["resident", "stream"]
) -> None:
    settings = Data(name="folder", root=str(root), image_size=8, on_bad_image="skip", loader=loader)
    with monkeypatch.context() as patch:
        failing(error, patch)
        with pytest.raises(MachineError, match=r"grey/050\.png"):
            load_data(settings)
        with pytest.raises(MachineError, match=r"grey/050\.png"):
            check_data(settings)
    found = load_data(settings)
    assert (found.left_out, found.labeled) == ({}, 300)
    assert np.array_equal(found.train_images[150], Square(8).read(root / FAILING))


@pytest.mark.parametrize("error", [OSError("image file is truncated"), OSError(errno.EINVAL, "Invalid argument")])
def test_what_pillow_raises_of_damage_is_a_bad_picture(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(error, monkeypatch)
    settings = Data(name="folder", root=str(root), image_size=8, on_bad_image="skip")
    assert list(load_data(settings).left_out) == [str(root / FAILING)]


def test_a_truncated_file_is_a_bad_picture(root: Path) -> None:
    truncate(root / FAILING)
    with pytest.raises(InputError, match=r"050\.png"):
        read_rgb(root / FAILING)


def test_workers_say_it_too(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = (
        "from PIL import Image\nreal = Image.open\n"
        "def opening(path, *args, **options):\n"
        f"    if str(path).endswith({FAILING!r}): raise OSError(5, 'Input/output error')\n"
        "    return real(path, *args, **options)\n"
        "Image.open = opening\n"
        "from compress.data import decode\ndecode._worker()\n"
    )
    monkeypatch.setattr(decode, "_WORTH_A_PROCESS", 100)
    monkeypatch.setattr("compress.system.platform.usable_cpus", lambda: 2)
    monkeypatch.setattr(decode, "module_command", lambda _: [sys.executable, "-c", worker])
    paths = [str(path) for path in sorted((root / "train").rglob("*.png"))]
    with pytest.raises(MachineError, match=r"grey/050\.png \(Input/output error\).*try again"):
        read_images(paths, Square(8), tmp_path / "pixels.npy")


@pytest.mark.parametrize("ahead", [False, True])
def test_a_training_that_decodes_its_pictures_says_it_too(
    root: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    paths = [str(path) for path in sorted((root / "train" / "grey").rglob("*.png"))]
    pictures = PictureFiles.of(paths, root, Square(8))
    ones = torch.ones(3)
    images = StreamedImages(pictures, torch.zeros(len(paths), dtype=torch.int64), 0 * ones, ones, ahead=ahead)
    failing(OSError(errno.EIO, "Input/output error"), monkeypatch)
    with pytest.raises(CompressError) as caught:
        list(images.batches([torch.arange(40, 60)], Augment(crop=0, flip=False), seed=0, epoch=0))
    assert type(caught.value) is MachineError
    assert "050.png (Input/output error)" in caught.value.message
    assert "Traceback" not in str(caught.value)
