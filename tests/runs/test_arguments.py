"""Arguments of the Python API that are of another kind are refused in words, before anything is made."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress import distill, load_recipe, load_student
from compress.system.errors import EXIT_USAGE, UsageError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"recipe": "recipe.yaml"}, r"recipe must be Recipe, and is a str\. load_recipe"),
        ({"teacher": "resnet18"}, r"teacher must be Module or None, and is a str\. .* teacher\.model"),
        ({"student": nn.Linear}, r"student must be Module or None, and is the class Linear"),
        ({"student": nn.Linear(2, 2).state_dict()}, "and is a OrderedDict"),
        ({"out": 3}, "out must be str or Path or None"),
        ({"resume": "yes"}, "resume must be bool"),
        ({"name": None}, "name must be str"),
        ({"device": "cuda:1"}, r"device 'cuda:1' is none of auto, cpu and cuda\. CUDA_VISIBLE_DEVICES"),
        ({"device": torch.device("cuda", 1)}, "device 'cuda:1' is none of"),
        ({"device": "mps"}, r"device 'mps' is none of auto, cpu and cuda$"),
        ({"device": "gpu"}, "'gpu' is none of"),
        ({"device": "CPU"}, "'CPU' is none of"),
        ({"device": 0}, "'0' is none of"),
        ({"device": None}, "'None' is none of"),
    ],
)
def test_distill_refuses_it(here: Path, tiny_recipe: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        distill(**{"recipe": load_recipe(tiny_recipe), **arguments})
    assert caught.value.code == EXIT_USAGE
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"overrides": "train.epochs=1"}, r"overrides must be list or tuple, and is a str\. .*train\.epochs=10"),
        ({"overrides": {"train.epochs": 1}}, "overrides must be list or tuple, and is a dict"),
        ({"overrides": [("train.epochs", 1)]}, "an entry must be str, and is a tuple"),
        ({"path": {"data": {}}}, "path must be str or Path, and is a dict"),
        ({"method": 3}, "method must be str or None"),
    ],
)
def test_load_recipe_refuses_it(tiny_recipe: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_recipe(**{"path": tiny_recipe, **arguments})


def test_load_student_refuses_it(finished: Path) -> None:
    with pytest.raises(UsageError, match="run must be Run or str or Path, and is a NoneType"):
        load_student(None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="model must be Module or None, and is the class Linear"):
        load_student(finished, model=nn.Linear)  # type: ignore[arg-type]


def test_a_device_of_torch_is_a_device(here: Path, tiny_recipe: Path) -> None:
    run = distill(load_recipe(tiny_recipe, method="ce", overrides=["train.epochs=1"]), device=torch.device("cpu"))  # type: ignore[arg-type]
    assert run.manifest["device"].startswith("cpu")
