"""The ranking of measured models, with latencies that are written by hand."""

import pytest

from compress.recipe import validate_recipe
from compress.recipe.strict_yaml import parse_yaml
from compress.system.errors import GateError
from export.pick.published import figure
from export.pick.rank import in_order, nearest, rank
from export.pick.records import RuntimeName
from export.pick.run import Pick, raise_if_none_fits, recipe_lines, with_rows
from tests.helpers.picked import FOUND, measured, timing

BOTH: tuple[RuntimeName, ...] = ("onnxruntime", "openvino")


def test_what_fits_comes_first_by_published_top1_and_the_rest_by_latency() -> None:
    rows = rank(FOUND, BOTH, p90_ms=5.0)
    names = [row.model.split(".")[0] for row in rows]
    assert names == ["resnet18", "resnet10t", "mobilenetv3_small_100", "of_my_own", "resnet50"]
    assert [row.fits for row in rows] == [True, True, True, True, False]
    assert {row.model.split(".")[0] for row in rows if row.dominated} == {"mobilenetv3_small_100"}
    figures = [figure(row.model) for row in rows]
    assert [row.top1 for row in rows] == [one and one.top1 for one in figures]
    assert rows[3].top1 is None


def test_a_row_is_of_the_fastest_file_in_the_runtimes_that_are_allowed() -> None:
    (row,) = rank({"resnet10t": FOUND["resnet10t"]}, BOTH, p90_ms=5.0)
    assert (row.runtime, row.precision, row.p90_ms) == ("openvino", "int8", 2.0)
    (row,) = rank({"resnet10t": FOUND["resnet10t"]}, ["onnxruntime"], p90_ms=5.0)
    assert (row.runtime, row.precision, row.p90_ms) == ("onnxruntime", "int8", 3.0)
    assert rank({"resnet18": FOUND["resnet18"]}, ["openvino"], p90_ms=5.0) == []


def found(p90_ms: float) -> Pick:
    rows = rank(FOUND, BOTH, p90_ms)
    empty = Pick(
        image_size=64,
        p90_ms=p90_ms,
        batch=1,
        threads=1,
        runtimes=list(BOTH),
        machine={},
        source={},
        recommended=None,
        nearest="",
        recipe="",
        models=rows,
    )
    return with_rows(empty, rows)


def test_where_nothing_fits_the_nearest_is_named_and_the_gate_is_closed() -> None:
    answer = found(0.5)
    assert (answer.recommended, answer.nearest) == (None, "of_my_own")
    assert nearest(answer.models).p90_ms == 1.0
    with pytest.raises(GateError, match=r"no model answers within 0.5 ms: the nearest is of_my_own, 1.00 ms"):
        raise_if_none_fits(answer)
    raise_if_none_fits(found(1.0))


def test_the_snippet_is_a_part_of_a_recipe() -> None:
    answer = found(5.0)
    raw = parse_yaml(answer.recipe, "snippet")
    data = {"name": "folder", "root": "photos", "image_size": 64}
    recipe = validate_recipe({**raw, "data": data, "teacher": {"model": "resnet50", "source": "finetune"}})
    assert recipe.student.model == answer.recommended
    assert recipe.student.pretrained is True
    assert recipe.benchmark.p90_ms == 5.0


@pytest.mark.parametrize(
    ("runtimes", "batch", "formats", "benchmark"),
    [
        (("onnxruntime",), 1, ["onnx"], {"p90_ms": 5}),
        (("openvino",), 1, ["onnx", "openvino"], {"p90_ms": 5}),
        (BOTH, 8, ["onnx", "openvino"], {"batches": [8]}),
    ],
)
def test_the_snippet_is_for_the_runtimes_and_the_batch_that_were_asked_for(
    runtimes: tuple[RuntimeName, ...], batch: int, formats: list[str], benchmark: dict[str, object]
) -> None:
    """`benchmark.p90_ms` is of batch 1."""
    row = rank(FOUND, BOTH, p90_ms=5.0)[0]
    raw = parse_yaml(recipe_lines(row, 5.0, runtimes=runtimes, batch=batch), "snippet")
    assert (raw["export"]["formats"], raw["benchmark"]) == (formats, benchmark)


@pytest.mark.parametrize(
    ("changes", "budget", "lacking"),
    [
        ({}, 5.0, False),
        ({}, 3.0, True),
        ({"long": True}, 3.0, False),
        ({"long": True, "contended": True}, 3.0, True),
        ({"contended": True}, 100.0, True),
    ],
)
def test_what_is_near_another_budget_is_measured_again_for_longer(
    changes: dict[str, bool], budget: float, lacking: bool
) -> None:
    known = measured(timing(3.0, "openvino", "int8").model_copy(update=changes))
    assert known.lacks("openvino", budget) is lacking
    assert known.lacks("onnxruntime", budget) is True
    refused = known.model_copy(update={"refused": ["onnxruntime"]})
    assert refused.lacks("onnxruntime", budget) is False


def test_what_was_trained_on_the_users_data_is_ranked_by_what_it_reached() -> None:
    rows = rank(FOUND, BOTH, p90_ms=5.0)
    own = {"resnet10t": 90.0, "resnet18": 80.0}
    rows = in_order([row.model_copy(update={"own_top1": own.get(row.model.split(".")[0])}) for row in rows])
    assert [row.model.split(".")[0] for row in rows][:3] == ["resnet10t", "resnet18", "mobilenetv3_small_100"]
    assert (
        recipe_lines(rows[0], 5.0, runtimes=BOTH).splitlines()[1]
        == "student: {model: resnet10t.c3_in1k, pretrained: true}"
    )
