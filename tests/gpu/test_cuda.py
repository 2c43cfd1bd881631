"""The loop on a CUDA device: run with `pytest -m gpu` where there is one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress import recipe
from compress.data.splits import Splits
from compress.losses import features
from compress.losses.distillation import distillation_loss
from compress.models import create_model
from compress.system.errors import DivergedError, MachineError
from compress.training.divergence import DivergenceWatch
from compress.training.evaluate import accuracy, logits_of
from compress.training.metrics import read_metrics
from tests.helpers.training import newest, splits
from tests.helpers.training import run as train_small
from tests.helpers.two_processes import in_two_processes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = "cuda"


def resnet(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    settings = recipe.Model(model="resnet10t", args={"channels": [8, 16, 16, 32]})
    return create_model(settings, num_classes=4, image_size=16)


TERMS = [
    {"name": "fitnet"},
    {"name": "attention_transfer", "student": "layer2", "teacher": "layer3"},
    {"name": "neuron_selectivity"},
    {"name": "similarity_preserving"},
    {"name": "relational", "weight": 0.1},
    {"name": "dkd"},
    {"name": "dist", "weight": 0.1},
]


def run(
    folder: Path,
    device: str = CUDA,
    teacher: nn.Module | None = None,
    data: Splits | None = None,
    terms: list[dict[str, Any]] | None = None,
    **options: Any,
) -> nn.Module:
    return train_small(
        folder,
        terms or [],
        method="ka-ps+dtd-flsw",
        teacher=teacher or resnet(2),
        model=resnet(1),
        data=data or splits(256, size=16, device=device),
        augment=recipe.Augment(crop=2, flip=True, erase=0.2, scale=0.7),
        **{"batch_size": 64, **options},
    )


def test_augmentation_gives_the_cpus_batches() -> None:
    rows = torch.randperm(256)[:64]
    augment = recipe.Augment(crop=2, flip=True, erase=0.3, scale=0.6)
    cpu = splits(256, size=16).train.augmented(rows, augment, seed=3, epoch=1)
    cuda = splits(256, size=16, device=CUDA).train.augmented(rows.to(CUDA), augment, seed=3, epoch=1)
    torch.testing.assert_close(cuda.cpu(), cpu, atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_cpus() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(64, 10, generator=generator) * 4 for _ in range(2))
    labels = torch.randint(0, 10, (64,), generator=generator)
    for adjust in ("none", "probability_shift", "label_smoothing"):
        for dynamic in ("constant", "flsw", "cwsm"):
            cpu, cuda = (
                distillation_loss(student.to(d), teacher.to(d), labels.to(d), adjust=adjust, dynamic=dynamic)
                for d in ("cpu", CUDA)
            )
            torch.testing.assert_close(cuda["loss"].cpu(), cpu["loss"])


@pytest.mark.parametrize("loss", [features.fitnet, features.relational, features.neuron_selectivity])
def test_feature_losses_are_the_cpus(loss: Callable[..., torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (2, 9):
        f_s, f_t = (torch.randn(16, 12, size, size, generator=generator) for _ in range(2))
        values, slopes = [], []
        for device in ("cpu", CUDA):
            student = f_s.to(device).requires_grad_()
            value = loss(student, f_t.to(device))
            values.append(value.cpu())
            slopes.append(torch.autograd.grad(value, student)[0].cpu())
        torch.testing.assert_close(values[0], values[1], atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(slopes[0], slopes[1], atol=1e-5, rtol=1e-2)


@pytest.mark.parametrize("terms", [[], TERMS], ids=["method", "terms"])
@pytest.mark.parametrize("compiled", [False, True])
def test_training_learns_and_resumes(tmp_path: Path, compiled: bool, terms: list[dict[str, Any]]) -> None:
    run(tmp_path, compile=compiled, terms=terms)
    longer = run(tmp_path, compile=compiled, epochs=12, terms=terms)
    assert [line["epoch"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(12))
    part = splits(256, size=16, device=CUDA).evaluation
    assert accuracy(logits_of(longer, part), part.labels).top1 > 0.9


def test_the_first_epoch_agrees_with_the_cpu_in_float32(tmp_path: Path) -> None:
    run(tmp_path / "cuda", precision="fp32", epochs=1, lr=0.01)
    run(tmp_path / "cpu", "cpu", precision="fp32", epochs=1, lr=0.01)
    one, other = (read_metrics(tmp_path / name / "metrics.jsonl")[0] for name in ("cuda", "cpu"))
    assert one["loss"] == pytest.approx(other["loss"], rel=0.05)
    assert one["adjusted"] == pytest.approx(other["adjusted"], abs=0.02)


@pytest.mark.parametrize("optimizer", ["lamb", "lookahead_adamw", "rmsprop"])
def test_what_an_optimizer_keeps_on_the_host_is_checkpointed_too(tmp_path: Path, optimizer: str) -> None:
    run(tmp_path, epochs=1, optimizer=optimizer, lr=0.001)
    assert any(name.startswith("optimizer") for name in newest(tmp_path))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_bad_step_leaves_the_weights_alone_without_a_sync(optimizer: str) -> None:
    model = nn.Linear(4, 2).to(CUDA)
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    stepper = kind(model.parameters(), lr=0.1, fused=True)
    watch = DivergenceWatch(torch.device(CUDA))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    (model(torch.ones(1, 4, device=CUDA)).sum() * torch.nan).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        stepper.found_inf = watch.check({"loss": torch.full((), torch.nan, device=CUDA)}, torch.ones((), device=CUDA))
        stepper.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(DivergedError):
        watch.raise_if_diverged("student", 0)


def test_out_of_memory_names_a_batch_size_that_really_fits(tmp_path: Path) -> None:
    """The allocator may use what batches of a quarter need, and some more."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    data = splits(8192, size=16, device=CUDA)
    options: dict[str, Any] = {"epochs": 1, "data": data, "precision": "fp32"}
    run(tmp_path / "quarter", batch_size=2048, **options)
    limit = 1.3 * torch.cuda.max_memory_reserved() / torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit)
    try:
        with pytest.raises(MachineError, match=r"epoch 1, step 1.*batches of 8192") as caught:
            run(tmp_path / "whole", batch_size=8192, **options)
        assert caught.value.code == 4
        found = re.search(r"train\.batch_size=(\d+) fits", str(caught.value))
        assert found
        assert int(found[1]) < 8192
        run(tmp_path / "fitting", batch_size=int(found[1]), **options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    run(tmp_path / "whole", batch_size=8192, **options)


def run_in_float32(folder: Path) -> dict[str, torch.Tensor]:
    model = run(folder, precision="fp32", lr=0.01)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    return {name: value.cpu() for name, value in model.state_dict().items()}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_end_at_the_weights_and_batch_statistics_of_one(tmp_path: Path) -> None:
    """With BatchNorm, whose statistics are then those of the global batch."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    expected = run_in_float32(tmp_path / "one")
    for found in in_two_processes(run_in_float32, tmp_path / "two", "cuda"):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3, msg=name)
