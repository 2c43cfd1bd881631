"""A batch that is computed in parts, against the whole batch and against parts that are all kept in memory."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import recipe
from compress.losses.objective import Objective
from compress.system.errors import Interrupted, UsageError
from compress.system.interrupts import Flag
from compress.training.accumulation import gradients
from compress.training.batches import Batch, batches_and_teacher
from compress.training.memo import Memo
from compress.training.qat import with_fake_quantization
from compress.training.state import Training, of_student, parts_of_loss, prepare
from tests.helpers.networks import Exact, Staged, equal, network, with_statistics
from tests.helpers.terms import STAGED_HINT, STAGED_TERMS, supervision
from tests.helpers.training import newest, repeatable_metrics, run, splits, stop_after

METHODS = ("ce", "kd", "ka-ps", "ka-lsr", "dtd-flsw", "dtd-cwsm", "ka-ps+dtd-flsw", "ka-lsr+dtd-cwsm")
CASES = {
    **{method: (method, []) for method in METHODS},
    **{f"{method}, {term['name']}": (method, [term]) for term in STAGED_TERMS for method in ("kd", "ka+dtd")},
    "ce, adversarial and fitnet": ("ce", [STAGED_HINT, STAGED_TERMS[-1]]),
    "ka+dtd, all": ("ka+dtd", STAGED_TERMS),
}
"""A student and its layers are named as in Staged, a teacher as in network()."""


def prepared(
    model: nn.Module, method: str, terms: list[dict[str, Any]], parts: int, **options: Any
) -> tuple[Training, Batch]:
    """A training before its first step, and the batch of that step."""
    settings = recipe.TrainSettings.model_validate(
        {"batch_size": 16, "precision": "fp32", "grad_accumulation": parts, **options}
    )
    objective = Objective.of(supervision(terms, method), label_smoothing=0.1)
    augment = recipe.Augment(crop=1, flip=True)
    batches, cheap = batches_and_teacher(
        splits().train, network(2, channels=12), objective, settings, augment, "student", views=None, memo=Memo()
    )
    state = prepare(model, batches, objective, settings, 1, "student", teacher=cheap)
    state.begin_training()
    return state, batches.get(0, 0, Flag())


def found(state: Training, parts: dict[str, Tensor], logits: Tensor) -> dict[str, Tensor]:
    """Everything that a step computes."""
    modules = {"model": state.model} | ({} if state.terms is None else {"terms": state.terms})
    named = {f"{key}.{name}": value for key, module in modules.items() for name, value in module.named_parameters()}
    slopes = {name: value.grad for name, value in named.items() if value.grad is not None}
    return {**parts, **slopes, "logits": logits}


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("case", CASES)
def test_the_step_of_parts_is_that_of_the_whole_batch(case: str, count: int) -> None:
    """In float64. 16 images make parts of 4 and 3."""
    whole, batch = prepared(Exact(), *CASES[case], 1)
    logits = None if batch.teacher_logits is None else batch.teacher_logits.double()
    batch = replace(batch, teacher_logits=logits)
    if whole.terms is not None:
        whole.terms.double()
    expected = found(whole, *gradients(whole, batch))
    state, _ = prepared(Exact(), *CASES[case], count)
    if state.terms is not None:
        state.terms.double()
    result = found(state, *gradients(state, batch))
    assert result.keys() == expected.keys()
    assert len(expected) > 14
    for name, value in expected.items():
        torch.testing.assert_close(
            result[name], value, rtol=1e-10, atol=1e-13, msg=lambda text, name=name: f"{name}: {text}"
        )


def in_memory(state: Training, batch: Batch, count: int) -> tuple[dict[str, Tensor], Tensor]:
    """The parts of a batch, one after the other in the same state, all kept until the loss."""
    made = [of_student(state, images) for images in batch.images.tensor_split(count)]
    logits = torch.cat([logits for logits, _ in made])
    features = {path: torch.cat([maps[path] for _, maps in made]) for path in made[0][1]}
    parts = parts_of_loss(state, batch, logits, features)
    parts["loss"].backward()
    return parts, logits.detach()


def with_dropout() -> nn.Module:
    model = with_statistics(Staged(1))
    model.pool.append(nn.Dropout(0.3))
    return model


@pytest.mark.parametrize("make", [with_dropout, lambda: with_fake_quantization(with_dropout())])
@pytest.mark.parametrize("freeze", [None, "stem"])
def test_the_second_pass_repeats_the_first_to_the_bit_and_updates_nothing_again(
    make: Callable[[], nn.Module], freeze: str | None
) -> None:
    """Dropout, BatchNorm's statistics and the ranges of INT8."""
    results = []
    for step in (gradients, lambda state, batch: in_memory(state, batch, 3)):
        state, batch = prepared(make(), "ka+dtd", STAGED_TERMS, 3, freeze=freeze)
        before = {name: value.clone() for name, value in state.model.named_buffers()}
        torch.manual_seed(5)
        results.append(found(state, *step(state, batch)) | dict(state.model.named_buffers()))
        results[-1]["random"] = torch.get_rng_state()
        moved = {name for name, value in state.model.named_buffers() if not torch.equal(value, before[name])}
        assert {"layer1.1.running_mean", "layer2.1.num_batches_tracked"} <= moved
    one, other = results
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


