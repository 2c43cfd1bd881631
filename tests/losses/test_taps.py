"""Feature maps by module name: against timm's own forward_intermediates, and everything that is no feature map."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

from compress.losses.taps import Tap
from compress.models.wrappers import Adapted
from compress.system.errors import UsageError

# Layouts: maps with channels first and last, tokens with one, two and no prefix tokens.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet10t_smallstem", {"channels": [8, 8, 16, 16]}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24)}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4},
    ),
    "vit": (
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    ),
    "deit_distilled": (
        "deit_tiny_distilled_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    ),
    "mixer": ("gmixer_12_224", {"img_size": 32}),
    "volo": ("volo_d1_224", {"img_size": 32}),
    "densenet": ("densenet121", {"growth_rate": 4, "block_config": (1, 1, 1, 1)}),
}

SMALL: dict[str, dict[str, Any]] = {
    "mvitv2_tiny": {"img_size": 32},
    "twins_pcpvt_small": {"img_size": 32, "depths": (1, 1, 1, 1), "embed_dims": (8, 8, 20, 16)},
}


def family(name: str) -> Any:
    torch.manual_seed(0)
    model, args = FAMILIES[name]
    return timm.create_model(model, num_classes=5, **args)


def images(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    )


def refusal(model: nn.Module, name: str | None) -> str:
    with pytest.raises(UsageError) as caught:
        Tap(model, [name], images(), role="student")
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_are_those_of_timm_s_forward_intermediates(name: str) -> None:
    model = family(name).eval()
    stages = [stage["module"] for stage in model.feature_info]
    tap = Tap(model, [*stages, None], images(), role="student")
    with torch.no_grad():
        with tap.recording():
            model(images(3))
        found = tap.features()
        expected = model.forward_intermediates(images(3), intermediates_only=True)
    assert tap.paths[None] == stages[-1]
    assert len(expected) == len(stages)
    for stage, reference in zip(stages, expected, strict=True):
        torch.testing.assert_close(found[stage], reference, msg=stage)
        assert tap.shapes[stage] == reference.shape[1:]


def test_any_module_can_be_named_and_vectors_become_maps_of_one_place() -> None:
    model = family("resnet").eval()
    tap = Tap(model, ["layer2.0.conv1", "global_pool"], images(), role="student")
    with torch.no_grad(), tap.recording():
        model(images())
    found = tap.features()
    assert found["layer2.0.conv1"].dim() == 4
    torch.testing.assert_close(found["global_pool"][:, :, 0, 0], model.forward_features(images()).mean((2, 3)))


def test_channels_that_come_last_come_first_inside_of_stages_too() -> None:
    tap = Tap(family("swin"), ["layers.0.blocks.0", "patch_embed"], images(), role="student")
    assert set(tap.shapes.values()) == {(16, 8, 8)}


def test_a_pass_is_recorded_with_its_gradient_and_handed_over_once() -> None:
    model = network()
    tap = Tap(model, ["1"], images(), role="student")
    with tap.recording():
        model(images(4))
    feature = tap.features()["1"]
    assert feature.shape == (4, 4, 30, 30)
    (slope,) = torch.autograd.grad(feature.sum(), model[0].weight)
    assert slope.abs().max() > 0
    with pytest.raises(UsageError, match="puts out nothing"):
        tap.features()


def test_the_model_is_left_as_it_was() -> None:
    model = family("resnet").train()
    before = copy.deepcopy(model.state_dict())
    tap = Tap(model, [None, "layer2"], images(), role="student")
    assert all(module.training for module in model.modules())
    model.eval()
    with tap.recording():
        model(images())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    tap.features()
    model(images())
    with pytest.raises(UsageError):
        tap.features()  # nothing is recorded outside


def test_a_teacher_behind_its_own_normalisation_has_its_own_names() -> None:
    model = family("resnet")
    wrapped = Adapted(model, torch.ones(3), torch.zeros(3)).eval()
    tap = Tap(wrapped, ["layer3"], images(), role="teacher")
    with torch.no_grad(), tap.recording():
        wrapped(images())
    assert tap.features()["layer3"].shape[1:] == tap.shapes["layer3"]


def test_a_name_that_does_not_exist_lists_the_nearest_ones() -> None:
    text = refusal(family("resnet"), "layer5")
    assert "the student has no feature 'layer5'" in text
    assert all(f"layer{number}" in text.split("Its stages")[0] for number in (1, 2, 3, 4))
    assert "layer2.0.bn1" in refusal(family("resnet"), "layer2.0.bn7")
    assert "Its stages: stages.0, stages.1, stages.2, stages.3." in refusal(family("convnext"), "layer4")


def test_a_module_without_feature_info_needs_a_name() -> None:
    text = refusal(network(), None)
    assert "student: of the term" in text
    assert "has no feature 'x'" in refusal(network(), "x")


@pytest.mark.parametrize(
    ("name", "near"),
    [("mvitv2_tiny", ["stages.3.blocks.0"]), ("twins_pcpvt_small", ["blocks.3.0"])],
)
def test_where_timm_s_last_stage_is_no_module_one_is_to_be_named(name: str, near: list[str]) -> None:
    text = refusal(timm.create_model(name, **SMALL[name]), None)
    assert "the last stage of the student by its feature_info, 'block.3', is no module" in text
    assert "Name a module as student: of the term, such as " in text
    assert all(path in text for path in near)
    assert "the student has no feature" not in text


def test_of_tokens_with_the_size_of_their_grid_the_tokens_are_taken() -> None:
    model = timm.create_model("mvitv2_tiny", **SMALL["mvitv2_tiny"]).eval()
    stages = [f"stages.{number}" for number in range(4)]
    tap = Tap(model, stages, images(), role="student")
    with torch.no_grad():
        with tap.recording():
            model(images())
        found = tap.features()
        expected = model.forward_intermediates(images(), intermediates_only=True)
    for stage, reference in zip(stages, expected, strict=True):
        torch.testing.assert_close(found[stage], reference, msg=stage)


class FewPatches(nn.Module):
    """A square of 2 x 2 patches behind more class and register tokens than there are patches."""

    num_prefix_tokens = 5

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = nn.functional.adaptive_avg_pool2d(x, 2).flatten(2).mT
        return self.tokens(torch.cat([patches.new_zeros(len(x), 5, 3), patches], dim=1)).mean(1)


def test_few_patches_behind_many_tokens_are_a_square() -> None:
    tap = Tap(model := FewPatches(), ["tokens"], images(), role="student")
    with tap.recording():
        model(images())
    expected = nn.functional.adaptive_avg_pool2d(images(), 2)
    torch.testing.assert_close(tap.features()["tokens"], expected)


def test_a_list_of_modules_is_no_feature() -> None:
    assert "has no feature 'stages'" in refusal(timm.create_model("mvitv2_tiny", **SMALL["mvitv2_tiny"]), "stages")


class Odd(nn.Module):
    """Modules whose outputs are no feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Identity()
        self.windows = nn.Identity()
        self.unused = nn.Identity()
        self.flat = nn.Identity()
        self.tokens = nn.Identity()
        self.conv = nn.Conv2d(3, 5, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.pair((x, x))
        self.windows(x.repeat(4, 1, 1, 1))
        self.flat(x.sum())
        self.tokens(x.flatten(2)[:, :, :7].mT)
        return self.act(self.conv(x)).mean((2, 3))


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("pair", "puts out a tuple"),
        ("windows", "[8, 3, 32, 32] for 2 images"),
        ("unused", "puts out nothing"),
        ("flat", "not a feature map"),
        ("tokens", "not a square"),
        ("conv", "changed in place"),
    ],
)
def test_what_is_no_feature_map_is_refused_with_the_reason(name: str, word: str) -> None:
    text = refusal(Odd(), name)
    assert word in text
    assert f"'{name}' of the student" in text
    Tap(Odd(), ["act"], images(), role="student")
