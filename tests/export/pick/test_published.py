"""The published figures, against timm's own table where its checkout is beside this one, and against timm itself."""

import csv
import re

import pytest
import timm
import torch

from export.pick.published import figure, published_models, source, teachers
from tests.helpers.paths import ROOT

TABLE = ROOT.parent / "pytorch-image-models" / "results" / "results-imagenet.csv"
ALL = (*published_models(), *teachers())


@pytest.mark.realdata
def test_figures_are_those_of_timms_table() -> None:
    if not TABLE.exists():
        pytest.skip("no checkout of pytorch-image-models is beside this one")
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = {(row["model"], int(row["img_size"])): row for row in csv.DictReader(file)}
    for one in ALL:
        row = rows[one.model, one.image_size]
        assert (one.top1, one.params_m) == (float(row["top1"]), float(row["param_count"])), one.model


def test_every_figure_is_of_weights_that_timm_publishes_and_that_may_be_used() -> None:
    published = set(timm.list_pretrained())
    for one in ALL:
        cfg = timm.get_pretrained_cfg(one.model)
        assert one.model in published, one.model
        assert cfg is not None
        assert cfg.hf_hub_id, one.model
        assert cfg.license == one.license
        assert "-nc" not in one.license, one.model


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv4_conv_small", "repvit_m0_9"])
def test_parameters_are_those_of_the_architecture(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    one = figure(name)
    assert one is not None
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert count == pytest.approx(one.params_m, abs=0.01)


def test_the_source_names_a_commit_and_a_date() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", source()["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", source()["date"])


def test_a_name_without_a_tag_stands_for_the_best_weights() -> None:
    known = figure("resnet18")
    assert known is not None
    assert figure(known.model) == known
    assert figure("resnet18.no_such_tag") is None
