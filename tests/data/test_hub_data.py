"""Data sets in the format of the Hugging Face Hub, read by `datasets` from a folder of parquet files."""

import io
import os
import shutil
import subprocess
import sys
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
