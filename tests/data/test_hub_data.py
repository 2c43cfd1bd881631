"""Data sets in the format of the Hugging Face Hub, read by `datasets` from a folder of parquet files."""

import io
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.data.dataset import load_data
from compress.recipe import Data
from compress.system.errors import InputError

datasets = pytest.importorskip("datasets")
NAMES = ["zebra/wild", "ant", ".dot", "10 %"]


def encoded(seed: int, kind: str = "PNG") -> dict[str, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return {"bytes": buffer.getvalue(), "path": None}


def write(folder: Path, **splits: dict[str, list[Any]]) -> Path:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    for name, columns in splits.items():
        datasets.Dataset.from_dict(columns, features=features).to_parquet(
            folder / "data" / f"{name}-00000-of-00001.parquet"
        )
    return folder


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / "repo" / "data").mkdir(parents=True)
    train = {
        "image": [encoded(seed, ("PNG", "JPEG", "WEBP")[seed % 3]) for seed in range(12)],
        "label": [2, 0, 1, 3] * 3,
    }
    judged = {"image": [encoded(seed) for seed in range(100, 104)], "label": [0, 1, 2, 3]}
    return write(tmp_path / "repo", train=train, validation=judged)


def settings(repo: Path, **more: Any) -> Data:
    return Data(name="hub", repo=str(repo), image_size=8, **more)


def test_pictures_labels_and_the_order_of_classes_are_those_of_the_data_set(repo: Path) -> None:
    data = load_data(settings(repo))
    assert data.class_names == NAMES
    assert data.eval_split == "validation"
    original = datasets.load_dataset(str(repo), split="train")
    expected = sorted((row["label"], np.asarray(row["image"].convert("RGB")).tobytes()) for row in original)
    found = zip(data.train_labels.tolist(), data.train_images, strict=True)
    assert sorted((label, image.tobytes()) for label, image in found) == expected


def test_it_is_unpacked_once_and_needs_datasets_no_more(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_data(settings(repo))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("asked again"))
    assert load_data(settings(repo)).sha256 == first.sha256
    monkeypatch.undo()


def test_a_picture_that_is_gone_from_the_cache_is_unpacked_again(repo: Path) -> None:
    first = load_data(settings(repo))
    (cached,) = (
        path for path in Path(os.environ["COMPRESS_CACHE"], "hub").glob("*/") if str(repo.parent.name) in path.name
    )
    next((cached / "train" / "ant").iterdir()).unlink()
    assert load_data(settings(repo)).sha256 == first.sha256


def test_a_folder_that_changed_is_unpacked_anew(repo: Path) -> None:
    first = load_data(settings(repo))
    write(repo, train={"image": [encoded(seed) for seed in range(4)], "label": [0, 1, 2, 3]})
    assert load_data(settings(repo)).sha256 != first.sha256


def swapped_files(repo: Path) -> None:
    """Two pictures change places. Sizes and times of change of their content stay."""
    paths = [repo / "train" / name / "0.bmp" for name in ("ant", "bee")]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
        os.utime(path, (1, 1))


def test_a_folder_whose_files_change_places_is_unpacked_anew(repo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for split in ("train", "validation"):
        for name, shade in (("ant", 10), ("bee", 200)):
            path = folder / split / name / "0.bmp"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)
            os.utime(path, (1, 1))
    first = load_data(settings(folder))
    assert first.train_images[first.train_labels == 0][0, 0, 0, 0] == 10
    swapped_files(folder)
    second = load_data(settings(folder))
    assert second.train_images[second.train_labels == 0][0, 0, 0, 0] == 200


def test_a_table_of_the_same_size_and_time_is_unpacked_anew(repo: Path) -> None:
    (path,) = (repo / "data").glob("train*")
    before = load_data(settings(repo)).train_images[:]
    status, content = path.stat(), path.read_bytes()
    place = content.index(b"IDAT", content.index(b"\x89PNG")) + 12
    raw = bytes([content[place] ^ 1])
    path.write_bytes(content[:place] + raw + content[place + 1 :])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    try:
        changed = not np.array_equal(load_data(settings(repo)).train_images[:], before)
    except InputError as error:  # of a picture that is damaged now
        changed = "cannot be read" in error.message
    assert changed


def test_runs_inside_the_folder_leave_what_was_unpacked_as_it_is(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_data(settings(repo))
    run = repo / "runs" / "first"
    (run / "teacher").mkdir(parents=True)
    for name in (".lock", "manifest.json", "metrics.jsonl", "teacher/config.json", "../../.DS_Store"):
        (run / name).write_text("{}")
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("asked again"))
    assert load_data(settings(repo)).sha256 == first.sha256


