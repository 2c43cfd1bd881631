"""The head of a model card on the Hub: licence, data and the model that the student began with."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from export.delivery import push_run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "data", "license_", "expected"),
    [
        (
            {"model": "resnet18.a1_in1k", "pretrained": True},
            {"name": "cifar100"},
            "apache-2.0",
            ("timm/resnet18.a1_in1k", ["uoft-cs/cifar100"], "apache-2.0"),
        ),
        (
            {"model": "hf-hub:somebody/their-model@main", "pretrained": True},
            {"name": "hub", "repo": "somebody/their-pictures"},
            "mit",
            ("somebody/their-model", ["somebody/their-pictures"], "mit"),
        ),
        ({"model": "resnet18.a1_in1k", "pretrained": False}, {"name": "digits"}, None, (None, None, None)),
        ({"model": "resnet18", "pretrained": "/home/somebody/weights"}, {"name": "digits"}, None, (None, None, None)),
    ],
    ids=["timm", "hub", "random", "own weights"],
)
def test_the_card_names_licence_data_and_the_model_that_it_began_with(
    finished: Path,
    tmp_path: Path,
    student: dict[str, Any],
    data: dict[str, str],
    license_: str | None,
    expected: tuple[Any, ...],
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / finished.name))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["student"] |= student
    recipe["data"] = {"image_size": recipe["data"]["image_size"], **data}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    config = json.loads((run / "student" / "config.json").read_text())
    config["pretrained_cfg"]["license"] = license_
    (run / "student" / "config.json").write_text(json.dumps(config))
    push_run(run, "me/small", dry_run=True)
    card = ModelCard.load(run / "hub" / "README.md").data.to_dict()
    assert tuple(map(card.get, ("base_model", "datasets", "license"))) == expected
