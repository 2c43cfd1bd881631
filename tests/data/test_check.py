"""`check_data`: what would stop or spoil a training is found, with its files, and nothing else is."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from compress.data.check import Report, check_data
from compress.data.findings import Finding
from compress.recipe import Data
from tests.helpers.damage import a_link_to_nowhere, empty, huge, not_an_image, truncate
from tests.helpers.odd_pictures import ODD
from tests.helpers.pictures import smooth_picture


def write_data(root: Path, *, train: int = 24, val: int = 6, side: int = 24) -> Path:
    for number, name in enumerate(("a", "b")):
        for split, count, first in (("train", train, 0), ("val", val, 200)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for row in range(count):
                image = smooth_picture(side, side + 6, seed=400 * number + first + row)
                image.save(folder / f"{row:03d}.png")
    return root


def check(root: Path, **more: object) -> Report:
    return check_data(Data.model_validate({"name": "folder", "root": str(root), "image_size": 16, **more}))


def the_one(report: Report, kind: str) -> Finding:
    assert [finding.kind for finding in report.findings] == [kind]
    return report.findings[0]


def test_data_that_is_in_order_has_no_findings(tmp_path: Path) -> None:
    report = check(write_data(tmp_path))
    assert report.findings == []
    assert (report.train_images, report.eval_images, report.eval_split) == (48, 12, "val")
    assert report.classes == {"a": (24, 6), "b": (24, 6)}
    assert report.sizes == {"min": (24, 30), "median": (24, 30), "max": (24, 30)}


def test_all_files_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    write_data(tmp_path, train=30, val=10)
    bad = set()
    for number, damage in enumerate((truncate, not_an_image, empty, huge, a_link_to_nowhere)):
        path = tmp_path / ("val" if number % 2 else "train") / "b" / f"{number:03d}.png"
        damage(path)
        bad.add(str(path))
    finding = the_one(check(tmp_path), "unreadable")
    assert finding.level == "stops"
    assert finding.count == 5
    assert {entry.partition(": ")[0] for entry in finding.files} == bad


@pytest.mark.parametrize("kind", list(ODD))
def test_each_odd_kind_of_picture_is_found(tmp_path: Path, kind: str) -> None:
    write_data(tmp_path)
    ODD[kind](tmp_path / "train" / "a" / "odd")
    finding = the_one(check(tmp_path), kind)
    (odd,) = (tmp_path / "train" / "a").glob("odd.*")
    assert finding.files == [str(odd)]


def as_it_is(path: Path, copy: Path) -> None:
    shutil.copy(path, copy)


def compressed(path: Path, copy: Path) -> None:
    file = io.BytesIO()
    with Image.open(path) as image:
        image.save(file, "JPEG", quality=80)
    copy.write_bytes(file.getvalue())


def enlarged(path: Path, copy: Path) -> None:
    with Image.open(path) as image:
        image.resize((48, 60), Image.Resampling.BICUBIC).save(copy)


def brighter(path: Path, copy: Path) -> None:
    with Image.open(path) as image:
        image.point(lambda value: value * 1.15).save(copy)


@pytest.mark.parametrize("make", [as_it_is, compressed, enlarged, brighter])
@pytest.mark.parametrize(
    ("place", "kinds"),
    [
        ("train/a", ["copies"]),
        ("val/a", ["leak"]),
        ("train/b", ["two classes"]),
        ("val/b", ["leak", "two classes"]),
    ],
)
def test_copies_are_found_within_and_across_splits_and_classes(
    tmp_path: Path, make: Callable[[Path, Path], None], place: str, kinds: list[str]
) -> None:
    original, copy = write_data(tmp_path) / "train" / "a" / "004.png", tmp_path / place / "copy.png"
    make(original, copy)
    report = check(tmp_path)
    assert [finding.kind for finding in report.findings] == kinds
    for finding in report.findings:
        assert [set(group) for group in finding.groups] == [{str(original), str(copy)}]
        assert ("1 byte for byte" in finding.what) == (make is as_it_is)


def test_a_split_that_is_the_other_one_leaks_whole(tmp_path: Path) -> None:
    write_data(tmp_path, val=0)
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "val").symlink_to("train")
    finding = the_one(check(tmp_path), "leak")
    assert finding.count == 48
    assert "100.0%" in finding.what


@pytest.mark.parametrize("pairs_at_once", [1 << 17, 100])
def test_many_copies_of_one_picture_are_one_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs_at_once: int
) -> None:
    monkeypatch.setattr("compress.data.near_duplicates._PAIRS", pairs_at_once)
    original = write_data(tmp_path) / "train" / "a" / "004.png"
    for number in range(30):
        shutil.copy(original, tmp_path / "train" / "a" / f"copy-{number}.png")
    finding = the_one(check(tmp_path), "copies")
    assert [len(group) for group in finding.groups] == [31]


def test_pictures_of_one_colour_are_not_copies_of_each_other(tmp_path: Path) -> None:
    write_data(tmp_path)
    for number in range(3):
        Image.new("RGB", (24, 24), (80 + 3 * number, 0, 0)).save(tmp_path / "train" / "a" / f"flat-{number}.png")
    assert the_one(check(tmp_path), "one colour").count == 3


@pytest.mark.parametrize(("split", "use"), [("train", "to train on"), ("val", "to evaluate on")])
def test_a_class_of_which_nothing_is_seen_is_found(tmp_path: Path, split: str, use: str) -> None:
    write_data(tmp_path)
    for number, path in enumerate(sorted((tmp_path / split / "b").iterdir())):
        Image.new("RGB", (24, 24), (200, 30, number)).save(path)
    finding = next(finding for finding in check(tmp_path).findings if finding.kind == "nothing seen")
    assert finding.level == "warns"
    assert finding.files == [f"b: {24 if split == 'train' else 6}"]
    assert use in finding.what


def test_small_classes_and_unequal_ones_are_found(tmp_path: Path) -> None:
    write_data(tmp_path)
    for path in (*sorted((tmp_path / "train" / "b").iterdir())[7:], *sorted((tmp_path / "val" / "b").iterdir())[2:]):
        path.unlink()
    report = check(tmp_path)
    found = {finding.kind: finding for finding in report.findings}
    assert found["few to train on"].files == ["b: 7"]
    assert found["few to evaluate on"].files == ["b: 2"]
    assert "a has 3.4 times the pictures of b" in found["unequal classes"].what
    assert "class_weights: auto" in found["unequal classes"].do
    assert not report.stops


def test_a_class_that_is_held_out_whole_is_found(tmp_path: Path) -> None:
    write_data(tmp_path, val=0)
    shutil.rmtree(tmp_path / "val")
    for path in sorted((tmp_path / "train" / "b").iterdir())[1:]:
        path.unlink()
    report = check(tmp_path, holdout=0.1)
    assert next(f for f in report.findings if f.kind == "untrained class").files == ["b: 0"]
    assert report.classes["a"] == (22, 2)


def test_no_evaluation_split_stops_and_so_does_data_that_is_not_there(tmp_path: Path) -> None:
    write_data(tmp_path, val=0)
    shutil.rmtree(tmp_path / "val")
    assert the_one(check(tmp_path), "no evaluation split").level == "stops"
    assert the_one(check(tmp_path / "nowhere"), "unlisted").level == "stops"


def test_what_cannot_be_read_and_is_left_out_does_not_stop_a_training(tmp_path: Path) -> None:
    write_data(tmp_path, train=50, val=10)
    truncate(tmp_path / "train" / "a" / "003.png")
    assert the_one(check(tmp_path, on_bad_image="skip"), "unreadable").level == "warns"
    truncate(tmp_path / "train" / "a" / "004.png")
    assert the_one(check(tmp_path, on_bad_image="skip"), "unreadable").level == "stops", "above one in a hundred"


def test_data_in_memory_is_checked_too() -> None:
    report = check_data(Data(name="digits"))
    assert (report.train_images, report.eval_images) == (1438, 359)
    assert not report.stops


@pytest.mark.realdata
def test_the_photos_hold_one_picture_in_two_classes(real_photos: Path) -> None:
    report = check(real_photos, image_size=224)
    findings = {finding.kind: finding for finding in report.findings}
    assert findings.keys() == {"two classes", "unequal classes"}
    (group,) = findings["two classes"].groups
    assert {Path(name).name for name in group} == {"02047.webp", "02202.webp"}
