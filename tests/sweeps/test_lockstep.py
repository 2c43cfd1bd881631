"""Trainings in turns: the bits of each alone, one pass of the teacher for all, and nobody's failure is another's."""

import json
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from compress.models.inference import InferenceTeacher
from compress.recipe import load_recipe
from compress.runs.distillation import distill, distill_in_steps
from compress.runs.folder import Run
from compress.sweeps.lockstep import Steps, run_in_lockstep
from compress.system.errors import DivergedError, FaultError, Interrupted, MachineError
from compress.training.loop import Position
from compress.training.memo import Memo
from compress.training.metrics import read_metrics

pytestmark = pytest.mark.slow
EPOCHS, STEPS = 2, 4  # 72 images in batches of 16
DROPOUT = "student.args={channels: [8, 8, 8, 8], drop_rate: 0.4}"
WIDE = "student.args={channels: [8, 8, 16, 16], drop_rate: 0.2}"
MEMBERS = {
    "kd": ("kd", []),
    "both with dropout": ("ka+dtd", [DROPOUT]),
    "labels, wider": ("ce", [WIDE]),
    "a term": ("ka", [DROPOUT, "supervision.terms=[{name: dkd}]"]),
    "a feature": ("kd", ["supervision.terms=[{name: fitnet, student: layer2, teacher: layer1}]"]),
    "others": ("ka+dtd", [DROPOUT, "supervision.terms=[{name: relational}, {name: fitnet, teacher: layer3}]"]),
    "a discriminator": ("dtd", [DROPOUT, "supervision.terms=[{name: adversarial, weight: 0.1}]"]),
    "for INT8": ("kd", [DROPOUT, "train.quantize=int8", "train.quantize_epochs=1"]),
}


@pytest.fixture(scope="module")
def alone(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hash of each member's student from a run of its own."""
    home = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return {name: sha256(distill(load(tiny_recipe, name), out=name)) for name in MEMBERS}


def load(recipe: Path, name: str, *overrides: str) -> Any:
    method, settings = MEMBERS[name]
    return load_recipe(recipe, method=method, overrides=[*settings, *overrides])


def together(recipe: Path, *names: str, overrides: dict[str, str] | None = None) -> dict[str, Steps]:
    memo, overrides = Memo(), overrides or {}
    return {
        name: distill_in_steps(
            load(recipe, name, *filter(None, [overrides.get(name)])), memo=memo, out=name, resume=True
        )
        for name in names
    }


def sha256(outcome: Any) -> str:
    assert isinstance(outcome, Run), outcome
    return outcome.manifest["student_sha256"]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of images of each pass that a cheap teacher makes in training, as torch's hooks see them."""
    monkeypatch.setattr("compress.training.loop.outlook", lambda *_: "")  # it times some passes beforehand
    seen: list[int] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, InferenceTeacher):
            seen.append(len(inputs[0]))

    handle = register_module_forward_pre_hook(look)
    yield seen
    handle.remove()


def test_each_student_has_the_bits_of_its_run_alone(here: Path, tiny_recipe: Path, alone: dict[str, str]) -> None:
    outcomes = run_in_lockstep(together(tiny_recipe, *MEMBERS))
    assert {name: sha256(outcome) for name, outcome in outcomes.items()} == alone
    assert len(set(alone.values())) == len(alone)


@pytest.mark.parametrize("look_inside", [False, True])
def test_one_pass_of_the_teacher_serves_all_students(
    here: Path, tiny_recipe: Path, passes: list[int], look_inside: bool
) -> None:
    """One that nobody looks into is folded, and so another."""
    inside = ["a feature", "others"]
    members = inside if look_inside else [name for name in MEMBERS if name not in (*inside, "for INT8")]
    run_in_lockstep(together(tiny_recipe, *members))
    assert passes == [16] * (EPOCHS * STEPS)


