"""Every optimiser of timm that a training takes: the same bits after a signal, and no step on what is not finite."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim._optim_factory import get_optimizer_info, list_optimizers
from timm.optim._param_groups import param_groups_layer_decay
from torch import nn

from compress import recipe
from compress.system.errors import DivergedError, Interrupted, UsageError
from compress.training.metrics import read_metrics
from compress.training.optimizer import check_optimizer, make_optimizer, values_per_weight
from tests.helpers.networks import equal, network
from tests.helpers.training import newest, repeatable_metrics, run, stop_after


def settings(**options: Any) -> recipe.TrainSettings:
    return recipe.TrainSettings.model_validate({"epochs": 2, "lr": 0.01, **options})


def one_of_each_class() -> list[str]:
    """The first name of each class of optimisers, without those that are refused."""
    names: dict[Any, str] = {}
    for name in map(str, list_optimizers()):
        info = get_optimizer_info(name)
        if not isinstance(info.opt_class, str) and not name.startswith(("kron", "adahessian")):
            names.setdefault(info.opt_class, name)
    return sorted(names.values())


@pytest.mark.parametrize(
    "name", [*one_of_each_class(), "momentum", "adamuon", "cadamw", "lookahead_sgd", "lookahead_lamb"]
)
def test_an_interrupted_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    options = {"optimizer": name, "lr": 0.003, "epochs": 5, "schedule": "constant", "method": "kd"}
    whole = run(tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        stop_after(patch, 7)  # lookahead takes its slow weights in steps 6 and 12
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", **options)
    assert equal(whole, run(tmp_path / "parts", **options))
    assert repeatable_metrics(tmp_path / "parts") == repeatable_metrics(tmp_path / "whole")
    first, second = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not equal(whole, network(1, dropout=0.1))


@pytest.mark.parametrize("name", ["lion", "muon", "lookahead_adamw"])
def test_no_optimizer_takes_a_step_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    student = network(1)
    before = {name: value.clone() for name, value in student.named_parameters()}
    student[-1].register_forward_hook(lambda module, _, output: output * torch.nan if module.training else output)
    with pytest.raises(DivergedError):
        run(tmp_path, model=student, optimizer=name, method="kd")
    assert all(torch.equal(value, before[name]) for name, value in student.named_parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adamv", "timm has no optimiser 'adamv'. Nearest: adam, "),
        ("slow_adamw", "timm has no optimiser 'slow_adamw'"),
        ("adahessian", "adahessian needs second derivatives"),
        ("kronw", "kronw draws random numbers that no checkpoint holds"),
        ("lookahead_kron", "lookahead_kron draws random numbers"),
        ("bnbadam8bit", "bnbadam8bit is of bitsandbytes, with which compress does not train"),
        ("fusedlamb", "fusedlamb is of apex"),
    ],
)
def test_an_optimizer_that_cannot_be_used_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_optimizer(settings(optimizer=name), "teacher.train")
    assert str(caught.value).startswith(f"teacher.train.optimizer: {message}")
    assert "\n" not in str(caught.value)


def test_the_check_leaves_torch_s_random_stream_alone() -> None:
    before = torch.get_rng_state()
    for name in one_of_each_class():
        check_optimizer(settings(optimizer=name))
    assert torch.equal(before, torch.get_rng_state())


def test_what_an_optimizer_keeps_is_counted() -> None:
    kept = {name: values_per_weight(settings(optimizer=name)) for name in ("sgd", "adamw", "lion", "adan")}
    assert kept == {"sgd": 1, "adamw": 2, "lion": 1, "adan": 4}


def groups_by_name(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "vit_tiny_patch16_224", "convnext_atto"])
def test_layer_decay_makes_the_groups_that_timm_makes(name: str) -> None:
    with torch.device("meta"):
        model: Any = timm.create_model(name, num_classes=3)
    undecayed = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    expected = groups_by_name(
        model, param_groups_layer_decay(model, 0.05, no_weight_decay_list=undecayed, layer_decay=0.7)
    )
    optimizer = make_optimizer(model, None, settings(layer_decay=0.7, weight_decay=0.05, optimizer="adamw"))
    assert groups_by_name(model, optimizer.param_groups) == expected
    assert len({scale for scale, _ in expected.values()}) > 5
    theirs = timm.optim.create_optimizer_v2(model, "adamw", lr=0.01, weight_decay=0.05, layer_decay=0.7)
    assert groups_by_name(model, theirs.param_groups) == expected


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_every_schedule_scales_the_rates_of_layers_and_head(tmp_path: Path, schedule: str) -> None:
    """In one step of plain SGD each weight moves by its own rate times its gradient."""
    moved: dict[str, torch.Tensor] = {}
    start = timm.create_model("test_resnet", num_classes=4)
    for name, options in {"plain": {}, "scaled": {"layer_decay": 0.5, "head_lr": 0.03}}.items():
        model = timm.create_model("test_resnet", num_classes=4)
        model.load_state_dict(start.state_dict())
        rates = {"lr": 0.01, "schedule": schedule, "batch_size": 50, "precision": "fp32", **options}
        run(tmp_path / name, model=model, method="ce", epochs=1, momentum=0.0, weight_decay=0.0, **rates)
        before = dict(start.named_parameters())
        moved |= {f"{name}.{key}": value.detach() - before[key] for key, value in model.named_parameters()}
    groups = param_groups_layer_decay(start, 0.0, layer_decay=0.5)
    for key, (scale, _) in groups_by_name(start, groups).items():
        factor = 3.0 if key.startswith("fc.") else scale
        torch.testing.assert_close(moved[f"scaled.{key}"], factor * moved[f"plain.{key}"], rtol=1e-3, atol=1e-7)


def test_the_rate_that_is_reported_is_the_highest(tmp_path: Path) -> None:
    run(tmp_path, model=timm.create_model("test_resnet", num_classes=4), method="ce", epochs=1, schedule="constant",
        lr=0.01, layer_decay=0.5, head_lr=0.04)  # fmt: skip
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["lr"] == pytest.approx(0.04)


def test_layer_decay_needs_a_model_that_says_the_order_of_its_layers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train.layer_decay: Sequential does not say .* group_matcher\(\)"):
        run(tmp_path, layer_decay=0.5)


def test_a_rate_of_the_head_needs_a_model_that_says_what_its_head_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train.head_lr needs the last layer, and Sequential .* get_classifier\(\)"):
        run(tmp_path, head_lr=0.1)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "deit_tiny_distilled_patch16_224", "resnet10t"]
)
@pytest.mark.parametrize("options", [{}, {"head_lr": 0.5}, {"layer_decay": 0.7}])
def test_what_a_model_exempts_from_weight_decay_has_none(name: str, options: dict[str, float]) -> None:
    """As timm's own create_optimizer_v2 does it for the model."""
    model = timm.create_model(name, num_classes=3)
    head = model.get_classifier()
    modules = head if isinstance(head, tuple) else (head,)
    own = [parameter for module in modules for parameter in module.parameters()] if "head_lr" in options else []
    names = {id(value): key for key, value in model.named_parameters()}
    theirs = timm.optim.create_optimizer_v2(model, "adamw", lr=0.01, weight_decay=0.05)
    expected, found = (
        {names[id(one)]: group["weight_decay"] for group in each.param_groups for one in group["params"]}
        for each in (theirs, make_optimizer(model, None, settings(weight_decay=0.05, **options), head=own))
    )
    assert found == expected
    with_projection = make_optimizer(model, nn.Conv2d(2, 2, 1), settings(weight_decay=0.05), head=[])
    again = {id(one): group["weight_decay"] for group in with_projection.param_groups for one in group["params"]}
    assert {names[key]: value for key, value in again.items() if key in names} == expected
