"""`train.precision: auto`: what decides, that it stays decided, and that it is asked once for each model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import compress.runs.resolve as resolving
from compress.recipe import Member, Recipe, Student, validate_recipe
from compress.runs import precision
from compress.runs.precision import fast_precision, measured
from compress.runs.resolve import resolve

CPU = torch.device("cpu")
BF16 = ["avx2", "avx512_bf16"]


@pytest.fixture
def bf16_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[str, int]]]:
    """A CPU with bf16 on which every measurement says bf16. Returns what was measured: names and image sizes."""
    asked: list[tuple[str, int]] = []

    def say(name: str, args: dict[str, object], image_size: int) -> tuple[str, float]:
        asked.append((name, image_size))
        return "bf16", 1.3

    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "processor", lambda: ("a CPU", BF16))
    monkeypatch.setattr(precision, "measured", say)
    precision._kept.cache_clear()
    yield asked
    precision._kept.cache_clear()


def recipe(**changed: object) -> Recipe:
    content = {
        "data": {"name": "digits"},
        "teacher": {"model": "resnet18", "epochs": 1},
        "student": {"model": "resnet10t"},
        "train": {"epochs": 1},
    }
    return validate_recipe({**content, **changed})


@pytest.mark.parametrize("gain", [1.09, 1.1])
def test_bf16_must_gain_a_tenth(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    monkeypatch.setattr(precision, "_gain", lambda model, images: gain)
    assert measured("test_vit", {}, 32) == ("bf16" if gain >= 1.1 else "fp32", gain)


def test_the_gain_is_the_ratio_of_both_times(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = {"now": 0.0}

    def step(model: object, images: object, *, bf16: bool) -> None:
        spent["now"] += 0.02 if bf16 else 0.05

    monkeypatch.setattr(precision, "_step", step)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: spent["now"])
    assert measured("test_vit", {}, 32) == ("bf16", 2.5)


def test_gradients_that_are_not_finite_mean_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(model: torch.nn.Module, images: torch.Tensor, *, bf16: bool) -> None:
        weight = next(model.parameters())
        weight.grad = torch.full_like(weight, torch.nan if bf16 else 0.0)

    monkeypatch.setattr(precision, "_step", step)
    assert measured("test_vit", {}, 32) == ("fp32", None)


def test_a_machine_that_is_too_slow_to_tell_means_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr(precision, "_step", lambda *args, **kwargs: None)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: float(next(clock)))
    assert measured("test_vit", {}, 32) == ("fp32", None)


def test_models_with_maps_of_two_pixels_are_not_trained_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_gain", lambda model, images: 2.0)
    small = {"channels": [8, 8, 8, 8]}
    assert measured("resnet10t", small, 64) == ("fp32", None)  # its last stage sees 4 x 4, and then 2 x 2 pixels
    assert measured("resnet10t", small, 128) == ("bf16", 2.0)
    assert measured("mobilenetv3_small_050", {}, 128) == (
        "bf16",
        2.0,
    )  # squeeze-and-excite sees 1 x 1 with a kernel of 1


def test_the_measurement_leaves_torchs_random_stream_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    measured("test_vit", {}, 32)
    assert torch.equal(torch.rand(2), expected)


def test_a_cpu_without_bf16_is_not_measured(
    bf16_machine: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "processor", lambda: ("a CPU", ["avx2"]))
    assert fast_precision(Student(model="resnet18"), 32, CPU) == "fp32"
    assert bf16_machine == []


def test_a_model_is_measured_once_on_a_machine(bf16_machine: list[tuple[str, int]]) -> None:
    for _ in range(2):
        assert fast_precision(Student(model="resnet50.a1_in1k"), 160, CPU) == "bf16"
        precision._kept.cache_clear()  # as in a new process
    assert fast_precision(Member(model="resnet50"), 160, CPU) == "bf16"
    assert bf16_machine == [("resnet50", 160)]


def test_a_cache_that_cannot_be_written_stops_nothing(
    bf16_machine: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "file"))
    assert fast_precision(Student(model="resnet50"), 160, CPU) == "bf16"


def test_teacher_and_student_are_decided_each_for_itself(bf16_machine: list[tuple[str, int]]) -> None:
    resolved = resolve(recipe(), CPU)
    assert bf16_machine == [("resnet10t_smallstem", 16), ("resnet18_smallstem", 16)]
    assert (resolved.training.precision, resolved.teacher.training.precision) == ("bf16", "bf16")
    resolve(recipe(student={"model": "resnet14t"}), CPU)
    assert bf16_machine[2:] == [("resnet14t_smallstem", 16)], "another student is no other teacher"


def test_what_a_recipe_says_is_not_measured(bf16_machine: list[tuple[str, int]]) -> None:
    resolved = resolve(recipe(train={"epochs": 1, "precision": "fp32"}), CPU)
    assert (resolved.training.precision, resolved.teacher.training.precision) == ("fp32", "fp32")
    own = {"model": "resnet18", "train": {"epochs": 1, "precision": "fp32"}}
    resolved = resolve(recipe(teacher=own, train={"epochs": 1, "precision": "bf16"}), CPU)
    assert (resolved.training.precision, resolved.teacher.training.precision) == ("bf16", "fp32")
    assert bf16_machine == []


def test_a_run_goes_on_in_the_precision_that_it_began_with(
    bf16_machine: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"model": "resnet18", "epochs": 1, "ensemble": ["resnet14t"]}
    given = recipe(teacher=members)
    began = resolve(given, CPU)
    monkeypatch.setattr(resolving, "fast_precision", lambda *args: pytest.fail("it was asked again"))
    again = resolve(given, CPU, like=began)
    assert again == began
    assert [member.training.precision for member in again.teacher.members] == ["bf16", "bf16"]


def test_the_cells_of_a_sweep_agree(bf16_machine: list[tuple[str, int]], tmp_path: Path) -> None:
    from compress.sweeps.cells import grid

    path = tmp_path / "r.yaml"
    path.write_text("data: {name: digits}\nteacher: {model: resnet18, epochs: 1}\nstudent: {model: resnet10t}\n")
    cells = grid(path, ["ce", "kd"], [0, 1], ["train.lr=0.1,0.05"], tmp_path)
    found = {resolve(cell.recipe, CPU).train.precision for cell in cells}
    assert (len(cells), found, len(bf16_machine)) == (8, {"bf16"}, 2)
