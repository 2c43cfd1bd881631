"""The adversarial term: its two losses, whose gradients do not mix, and a discriminator that is saved and guarded."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import recipe
from compress.losses.adversarial import Discriminator, adversarial_losses
from compress.losses.objective import Objective
from compress.system.errors import DivergedError, Interrupted
from compress.system.seeds import stream
from compress.training.metrics import read_metrics
from compress.training.state import Training, prepare
from tests.helpers.networks import equal, network
from tests.helpers.terms import FITNET, make, supervision
from tests.helpers.training import newest, run, splits, stop_after, trained
from tests.reference import adversarial_reference

TERM: dict[str, Any] = {"name": "adversarial", "weight": 0.1, "width": 16}
BOTH = [TERM, {**FITNET, "weight": 0.5}, {**TERM, "lr": 0.01, "schedule": {"start": 1.0}}]


@pytest.fixture
def case() -> tuple[Discriminator, Tensor, Tensor, Tensor]:
    """A discriminator, logits of student and teacher, labels; float64."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 9, 5, dtype=torch.float64)
    return Discriminator(5, 7).double(), logits[0].requires_grad_(), logits[1].requires_grad_(), torch.arange(9) % 5


def layers(discriminator: nn.Module) -> list[tuple[Any, Any]]:
    return [(m.weight.tolist(), m.bias.tolist()) for m in discriminator.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_both_losses_are_those_of_the_reference(case: Any, scale: float) -> None:
    discriminator, student, teacher, labels = case
    found = adversarial_losses(discriminator, scale * student, scale * teacher, labels)
    s, t = (scale * student).tolist(), (scale * teacher).tolist()
    expected = adversarial_reference.losses(layers(discriminator), s, t, labels.tolist())
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-10)


def test_half_precision_logits_are_judged_in_float32(case: Any) -> None:
    discriminator, student, teacher, labels = case
    halves = student.detach().bfloat16(), teacher.detach().bfloat16()
    found = adversarial_losses(discriminator.float(), halves[0], halves[1], labels)
    rows = [half.tolist() for half in halves]
    expected = adversarial_reference.losses(layers(discriminator), *rows, labels.tolist())
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-5)


def test_each_loss_trains_its_own_side_alone(case: Any) -> None:
    discriminator, student, teacher, labels = case
    of_student, of_discriminator = adversarial_losses(discriminator, student, teacher, labels)
    of_student.backward()
    assert student.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    student.grad = None
    of_discriminator.backward()
    assert student.grad is None
    assert teacher.grad is None
    assert all(parameter.grad.abs().sum() > 0 for parameter in discriminator.parameters())


def test_the_student_s_gradient_is_that_of_its_loss(case: Any) -> None:
    discriminator, student, teacher, labels = case
    assert torch.autograd.gradcheck(lambda s: adversarial_losses(discriminator, s, teacher, labels)[0], (student,))


def test_in_one_backward_pass_neither_gradient_holds_a_part_of_the_other() -> None:
    student, teacher = network(1).eval(), network(2).eval()
    terms = make([TERM], student, teacher)
    objective = Objective.of(supervision([TERM], "ce"), label_smoothing=0.0)
    images, labels = torch.randn(8, 3, 6, 6), torch.arange(8) % 4
    with terms.recording(), terms.teacher.recording():
        z_s, z_t = student(images), teacher(images)
    parts = objective(z_s, z_t, labels, terms=terms, teacher_features=terms.teacher.features())
    discriminator = terms.discriminators["adversarial"]
    of_student, of_discriminator = adversarial_losses(discriminator, z_s, z_t, labels)
    total = F.cross_entropy(z_s, labels) + 0.1 * of_student
    torch.testing.assert_close(parts["loss"], total)
    torch.testing.assert_close(parts["adversarial"], of_student.detach())
    torch.testing.assert_close(parts["adversarial_discriminator"], of_discriminator.detach())
    expected = torch.autograd.grad(total, list(student.parameters()), retain_graph=True)
    opposed = torch.autograd.grad(of_discriminator, list(discriminator.parameters()), retain_graph=True)
    parts["loss"].backward()
    for parameter, slope in zip(
        [*student.parameters(), *discriminator.parameters()], [*expected, *opposed], strict=True
    ):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, slope)


