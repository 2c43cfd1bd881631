"""`train.class_weights: auto` reaches the training of the student and of the teacher."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from compress.recipe import validate_recipe
from compress.recipe.strict_yaml import parse_yaml
from compress.runs import student, teacher
from compress.runs.distillation import distill
from compress.training.loop import train
from tests.helpers.pictures import TINY, write_folder_data


@pytest.mark.parametrize(("own", "weighted"), [({}, {"teacher", "student"}), ({"class_weights": "none"}, {"student"})])
def test_both_trainings_get_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: dict[str, str], weighted: set[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_folder_data(tmp_path / "data", train=24)
    for path in sorted((root / "train" / "dark").iterdir())[5:]:
        path.unlink()
    found: dict[str, Any] = {}

    def recorded(model: Any, job: Any, *args: Any, **options: Any) -> Any:
        found[job.phase] = job.objective.class_weights
        return train(model, job, *args, **options)

    for module in (student, teacher):
        monkeypatch.setattr(module, "train", recorded)
    content: Any = parse_yaml(TINY, "tiny")
    content["data"]["root"] = str(root)
    content["train"] |= {"class_weights": "auto", "epochs": 1}
    content["teacher"] = (
        {**content["teacher"], "epochs": 1, "train": own} if own else {**content["teacher"], "epochs": 1}
    )
    distill(validate_recipe(content), device="cpu")
    labels = [0] * 5 + [1] * 24 + [2] * 24
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert {phase for phase, weights in found.items() if weights is not None} == weighted
    for phase in weighted:
        np.testing.assert_allclose(found[phase].numpy(), expected, rtol=1e-6)
