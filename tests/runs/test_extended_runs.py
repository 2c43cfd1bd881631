"""Runs that go on after their end: their student is that of the settings in the recipe, or they are refused."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from compress.recipe import load_recipe
from compress.runs import distill, load_student, student
from compress.runs.folder import Run
from compress.system.errors import InputError, Interrupted, UsageError
from compress.training.checkpoint import newest_checkpoint
from compress.training.metrics import read_metrics
from tests.helpers.training import stop_after

pytestmark = pytest.mark.slow
INT8 = ("train.quantize=int8", "train.quantize_epochs=1")


def run(recipe: Path, out: Path, *overrides: str, **options: Any) -> Run:
    given = load_recipe(recipe, method="kd", overrides=["train.lr=0.02", *overrides])
    return distill(given, out=out, resume=True, **options)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_student(run).state_dict()


def same(one: Run, other: Run) -> bool:
    return one.manifest["student_sha256"] == other.manifest["student_sha256"]


def interrupted_at_the_last_evaluation(recipe: Path, out: Path, *overrides: str) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Interrupted(2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student, "logits_of", stop)
        with pytest.raises(Interrupted):
            run(recipe, out, *overrides)


def test_a_signal_in_the_last_evaluation_leaves_the_student_that_was_finished(here: Path, tiny_recipe: Path) -> None:
    before = weights(run(tiny_recipe, here / "run"))
    interrupted_at_the_last_evaluation(tiny_recipe, here / "run", "train.epochs=3")
    after = weights(Run(here / "run"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    longer = run(tiny_recipe, here / "run", "train.epochs=3")
    assert not torch.equal(weights(longer)["fc.weight"], before["fc.weight"])


def test_checkpoints_that_are_further_than_what_is_asked_for_are_not_taken_for_it(
    here: Path, tiny_recipe: Path
) -> None:
    run(tiny_recipe, here / "run")
    interrupted_at_the_last_evaluation(tiny_recipe, here / "run", "train.epochs=4")
    assert Run(here / "run").recipe.train.epochs == 2
    for asked in ("train.epochs=3", *INT8[:1]):
        with pytest.raises(UsageError, match=r"of epoch 5, and [23] were asked for"):
            run(tiny_recipe, here / "run", asked)
    assert run(tiny_recipe, here / "run", "train.epochs=4").manifest["status"] == "finished"


@pytest.mark.parametrize("changed", ["train.quantize_lr=0.01", "train.quantize_epochs=1", "train.quantize_epochs=3"])
def test_another_fine_tuning_for_int8_is_that_of_a_run_that_had_it_from_the_first(
    here: Path, tiny_recipe: Path, changed: str
) -> None:
    first = run(tiny_recipe, here / "run", "train.quantize=int8", "train.quantize_epochs=2")
    before = first.manifest["student_sha256"]
    asked = [*INT8[:1], *(["train.quantize_epochs=2"] if "lr" in changed else []), changed]
    again = run(tiny_recipe, here / "run", *asked)
    assert again.manifest["student_sha256"] != before
    assert same(again, run(tiny_recipe, here / "fresh", *asked))


def test_a_fine_tuning_for_int8_that_was_interrupted_further_than_is_asked_for_starts_anew(
    here: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the 3 epochs, of 4 steps each, it is in the third."""
    run(tiny_recipe, here / "run")
    stop_after(monkeypatch, 10)
    with pytest.raises(Interrupted):
        run(tiny_recipe, here / "run", *INT8[:1], "train.quantize_epochs=3")
    found = newest_checkpoint(Run(here / "run").qat_checkpoints)
    assert found is not None
    assert (found.meta["epoch"], found.meta["step"]) == (2, 2)
    asked = (*INT8[:1], "train.quantize_epochs=2")
    assert same(run(tiny_recipe, here / "run", *asked), run(tiny_recipe, here / "fresh", *asked))


def test_without_fine_tuning_the_student_and_its_metrics_are_those_of_before(here: Path, tiny_recipe: Path) -> None:
    plain = run(tiny_recipe, here / "plain")
    tuned = run(tiny_recipe, here / "run", *INT8)
    assert {line["phase"] for line in read_metrics(tuned.path / "metrics.jsonl")} == {"teacher", "student", "quantize"}
    back = run(tiny_recipe, here / "run")
    assert same(back, plain)
    assert {line["phase"] for line in read_metrics(back.path / "metrics.jsonl")} == {"teacher", "student"}


def test_while_it_is_fine_tuned_terms_go_on_as_they_were_at_the_end(here: Path, tiny_recipe: Path) -> None:
    """The projection is the trained one, and the schedule's end at epoch 2 is over: the loss is the method's alone."""
    term = "supervision.terms=[{name: fitnet, student: layer3, schedule: {end: 2}}]"
    args = "student.args={channels: [8, 8, 8, 4]}"
    done = run(tiny_recipe, here / "run", term, args)
    trained = newest_checkpoint(done.checkpoints)
    tuned = run(tiny_recipe, here / "run", term, args, *INT8, "train.quantize_lr=1e-9")
    (line,) = [line for line in read_metrics(tuned.path / "metrics.jsonl") if line["phase"] == "quantize"]
    assert line["fitnet"] > 0
    assert line["loss"] == pytest.approx(0.9 * line["kd"] + 0.1 * line["ce"], rel=1e-5)
    assert trained is not None
    before = trained.part("terms")
    found = newest_checkpoint(tuned.qat_checkpoints)
    assert found is not None
    assert before
    for name, value in found.part("terms").items():
        torch.testing.assert_close(value, before[name], rtol=1e-4, atol=1e-5)


def test_a_layer_whose_weight_is_used_without_it_is_fine_tuned_as_well(here: Path, tiny_recipe: Path) -> None:
    """BEiT's attention computes with the weight of `qkv`, whose inputs then have no range."""
    beit = "student={model: beit_base_patch16_224, args: {embed_dim: 16, depth: 1, num_heads: 2, patch_size: 4}}"
    done = run(tiny_recipe, here / "run", beit, *INT8)
    assert done.manifest["status"] == "finished"
    assert all(value.isfinite().all() for value in weights(done).values())


def test_a_checkpoint_that_does_not_take_the_images_is_refused_in_one_line(here: Path, tiny_recipe: Path) -> None:
    model = "{model: dla46_c, source: checkpoint, checkpoint: weights.safetensors}"
    save_file(timm.create_model("dla46_c", num_classes=3).state_dict(), "weights.safetensors")
    with pytest.raises(InputError, match="the teacher does not take images of 8 pixels"):
        run(tiny_recipe, here / "run", f"teacher={model}")


def test_kept_logits_are_not_those_of_another_model_with_equal_weights(
    here: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(here / "cache"))
    teacher = run(tiny_recipe, here / "first").teacher / "model.safetensors"
    for number, act in enumerate(("relu", "gelu")):
        args = f"{{channels: [8, 8, 16, 16], act_layer: {act}}}"
        source = f"source: checkpoint, checkpoint: {teacher}, cache: {{views: 1}}"
        run(tiny_recipe, here / f"run{number}", f"teacher={{model: resnet10t, args: {args}, {source}}}")
    assert len(list((here / "cache" / "teacher-logits").glob("*/"))) == 2