def test_a_step_of_the_discriminator_is_one_of_adam_on_its_own_loss(tmp_path: Path) -> None:
    """The first, written out, on the student's outputs before its own step; the student's settings do not matter."""
    student, teacher = network(1), network(2, channels=12).eval()
    before = make([TERM], student, teacher, seed=stream(3, "student", "terms")).discriminators["adversarial"]
    data = splits().train
    images = ((data.images / 255 - 0.4) / 0.2).permute(0, 3, 1, 2)
    _, loss = adversarial_losses(before, student.train()(images), teacher(images), data.labels)
    slopes = torch.autograd.grad(loss, list(before.parameters()))
    options = {"batch_size": 50, "precision": "fp32", "weight_decay": 0.1, "clip_grad": 1e-3}
    trained(
        network(1),
        splits=splits(),
        teacher=teacher,
        objective=Objective.of(supervision([{**TERM, "lr": 0.02}], "ce"), label_smoothing=0.0),
        settings=recipe.TrainSettings.model_validate({"epochs": 1, "lr": 0.1, "seed": 3, **options}),
        augment=recipe.Augment(crop=0, flip=False),
        epochs=1,
        folder=tmp_path,
        provenance={},
    )
    found = newest(tmp_path)
    for (name, value), slope in zip(before.named_parameters(), slopes, strict=True):
        expected = value - 0.02 * slope / (slope.abs() + 1e-8)
        large = slope.abs() > 1e-4  # where rounding cannot turn it round
        assert large.any()
        step = found[f"terms.discriminators.adversarial.{name}"]
        torch.testing.assert_close(step[large], expected.detach()[large], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "lr": 0.003, "ema": 0.9}, {"precision": "bf16"}])
def test_at_no_weight_every_bit_of_the_student_is_left_alone(tmp_path: Path, options: dict[str, Any]) -> None:
    teacher = network(2, channels=12)
    teacher[1] = nn.Identity()  # with nothing to fold: with terms a teacher stays whole, and rounds otherwise
    plain = run(tmp_path / "plain", [], teacher=teacher, **options)
    assert equal(plain, run(tmp_path / "off", [{**TERM, "weight": 0.0}], teacher=teacher, **options))
    assert not equal(plain, run(tmp_path / "on", [TERM], teacher=teacher, **options))


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "ema": 0.9, "lr": 0.003, "clip_grad": 1.0}])
@pytest.mark.parametrize("stop", [1, 5])
def test_an_interrupted_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], stop: int
) -> None:
    whole = run(tmp_path / "whole", BOTH, **options)
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", BOTH, **options)
    assert equal(whole, run(tmp_path / "parts", BOTH, **options))
    one, other = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert {f"adversary.{number}.exp_avg_sq" for number in range(12)} <= one.keys()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_metrics_hold_both_losses_and_the_student_is_saved_alone(tmp_path: Path) -> None:
    trained = run(tmp_path, BOTH, method="ce", schedule="constant", lr=1e-12)
    assert trained.state_dict().keys() == network(1).state_dict().keys()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    for line in lines:
        assert line.keys() >= {"adversarial_discriminator", "adversarial_2", "adversarial_2_discriminator"}
        weights = {"ce": 1.0, "adversarial": 0.1, "fitnet": 0.5, "adversarial_2": 0.1 * (line["epoch"] >= 1)}
        assert line["loss"] == pytest.approx(sum(weight * line[name] for name, weight in weights.items()), rel=1e-4)


def test_against_a_student_that_stands_still_the_discriminator_wins(tmp_path: Path) -> None:
    run(tmp_path, [{**TERM, "lr": 0.01}], method="ce", epochs=40, schedule="constant", lr=1e-12)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert lines[-1]["adversarial_discriminator"] < 0.7 * lines[0]["adversarial_discriminator"]
    assert lines[-1]["adversarial"] > lines[0]["adversarial"]


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """What each training consists of, for a look at it afterwards."""
    made: list[Training] = []

    def remember(*args: Any, **kwargs: Any) -> Training:
        made.append(prepare(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr("compress.training.loop.prepare", remember)
    return made


def finite(state: Training) -> bool:
    assert state.terms is not None
    parameters = [*state.model.parameters(), *state.terms.discriminators.parameters()]
    return all(bool(value.isfinite().all()) for value in parameters)


def test_a_discriminator_whose_loss_is_not_finite_takes_no_step_and_neither_does_the_student(
    tmp_path: Path, states: list[Training]
) -> None:
    """After its first step its scores overflow."""
    with pytest.raises(DivergedError, match="epoch 1, step 2: adversarial is nan"):
        run(tmp_path, [{**TERM, "weight": 0.0, "lr": 1e20}])
    assert finite(states[0])


def test_so_does_one_whose_gradient_alone_is_not_finite(
    tmp_path: Path, states: list[Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Discriminator, logits: Tensor) -> Tensor:
        scores = nn.Sequential.forward(self, logits)
        if next(self.parameters()).requires_grad:  # its own pass, not the student's
            scores.register_hook(lambda gradient: gradient * torch.inf)
        return scores

    monkeypatch.setattr(Discriminator, "forward", forward)
    with pytest.raises(DivergedError, match="epoch 1, step 1: the gradient is"):
        run(tmp_path, [{**TERM, "weight": 0.0}])
    assert finite(states[0])
