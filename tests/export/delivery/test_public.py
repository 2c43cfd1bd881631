"""What leaves the machine with a pushed run names files and folders, and not where they are."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.runs.folder import Run
from export.delivery.public import hub_repository, public_recipe, without_places

HOME = "/home/John Smith"
MODELS = {"teacher": {"model": "resnet18"}, "student": {"model": "resnet10t"}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOME", HOME)
    monkeypatch.delenv("COMPRESS_DATA", raising=False)

    def make(data: dict[str, Any]) -> Run:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**MODELS, "data": {"image_size": 32, **data}}))
        begun = f'"working_folder": "{tmp_path.as_posix()}"'
        (tmp_path / "manifest.json").write_text(f'{{"schema_version": 1, "status": "finished", {begun}}}')
        return Run(tmp_path)

    return make


@pytest.mark.parametrize(
    ("data", "sentence", "public"),
    [
        ({"name": "cinic10"}, "/data/CINIC-10 holds 2,000 pictures.", "CINIC-10 holds 2,000 pictures."),
        (
            {"name": "folder", "root": f"{HOME}/my photos"},
            f"left out: 3 (no pictures, such as '{HOME}/my photos/train/a b.txt'), beside {HOME}/my photos.",
            "left out: 3 (no pictures, such as 'my photos/train/a b.txt'), beside my photos.",
        ),
        ({"name": "folder", "root": "$NOWHERE/photos"}, "$NOWHERE/photos holds 5.", "photos holds 5."),
        (
            {"name": "folder", "root": "../their/photos"},
            "class a of ../their/photos is bad.",
            "class a of photos is bad.",
        ),
        ({"name": "digits"}, f"cannot write {HOME}/x y/b.json: it is full", "cannot write x y/b.json: it is full"),
        ({"name": "digits"}, "cannot open '/mnt/a b/c d.engine' or \"/e/f\".", "cannot open 'c d.engine' or \"f\"."),
        ({"name": "digits"}, r"cannot open C:\Users\John\s.onnx, or D:/s.xml", "cannot open s.onnx, or s.xml"),
    ],
)
def test_of_a_path_in_a_sentence_the_last_name_stays(
    run: Any, data: dict[str, Any], sentence: str, public: str
) -> None:
    assert without_places(run(data))(sentence) == public


@pytest.mark.parametrize(
    "sentence",
    [
        "openvino/student.int8.xml and student.onnx:openvino do 5 images/s, 1/2 of it at 3 / 4.",
        "Run `compress data check` or see https://example.com/a/b.",
        "class 'n/a' has 5 images, [-0.93 to 2.09], 97.36% ~ 1.",
    ],
)
def test_what_is_no_path_of_this_machine_stays(run: Any, sentence: str) -> None:
    assert without_places(run({"name": "folder", "root": "photos"}))(sentence) == sentence


def test_the_tables_and_the_folder_of_data_keep_their_names(run: Any) -> None:
    tables = {"train": f"{HOME}/secret/train.csv", "evaluation": "sets/val.csv"}
    data = public_recipe(run({"name": "csv", "root": f"{HOME}/secret", **tables})).data
    assert (data.root, data.train, data.evaluation) == (None, "train.csv", "val.csv")
    data = public_recipe(run({"name": "hub", "repo": f"{HOME}/sets/mine", "train": "train"})).data
    assert (data.repo, data.train) == ("mine", "train")


def test_a_folder_is_no_data_set_of_the_hub(run: Any, tmp_path: Path) -> None:
    (tmp_path / "sets" / "mine").mkdir(parents=True)
    found = {}
    for repo in ("somebody/their-pictures", "mnist", "sets/mine", f"{HOME}/sets", "~/sets", "./sets", str(tmp_path)):
        made = run({"name": "hub", "repo": repo})
        found[repo] = hub_repository(made, made.recipe.data)
        assert public_recipe(made).data.repo == (found[repo] or Path(repo).name)
    assert [repo for repo, there in found.items() if there] == ["somebody/their-pictures", "mnist"]
