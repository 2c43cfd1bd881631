"""One run in two real processes is the run of one: its losses, gradients, weights, metrics, logits; its ends, too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import recipe
from compress.data.augment import Images
from compress.distributed.world import current
from compress.losses.objective import Objective
from compress.system.errors import DivergedError, Interrupted, UsageError
from compress.system.interrupts import Flag
from compress.training.batches import batches_and_teacher
from compress.training.evaluate import logits_of
from compress.training.memo import Memo
from compress.training.metrics import read_metrics
from compress.training.qat import with_fake_quantization
from compress.training.state import loss_parts, prepare
from tests.helpers.networks import equal, network
from tests.helpers.terms import ALL, supervision
from tests.helpers.training import MEASURED, repeatable_metrics, run, splits, stop_after
from tests.helpers.two_processes import in_two_processes

pytestmark = pytest.mark.slow

DIST_AT_ONE_TEMPERATURE = {"name": "dist", "temperature": 2.0}
ADVERSARIAL = {"name": "adversarial", "weight": 0.5, "width": 8}
INT8 = "ka+dtd, all, quantised"
CASES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    **{
        method: (method, [])
        for method in (
            *("ce", "kd", "ka-ps", "ka-lsr", "dtd-flsw", "dtd-cwsm"),
            *("ka-ps+dtd-flsw", "ka-lsr+dtd-cwsm"),
        )
    },
    **{f"ka+dtd, {number} {term['name']}": ("ka+dtd", [term]) for number, term in enumerate(ALL)},
    "ce, dist": ("ce", [DIST_AT_ONE_TEMPERATURE]),
    "ka+dtd, adversarial": ("ka+dtd", [ADVERSARIAL]),
    "kd, all": ("kd", [*ALL, ADVERSARIAL]),
    INT8: ("ka+dtd", ALL),
}
TRAININGS: dict[str, dict[str, Any]] = {
    "sgd": {"method": "ka-ps+dtd-flsw"},
    "terms": {"method": "ka-lsr+dtd-cwsm", "terms": ALL, "clip_grad": 1.0},
    "adamw": {"method": "dtd-cwsm", "optimizer": "adamw", "lr": 0.003, "ema": 0.9},
    "int8": {"method": "ka+dtd", "terms": ALL, "quantized": True},
    "saved by the clock": {"method": "kd", "checkpoint_minutes": 1e-9},
}
COUNTS = (1, 511, 512, 513, 1024, 1300, 1600)


def student(dropout: float = 0.0) -> nn.Sequential:
    """Without statistics of the batch, so that parts of a batch can equal the whole."""
    model = network(1, dropout=dropout)
    model[1] = nn.GroupNorm(2, 8)
    return model


def first_step(method: str, terms: list[dict[str, Any]], model: nn.Module) -> dict[str, Tensor]:
    """The parts of the loss and every gradient of the first step, as the loop makes them; of INT8 also the ranges."""
    settings = recipe.TrainSettings.model_validate({"batch_size": 32, "precision": "fp32"})
    objective = Objective.of(supervision(terms, method), label_smoothing=0.1)
    batches, cheap = batches_and_teacher(
        *(splits().train, network(2, channels=12), objective, settings, recipe.Augment(crop=1, flip=True), "student"),
        views=None,
        memo=Memo(),
    )
    state = prepare(model, batches, objective, settings, 1, "student", teacher=cheap)
    state.model.train()
    parts, _ = loss_parts(state, batches.get(0, 0, Flag()))
    state.backward(parts["loss"])
    parts = {name: value.detach() for name, value in state.world.combined(parts).items()}
    parts |= {name: limit for name, limit in state.model.named_buffers() if name.endswith(("min_val", "max_val"))}
    opponents = [] if state.terms is None else state.terms.discriminators.named_parameters()
    parameters = [*state.trained.named_parameters(), *opponents]
    return parts | {name: p.grad for name, p in parameters if p.grad is not None}


def step_of(name: str) -> dict[str, Tensor]:
    return first_step(*CASES[name], with_fake_quantization(student()) if name == INT8 else student())


def training(folder: Path, *, terms: Any = (), quantized: bool = False, **options: Any) -> dict[str, Tensor]:
    model = with_fake_quantization(student()) if quantized else student()
    return run(folder, list(terms), model=model, **{"precision": "fp32", **options}).state_dict()


def evaluation(count: int) -> Tensor:
    pixels = torch.randint(0, 256, (count, 6, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    half = torch.full((3,), 0.5)
    return logits_of(network(3), Images(pixels, torch.zeros(count, dtype=torch.long), half, half))


def error_of(work: Callable[[], Any]) -> tuple[str, str]:
    try:
        work()
    except (UsageError, DivergedError) as error:
        return type(error).__name__, str(error)
    return "", ""


def first_random_number() -> float:
    settings = recipe.TrainSettings.model_validate({"batch_size": 16})
    objective = Objective.of(supervision([], "ce"), label_smoothing=0.0)
    options = {"views": None, "memo": Memo()}
    batches, _ = batches_and_teacher(
        splits().train, None, objective, settings, recipe.Augment(crop=0, flip=False), "student", **options
    )
    prepare(student(), batches, objective, settings, 1, "student")
    return torch.rand(()).item()


def stopped_by_a_signal_to_one(folder: Path) -> int:
    """SIGTERM reaches process 1 in the fifth step. The exit code."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 5, rank=1)
        try:
            training_with_dropout(folder)
        except Interrupted as stop:
            return stop.code
    return 0