@pytest.mark.parametrize("place", ["~/repo", "$HOME/repo", "repo"])
def test_a_folder_is_found_however_it_is_written(repo: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    first = load_data(settings(repo))
    monkeypatch.setenv("HOME", str(repo.parent))
    monkeypatch.chdir(repo.parent)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("asked again"))
    assert load_data(settings(Path(place))).sha256 == first.sha256


@pytest.mark.parametrize("place", ["~/nothing", "/nowhere/nothing", "./nothing"])
def test_a_folder_that_is_not_there_is_named(place: str) -> None:
    with pytest.raises(InputError, match=r"data\.repo: there is no folder .*nothing"):
        load_data(Data(name="hub", repo=place, image_size=8))


def test_rows_without_a_label_are_left_out_and_said(repo: Path) -> None:
    write(repo, validation={"image": [encoded(seed) for seed in range(5)], "label": [0, -1, 1, None, 2]})
    data = load_data(settings(repo))
    assert len(data.eval_labels) == 3
    assert any("2 pictures" in warning and "without a label" in warning for warning in data.warnings)


def test_splits_are_named_where_they_have_other_names(repo: Path) -> None:
    shutil.move(repo / "data" / "train-00000-of-00001.parquet", repo / "data" / "learn-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"no split 'train', but learn, validation.*data\.train"):
        load_data(settings(repo))
    assert len(load_data(settings(repo, train="learn", evaluation="validation")).train_labels) == 12


def test_columns_are_found_by_their_type_or_named(repo: Path) -> None:
    classes = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"photo of it": datasets.Image(), "fine": classes, "coarse": classes})
    content = {"photo of it": [encoded(seed) for seed in range(4)], "fine": [0, 1, 0, 1], "coarse": [1, 1, 0, 0]}
    for split in ("train", "validation"):
        datasets.Dataset.from_dict(content, features=features).to_parquet(
            repo / "data" / f"{split}-00000-of-00001.parquet"
        )
    with pytest.raises(InputError, match=r"photo of it, fine, coarse.*data\.label_column"):
        load_data(settings(repo))
    assert load_data(settings(repo, label_column="coarse")).train_labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(InputError, match="no column 'corase'"):
        load_data(settings(repo, label_column="corase"))


def test_labels_that_are_text_are_classes(repo: Path) -> None:
    content = {"image": [encoded(seed) for seed in range(4)], "label": ["10", "9", "9", "10"]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    for split in ("train", "validation"):
        datasets.Dataset.from_dict(content, features=features).to_parquet(
            repo / "data" / f"{split}-00000-of-00001.parquet"
        )
    assert load_data(settings(repo)).class_names == ["9", "10"]


@pytest.mark.parametrize(("name", "words"), [("HF_HUB_OFFLINE", "HF_HUB_OFFLINE is set"), ("HF_ENDPOINT", "refused")])
def test_without_a_network_it_is_one_line_that_says_what_to_do(tmp_path: Path, name: str, words: str) -> None:
    ask = (
        "from compress.data.sources import data_folder\nfrom compress.recipe import Data\n"
        "from compress.system.errors import CompressError\n"
        "try:\n    data_folder(Data(name='hub', repo='nobody/nothing', image_size=8))\n"
        "except CompressError as error:\n    print(error.code, error)\n"
    )
    value = "1" if name == "HF_HUB_OFFLINE" else "http://127.0.0.1:9"
    environment = {**os.environ, "HF_HOME": str(tmp_path), name: value}
    done = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith("4 ")
    assert words in line
    assert "hf download nobody/nothing --repo-type dataset" in line


def named(repo: Path, names: list[str]) -> Path:
    """A data set of those classes, with three pictures each."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    content = {
        "image": [encoded(seed) for seed in range(3 * len(names))],
        "label": [label for label in range(len(names)) for _ in range(3)],
    }
    for split in ("train", "validation"):
        datasets.Dataset.from_dict(content, features=features).to_parquet(
            repo / "data" / f"{split}-00000-of-00001.parquet"
        )
    return repo


def test_long_names_are_classes_of_their_own(repo: Path) -> None:
    names = [*(f"{'a' * 220} {number}" for number in range(3)), "漢" * 100, "漢" * 101, "b" * 400]
    data = load_data(settings(named(repo, names)))
    assert data.class_names == names
    assert np.bincount(data.train_labels).tolist() == [3] * 6
    assert np.bincount(data.eval_labels).tolist() == [3] * 6


def test_decomposed_names_keep_their_place(repo: Path) -> None:
    names = ["zebra", unicodedata.normalize("NFD", "été"), unicodedata.normalize("NFD", "ガ"), "ant"]
    data = load_data(settings(named(repo, names)))
    assert data.class_names == [unicodedata.normalize("NFC", name) for name in names]
