"""Which files are data: the rule of every place that lists pictures."""

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from compress.data.walk import LOOPS, LOOSE, NOT_OPENED, OTHER_FILES, SPECIAL, LeftOut, folders_in, pictures_below
from compress.system.errors import InputError
from tests.helpers.pictures import write_images


def names(folder: Path) -> tuple[list[str], dict[str, int]]:
    left_out = LeftOut()
    found = pictures_below(str(folder), left_out)
    return [os.path.relpath(path, folder) for path in found], left_out.counts


@pytest.mark.parametrize(
    "name",
    [
        *(
            ".ipynb_checkpoints",
            ".Trash-1000",
            ".thumbnails",
            "@eaDir",
            "@EADIR",
            "__MACOSX",
            "$RECYCLE.BIN",
            "#recycle",
        ),
        *("lost+found", "System Volume Information", "#snapshot", "@Recycle", "__pycache__"),
    ],
)
def test_hidden_and_system_folders_are_no_data_at_any_depth(tmp_path: Path, name: str) -> None:
    write_images(tmp_path / "deep", 1, seed=0)
    write_images(tmp_path / name / "more", 1, seed=1)
    write_images(tmp_path / "deep" / name, 1, seed=1)
    assert names(tmp_path) == (["deep/000.png"], {})
    assert list(folders_in(str(tmp_path), LeftOut())) == ["deep"]


@pytest.mark.parametrize(
    "name",
    [
        "._000.png",
        ".hidden.png",
        "Thumbs.db",
        "desktop.ini",
        "Icon\r",
        "000.png:Zone.Identifier",
        "Thumbs.db:encryptable",
    ],
)
def test_files_of_an_operating_system_are_passed_over_in_silence(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, 1, seed=0)
    (tmp_path / name).write_bytes(b"\0x")
    assert names(tmp_path) == (["000.png"], {})


def test_every_ending_with_which_pillow_saves_what_it_opens_is_a_picture(tmp_path: Path) -> None:
    picture, saved = Image.new("RGB", (16, 16), "red"), []
    for ending, kind in sorted(Image.registered_extensions().items()):
        path = tmp_path / f"picture{ending.upper()}"
        try:
            picture.save(path, kind)
            with Image.open(path) as opened:
                opened.load()
        except Exception:  # noqa: BLE001  (Pillow says in many ways that it cannot)
            path.unlink(missing_ok=True)
            continue
        saved.append(path.name)
    assert {"picture.JFIF", "picture.WEBP", "picture.TIF", "picture.QOI"} & set(saved)
    left = set(saved) - set(names(tmp_path)[0])
    assert left <= {"picture.EPS", "picture.PS"}  # these need another program, and run one


def test_what_is_no_picture_is_counted_by_kind_and_named_in_one_line(tmp_path: Path) -> None:
    write_images(tmp_path, 2, seed=0)
    for name in ("list.csv", "readme", "photo.jpeg.1", "IMG_1.HEIC", "IMG_2.heic", "raw.CR2"):
        (tmp_path / name).touch()
    left_out = LeftOut()
    assert len(pictures_below(str(tmp_path), left_out)) == 2
    assert left_out.counts == {OTHER_FILES: 3, NOT_OPENED: 3}
    text = str(left_out)
    assert "IMG_1.HEIC" in text
    assert "convert" in text
    assert "\n" not in text


def test_pipes_and_sockets_are_left_out_even_with_the_ending_of_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, 1, seed=0)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    assert names(tmp_path) == (["000.png"], {SPECIAL: 3})


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    write_images(data / "train" / "cat", 1, seed=0)
    write_images(data / "train" / "dog", 3, seed=0)
    write_images(elsewhere / "deep", 2, seed=1)
    cat = data / "train" / "cat"
    (cat / "more").symlink_to(elsewhere)
    (cat / "twice").symlink_to(elsewhere / "deep")
    (cat / "file.png").symlink_to(elsewhere / "deep" / "000.png")
    for name, target in (("up", ".."), ("top", "../.."), ("here", ".")):
        (cat / name).symlink_to(target)
    (elsewhere / "back").symlink_to(cat)
    found, counts = names(cat)
    assert len(found) == 4
    assert counts == {LOOPS: 5}
    (data / "train" / "self").symlink_to("self")
    (data / "train" / "all").symlink_to("..")
    left_out = LeftOut()
    assert list(folders_in(str(data / "train"), left_out)) == ["cat", "dog"]
    assert left_out.counts == {LOOPS: 1}


def test_a_link_to_nowhere_is_a_picture_that_is_missing_or_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("nowhere")
    (tmp_path / "notes").symlink_to("nowhere")
    assert names(tmp_path) == (["a.png"], {OTHER_FILES: 1})


def test_pictures_beside_folders_are_counted(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 1, seed=0)
    write_images(tmp_path, 4, seed=0)
    (tmp_path / "labels.csv").touch()
    left_out = LeftOut()
    folders_in(str(tmp_path), left_out)
    assert left_out.counts == {LOOSE: 4}


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        pictures_below(str(tmp_path / "nowhere"), LeftOut())
