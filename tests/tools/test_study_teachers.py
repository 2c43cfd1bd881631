"""A study's teacher that sees larger images than its students."""

import json
from pathlib import Path

import pytest
import yaml

from compress.data import load_data
from compress.recipe import Data
from tests.helpers.studies import SMOKE, reproduce, runs

pytestmark = pytest.mark.slow


def test_a_teacher_that_sees_larger_images_is_trained_and_measured_on_those(tmp_path: Path) -> None:
    study = yaml.safe_load(SMOKE.read_text())
    del study["tune"]
    study["base"]["teacher"] |= {"image_size": 16}
    study |= {"settings": {"clean": {}}, "seeds": [0]}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    result = reproduce(cwd=tmp_path, study=path)
    assert result.returncode == 0, result.stderr
    (facts,) = (json.loads(path.read_text()) for path in (tmp_path / "runs/teachers").glob("*/model/facts.json"))
    assert facts["data"] == load_data(Data(name="digits", image_size=16)).sha256
    assert facts["top1"] > 0.5
    for run in runs(tmp_path).values():
        assert run["measures"]["teacher"]["top1"]["value"] == pytest.approx(facts["top1"], abs=0.03)