@pytest.mark.parametrize(("method", "passes"), [("kd", 1), ("ka+dtd", 2)])
def test_no_model_ever_sees_more_than_a_part(tmp_path: Path, method: str, passes: int) -> None:
    student, teacher = Staged(1), network(2, channels=12)
    seen: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            seen.append(len(inputs[0]))

    student.stem.register_forward_pre_hook(note)
    run(tmp_path, model=student, teacher=teacher, method=method, epochs=1, grad_accumulation=5)
    assert sorted(seen) == sorted(passes * (2 + 3) * [4, 3, 3, 3, 3])  # two for the estimate of time


def test_nor_does_the_teacher_whose_answers_are_those_for_the_whole_batch() -> None:
    _, whole = prepared(Staged(1), "kd", [STAGED_HINT], 1)
    state, _ = prepared(Staged(1), "kd", [STAGED_HINT], 5)
    teacher: Any = state.batches.teacher
    seen: list[int] = []
    teacher.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    batch = state.batches.supervised(whole.images, whole.labels)
    assert seen == [4, 3, 3, 3, 3]
    assert batch.teacher_logits is not None
    torch.testing.assert_close(batch.teacher_logits, whole.teacher_logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(batch.teacher_features, whole.teacher_features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"method": "kd"}, {"method": "ka+dtd", "terms": STAGED_TERMS}])
def test_a_training_in_parts_ends_at_the_weights_and_metrics_of_the_whole(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    fixed = {"precision": "fp32", "lr": 0.01, **options}
    whole = run(tmp_path / "whole", model=Staged(1, statistics=False), **fixed)
    parts = run(tmp_path / "parts", model=Staged(1, statistics=False), grad_accumulation=3, **fixed)
    assert not equal(whole, parts)  # sums in another order
    for one, other in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)
    for one, other in zip(*(repeatable_metrics(tmp_path / name) for name in ("parts", "whole")), strict=True):
        assert one.pop("phase") == other.pop("phase")
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    "options", [{"method": "kd"}, {"method": "ka+dtd", "terms": STAGED_TERMS, "freeze_epochs": 1.0}]
)
@pytest.mark.parametrize("stop", [2, 5])
def test_an_interrupted_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], stop: int
) -> None:
    options = {"grad_accumulation": 3, **options}
    whole = run(tmp_path / "whole", model=with_dropout(), **options)
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", model=with_dropout(), **options)
    assert equal(whole, run(tmp_path / "parts", model=with_dropout(), **options))
    first, second = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_more_parts_than_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train.grad_accumulation: 16 images .* in 17 parts. Set it to 16 or lower"):
        run(tmp_path, grad_accumulation=17)


def test_parts_of_one_image_are_refused_where_a_batchnorm_needs_more(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"on parts of batches of one image. Lower train.grad_accumulation"):
        run(tmp_path, grad_accumulation=9)
    run(tmp_path, model=Staged(1, statistics=False), grad_accumulation=16, epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "ka+dtd"])
def test_compiled_training_agrees_with_eager(tmp_path: Path, method: str) -> None:
    options = {"precision": "fp32", "grad_accumulation": 2, "freeze": "stem", "freeze_epochs": 1.0, "lr": 0.01}
    start = with_statistics(Staged(1))
    eager = run(tmp_path / "eager", [STAGED_HINT], model=copy.deepcopy(start), method=method, **options)
    compiled = run(
        tmp_path / "compiled", [STAGED_HINT], model=copy.deepcopy(start), method=method, compile=True, **options
    )
    for one, other in zip(compiled.state_dict().values(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
    assert not equal(start, eager)