def training_with_dropout(folder: Path) -> nn.Module:
    return run(folder, ALL, model=network(1, dropout=0.3), optimizer="adamw", lr=0.003, ema=0.9)


def diverging_in_one(folder: Path) -> tuple[tuple[str, str], nn.Module]:
    """A loss that is NaN in the fourth step of process 1 alone, and the student after it."""
    model, seen = student(), []

    def spoil(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        seen.append(1) if module.training else None
        return output * torch.nan if len(seen) == 3 + 4 and current().rank == 1 and module.training else output

    with model[-1].register_forward_hook(spoil):
        return error_of(lambda: run(folder, [], method="kd", model=model, precision="fp32")), model


class WithUnused(nn.Module):
    """Has parameters on which its output does not depend in training, while in evaluation it does."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = student(), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.used(images)
        return logits if self.training else logits + 0 * self.unused(images.mean((2, 3))).sum()


def everything(folder: Path) -> dict[str, Any]:
    """All that two processes are asked, at once: starting them takes longest."""
    made = {name: folder / name for name in ("whole", "stopped", "diverged", "unused", *TRAININGS)}
    for path in made.values():
        if current().leads:
            path.mkdir()
    return {
        "steps": {name: step_of(name) for name in CASES},
        "trained": {name: training(made[name], **options) for name, options in TRAININGS.items()},
        "logits": {count: evaluation(count) for count in COUNTS},
        "random": first_random_number(),
        "whole": training_with_dropout(made["whole"]),
        "code": stopped_by_a_signal_to_one(made["stopped"]),
        "stopped at": sorted(path.name for path in made["stopped"].glob("checkpoints/*.json"))[-1],
        "resumed": training_with_dropout(made["stopped"]),
        "diverged": diverging_in_one(made["diverged"]),
        "unused": run(made["unused"], [], method="kd", model=WithUnused(), precision="fp32", weight_decay=0.1),
        "odd": error_of(lambda: run(folder, [], method="ce", model=student(), batch_size=15)),
        "clamped": error_of(lambda: run(folder, [], method="ce", model=student(), data=splits(27), batch_size=64)),
        "resumed by two": error_of(lambda: training(folder.parent / "one", method="ce", epochs=2)),
    }


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, which two are asked to go on with."""
    folder = tmp_path_factory.mktemp("parallel") / "one"
    folder.mkdir()
    training(folder, method="ce", epochs=1)
    return folder


@pytest.fixture(scope="module")
def two(one: Path) -> tuple[Path, list[dict[str, Any]]]:
    folder = one.parent / "two"
    folder.mkdir()
    return folder, in_two_processes(everything, folder)


Two = tuple[Path, list[dict[str, Any]]]


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_one_process(two: Two, name: str) -> None:
    expected = step_of(name)
    assert any("input_quantizer" in part for part in expected) == (name == INT8)
    assert any(part.startswith("adversarial.0") for part in expected) == (ADVERSARIAL in CASES[name][1])
    for found in two[1]:
        assert found["steps"][name].keys() == expected.keys()
        for part, value in expected.items():
            scale = value.abs().max().item()
            torch.testing.assert_close(found["steps"][name][part].to(value.dtype), value, rtol=2e-4, atol=2e-5 * scale)


@pytest.mark.parametrize("name", TRAININGS)
def test_training_ends_at_the_weights_and_metrics_of_one_process(two: Two, tmp_path: Path, name: str) -> None:
    folder, processes = two
    alone = training(tmp_path, **TRAININGS[name])
    found, other = (process["trained"][name] for process in processes)
    torch.testing.assert_close(found, other, rtol=0, atol=0)
    torch.testing.assert_close(found, alone, rtol=1e-3, atol=2e-5)
    lines, expected = read_metrics(folder / name / "metrics.jsonl"), read_metrics(tmp_path / "metrics.jsonl")
    assert len(lines) == len(expected) == 3
    for line, one in zip(lines, expected, strict=True):
        assert line.keys() == one.keys()
        for key in line.keys() - MEASURED - {"phase"}:
            assert line[key] == pytest.approx(one[key], rel=1e-3, abs=1e-6), key


def test_the_leaders_clock_saves_inside_an_epoch(two: Two) -> None:
    saved = [path.name for path in (two[0] / "saved by the clock" / "checkpoints").glob("*.json")]
    assert any("-step-000002-" in name for name in saved), saved


@pytest.mark.parametrize("count", COUNTS)
def test_logits_are_bit_for_bit_those_of_one_process_in_order(two: Two, count: int) -> None:
    expected = evaluation(count)
    assert all(torch.equal(found["logits"][count], expected) for found in two[1])


def test_each_process_draws_its_own_dropout(two: Two) -> None:
    own = [found["random"] for found in two[1]]
    assert own[0] == first_random_number()
    assert own[0] != own[1]


def test_a_signal_to_one_process_stops_both_at_one_step_and_they_resume_to_the_same_bits(two: Two) -> None:
    """With dropout, BatchNorm and projections, whose states differ between the processes or beside the student."""
    folder, processes = two
    assert [found["code"] for found in processes] == [143, 143]
    assert processes[0]["stopped at"].startswith("epoch-00001-step-000003")  # the sixth, as it is known a step later
    assert all(equal(found["whole"], found["resumed"]) for found in processes)
    assert equal(processes[0]["whole"], processes[1]["whole"])
    assert repeatable_metrics(folder / "stopped") == repeatable_metrics(folder / "whole")


def test_a_loss_that_is_nan_in_one_process_stops_both_before_the_step(two: Two) -> None:
    (error, model), (other, follower) = (found["diverged"] for found in two[1])
    assert error == other
    assert error[0] == "DivergedError"
    assert "student training diverged at epoch 2, step 1: " in error[1]
    assert equal(model, follower)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_parameters_without_influence_stay_as_they_are(two: Two, tmp_path: Path) -> None:
    alone = run(tmp_path, [], method="kd", model=WithUnused(), precision="fp32", weight_decay=0.1)
    for found, expected in zip(two[1][0]["unused"].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("odd", ["batches of 15 images", "2 processes", "train.batch_size=14"]),
        ("clamped", ["batches of 27 images", "2 processes", "train.batch_size=26"]),
        ("resumed by two", ["are of 1 process", "here are 2"]),
    ],
)
def test_what_two_processes_cannot_do_is_refused(two: Two, name: str, words: list[str]) -> None:
    for found in two[1]:
        kind, message = found[name]
        assert kind == "UsageError"
        assert all(word in message for word in words), message