def test_the_stream_of_the_caller_is_left_as_it_was(here: Path, tiny_recipe: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run_in_lockstep(together(tiny_recipe, "both with dropout"))
    assert torch.equal(torch.rand(3), expected)


def test_the_one_that_is_furthest_behind_goes_first_and_the_teacher_before_all(here: Path) -> None:
    log: list[str] = []

    def steps(name: str, start: int) -> Steps:
        for step in range(2 if name == "a" else 0):
            yield Position("teacher", 0, step)
            log.append(f"{name} teaches")
        for position in range(start, 6):
            yield Position("student", position // 3, position % 3)
            log.append(f"{name}{position}")
        return Run(Path(name))

    outcomes = run_in_lockstep({"a": steps("a", 2), "b": steps("b", 0), "c": steps("c", 4)})
    assert log[:2] == ["a teaches"] * 2
    assert log[2:] == ["b0", "b1", "a2", "b2", "a3", "b3", "a4", "b4", "c4", "a5", "b5", "c5"]
    assert outcomes == {name: Run(Path(name)) for name in "abc"}


def test_a_run_that_diverges_does_not_stop_the_others(here: Path, tiny_recipe: Path, alone: dict[str, str]) -> None:
    diverging = {"both with dropout": "supervision.dtd.beta=1e38"}
    outcomes = run_in_lockstep(together(tiny_recipe, *MEMBERS, overrides=diverging))
    assert isinstance(outcomes["both with dropout"], DivergedError)
    rest = [name for name in MEMBERS if name not in diverging]
    assert {name: sha256(outcomes[name]) for name in rest} == {name: alone[name] for name in rest}
    assert Run(here / "both with dropout").manifest["status"] == "failed"


def host_memory_error() -> Exception:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 55)
    return raised.value


@pytest.mark.parametrize(
    "error",
    [
        *(torch.OutOfMemoryError("CUDA out of memory"), host_memory_error()),
        *(OSError(5, "Input/output error", "/there"), ZeroDivisionError("a fault")),
    ],
)
def test_an_error_that_is_none_of_ours_ends_its_own_run_alone(
    here: Path, tiny_recipe: Path, alone: dict[str, str], error: Exception
) -> None:
    def broken(steps: Steps) -> Steps:
        yield next(steps)
        steps.close()
        raise error

    runs = together(tiny_recipe, "kd", "labels, wider")
    runs["kd"] = broken(runs["kd"])
    ended = run_in_lockstep(runs)["kd"]
    if "memory" in str(error):
        assert isinstance(ended, MachineError)
        assert "memory is too small for kd" in str(ended)
    elif isinstance(error, OSError):
        assert isinstance(ended, MachineError)
        assert str(ended) == "/there: Input/output error"
    else:
        assert isinstance(ended, FaultError)
        assert str(ended).startswith("ZeroDivisionError: a fault. This is a fault in compress")
        assert any("raise error" in note for note in pickle.loads(pickle.dumps(ended)).__notes__)
    assert Run(here / "labels, wider").manifest["student_sha256"] == alone["labels, wider"]


def test_a_first_run_that_fails_before_it_begins_does_not_stop_the_others(
    here: Path, tiny_recipe: Path, alone: dict[str, str]
) -> None:
    (here / "kd").mkdir()
    (here / "kd" / "something").write_text("in the way")
    outcomes = run_in_lockstep(together(tiny_recipe, "kd", "labels, wider"))
    assert "not empty" in str(outcomes["kd"])
    assert sha256(outcomes["labels, wider"]) == alone["labels, wider"]


def stopped_after(steps: Steps, count: int) -> None:
    """A signal comes during the step after `count` steps of the student; the run saves itself."""
    while next(steps).phase == "teacher":
        pass
    for _ in range(count):
        next(steps)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        next(steps)


def test_runs_that_stand_at_different_steps_go_on_to_the_same_bits_and_share_the_teacher(
    here: Path, tiny_recipe: Path, alone: dict[str, str], passes: list[int]
) -> None:
    names = ("both with dropout", "labels, wider", "kd", "a term")
    for name, count in zip(names, (5, 2), strict=False):
        stopped_after(together(tiny_recipe, name)[name], count)
    positions = [json.loads(max((here / name / "checkpoints").glob("*.json")).read_text()) for name in names[:2]]
    assert [(content["epoch"], content["step"]) for content in positions] == [(1, 2), (0, 3)]
    passes.clear()
    outcomes = run_in_lockstep(together(tiny_recipe, *names))
    assert {name: sha256(outcomes[name]) for name in names} == {name: alone[name] for name in names}
    assert passes == [16] * (EPOCHS * STEPS)  # those ahead wait for the one behind


def test_a_signal_saves_all_of_them_and_all_go_on_to_the_same_bits(
    here: Path, tiny_recipe: Path, alone: dict[str, str]
) -> None:
    names = ("kd", "both with dropout", "labels, wider")
    runs = together(tiny_recipe, *names)

    def interrupted(steps: Steps) -> Steps:
        """The signal comes during the run's sixth step."""
        count = 0
        while True:
            position = next(steps)
            count += position.phase == "student"
            if count == 6:
                signal.raise_signal(signal.SIGTERM)
            yield position

    with pytest.raises(Interrupted):
        run_in_lockstep({**runs, "kd": interrupted(runs["kd"])})
    for name in names:
        content = json.loads(max((here / name / "checkpoints").glob("*.json")).read_text())
        assert (content["epoch"], content["step"] > 0) == (1, True)
    outcomes = run_in_lockstep(together(tiny_recipe, *names))
    assert {name: sha256(outcomes[name]) for name in names} == {name: alone[name] for name in names}
    for name in names:
        lines = read_metrics(here / name / "metrics.jsonl")
        assert [line["epoch"] for line in lines if line["phase"] == "student"] == [0, 1]
