"""Other data is never taken for a published data set. Its class names decide."""

from pathlib import Path

import pytest

from compress.data.dataset import load_data
from compress.data.sources import find
from compress.recipe import Data
from compress.system.errors import InputError
from tests.helpers.pictures import write_folder_data, write_images

CINIC10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PUBLISHED = ["cifar100", "cinic10", "tinyimagenet"]


def cinic10(folder: Path) -> Path:
    for split in ("train", "valid", "test"):
        for number, name in enumerate(CINIC10):
            write_images(folder / split / name, 1, seed=number)
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_pictures_of_ones_own_in_data_are_no_published_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMPRESS_DATA", raising=False)
    write_folder_data(tmp_path / "data", train=2, evaluation=2)
    assert find(name, None) is None
    with pytest.raises(InputError, match="data prepare"):
        load_data(Data.model_validate({"name": name}))


@pytest.mark.parametrize("name", ["cinic10", "tinyimagenet"])
@pytest.mark.parametrize("folder", ["photos", "CINIC-10", "tiny-imagenet-200"])
def test_a_root_with_other_classes_is_refused_by_their_names(tmp_path: Path, name: str, folder: str) -> None:
    root = write_folder_data(tmp_path / folder, train=2, evaluation=2)
    for given in (root, tmp_path):
        if given == tmp_path and not (tmp_path / {"cinic10": "CINIC-10"}.get(name, "tiny-imagenet-200")).exists():
            continue
        with pytest.raises(InputError, match=f"is not {name}: it has 3 classes .'dark'"):
            load_data(Data.model_validate({"name": name, "root": str(given)}))


@pytest.mark.parametrize("place", ["{}/mine", "{}/mine/", "./mine", "mine", "~/mine", "$HOME/mine", "./data"])
def test_the_folder_in_the_environment_is_found_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    root = cinic10(tmp_path / Path(place).name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COMPRESS_DATA", place.format(tmp_path))
    found = find("cinic10", None)
    assert found is not None
    assert found.samefile(root)


def test_a_given_root_is_cinic10_where_all_ten_class_names_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = cinic10(tmp_path / "mine")
    assert find("cinic10", str(root)) == root
    data = load_data(Data(name="cinic10", root=str(root), image_size=8))
    assert any("published are 90,000" in warning for warning in data.warnings)
    monkeypatch.setenv("COMPRESS_DATA", str(root))
    assert find("cinic10", None) == root
    (root / "train" / "cat").rename(root / "train" / "Cat")
    assert find("cinic10", None) is None


@pytest.mark.realdata
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sets_are_found_by_name_and_as_a_root(name: str) -> None:
    found = find(name, None)
    if found is None:
        pytest.skip("it is not in $COMPRESS_DATA")
    assert find(name, str(found)) == found
