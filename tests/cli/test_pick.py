"""`compress pick` as a command: JSON, table, defaults of a recipe, the gate and bad input. No time is asserted."""

import json
from pathlib import Path

import pytest

from compress.recipe import load_recipe
from tests.helpers.command import Command, assert_fails

FAST = ("--image-size", 32, "--runtime", "onnxruntime", "--threads", 1, "--model", "test_resnet")


def test_json_has_a_row_for_each_model(command: Command, tmp_path: Path) -> None:
    plot = tmp_path / "pick.svg"
    result = command("pick", *FAST, "--model", "test_vit", "--p90-ms", 1e6, "--plot", plot, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert {row["model"] for row in found["models"]} == {"test_resnet", "test_vit"}
    for row in found["models"]:
        assert row["fits"] is True
        assert row["p90_ms"] > 0
        assert row["runtime"] == "onnxruntime"
        assert row["precision"] in ("fp32", "int8")
        assert "top1" in row
    assert found["recommended"] == found["models"][0]["model"]
    assert found["source"]["file"] == "results/results-imagenet.csv"
    assert plot.exists()


def test_a_budget_that_nothing_fits_shows_the_nearest_and_fails_the_gate_alone(
    command: Command, tmp_path: Path
) -> None:
    shown = command("pick", *FAST, "--p90-ms", 1e-6, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "0 of 1 models answer within 1e-06 ms" in shown.stdout
    assert "test_resnet" in shown.stdout
    assert "student: {model: test_resnet, pretrained: true}" in shown.stdout
    gated = command("pick", *FAST, "--p90-ms", 1e-6, "--gate", cwd=tmp_path)
    assert gated.returncode == 6
    assert "error: no model answers within 1e-06 ms: the nearest is test_resnet" in gated.stderr
    assert command("pick", *FAST, "--p90-ms", 1e6, "--gate", cwd=tmp_path).returncode == 0


def test_a_recipe_says_size_and_budget(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data: {name: folder, root: photos, image_size: 32}\nteacher: {model: resnet18}\n"
        "student: {model: test_resnet, pretrained: true}\nbenchmark: {p90_ms: 1000000}\n"
    )
    result = command("pick", path, *FAST[2:], "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["image_size"], found["p90_ms"]) == (32, 1e6)
    of_many = command("pick", path, *FAST[2:], "--batch", 8, cwd=tmp_path)
    assert_fails(of_many, 2, "--p90-ms is missing")  # the recipe's is of batch 1
    path.write_text(path.read_text().replace("name: folder, root: photos, image_size: 32", "name: cifar100"))
    result = command("pick", path, *FAST[2:], "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["image_size"] == 32, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--p90-ms", 5], "--image-size is missing"),
        (["--image-size", 32], "--p90-ms is missing"),
        (["--image-size", 32, "--p90-ms", 0], "is not in the range"),
        (["--image-size", 32, "--p90-ms", "nan"], "'nan' is not a finite number"),
        (["--image-size", 32, "--p90-ms", "inf"], "'inf' is not a finite number"),
        (["--image-size", 32, "--p90-ms", "1e400"], "'1e400' is not a finite number"),
        (["--image-size", 32, "--p90-ms", 5, "--plot", "p.txt"], "must end in .png"),
        (["--image-size", 32, "--p90-ms", 5, "--model", "resnet19"], "timm has no model 'resnet19'"),
        (["--image-size", 32, "--p90-ms", 5, "--runtime", "trt"], "'trt' is not one of"),
        (["none.yaml"], "no recipe at none.yaml"),
    ],
    ids=str,
)
def test_bad_usage_is_exit_2(command: Command, tmp_path: Path, arguments: list[object], message: str) -> None:
    result = command("pick", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.slow
def test_the_best_few_are_trained_for_an_epoch_and_ranked_again(
    command: Command, tiny_recipe: Path, tmp_path: Path
) -> None:
    models = ("--model", "resnet10t", "--model", "resnet14t")
    size = ("--image-size", load_recipe(tiny_recipe).data.image_size, "--p90-ms", 1e6)
    result = command(
        "pick", *size, *FAST[2:6], *models, "--with-accuracy", tiny_recipe, "--json", cwd=tmp_path, timeout=900
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["models"]
    own = [row["own_top1"] for row in rows]
    assert own == sorted(own, reverse=True)
    runs = sorted((tmp_path / "runs" / "pick").iterdir())
    tops = {json.loads((run / "manifest.json").read_text())["student_top1"] for run in runs}
    assert {round(100 * top, 3) for top in tops} == set(own)
    assert [load_recipe(run / "recipe.yaml").training.epochs for run in runs] == [1, 1]
    assert {load_recipe(run / "recipe.yaml").teacher.training.epochs for run in runs} == {2}
    assert len([one for one in (tmp_path / "runs" / "teachers").iterdir() if one.is_dir()]) == 1
