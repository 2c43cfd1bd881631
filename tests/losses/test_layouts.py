"""Where the channels of a map are: against the axes that grow with the image, for every module of several families."""

from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from compress.losses.taps import Tap
from compress.system.errors import UsageError

# The ResNet and the first Swin have as many channels as pixels a side. True: made for images of one size.
FAMILIES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "resnet": ("resnet10t_smallstem", {"channels": [32, 16, 8, 8]}, False),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (12, 16, 20, 24), "conv_mlp": False}, False),
    "convnext_convolutions": (
        "convnext_atto",
        {"depths": (1, 1, 1, 1), "dims": (12, 16, 20, 24), "conv_mlp": True},
        False,
    ),
    "mobilenet": ("mobilenetv3_small_050", {}, False),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 8, "depths": (2, 1), "num_heads": (2, 2), "window_size": 4},
        True,
    ),
    "swin_wide": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 20, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4},
        True,
    ),
    "vit": ("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 36, "depth": 1, "qk_norm": True}, True),
    "maxvit": ("maxvit_nano_rw_256", {"depths": (1, 1), "embed_dim": (32, 64), "stem_width": 12}, True),
}
SIDE = 32


class Within(nn.Module):
    """A user's own module around another."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def family(name: str, size: tuple[int, int] = (SIDE, SIDE), **more: Any) -> Any:
    torch.manual_seed(0)
    model, args, fixed_size = FAMILIES[name]
    given = {**args, **more, **({"img_size": size} if fixed_size else {})}
    return timm.create_model(model, num_classes=5, **given).eval()


def images(*size: int) -> Tensor:
    return torch.randn(2, 3, *(size or (SIDE, SIDE)), generator=torch.Generator().manual_seed(0))


def outputs(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """By module, what is 4-D and has a row for each image, as it was before anybody changed it in place."""
    found: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and len(output) == len(batch):
                found[path] = output.clone()

        return hook

    hooks = [module.register_forward_hook(keep(path)) for path, module in model.named_modules() if path]
    with torch.no_grad():
        model(batch)
    for hook in hooks:
        hook.remove()
    return found


def channels_first(square: Tensor, wide: Tensor) -> Tensor | None:
    """The map with its channels first: the axis beside two of which one is three times the other for images of 1:3."""
    _, first, middle, last = wide.shape
    assert (last == 3 * middle) + (middle == 3 * first) < 2, "choose other numbers of channels"
    if last == 3 * middle:
        return square
    return square.permute(0, 3, 1, 2) if middle == 3 * first else None


def maps(name: str) -> Iterator[tuple[str, Tensor | None]]:
    wide = outputs(family(name, (SIDE, 3 * SIDE)), images(SIDE, 3 * SIDE))
    for path, square in outputs(family(name), images()).items():
        if path not in wide:  # windows of attention, of which the smaller image has one
            yield path, None
        elif square.shape != wide[path].shape:  # else pooled
            yield path, channels_first(square, wide[path])


def tapped(model: nn.Module, path: str | None) -> tuple[Tap | None, str]:
    try:
        return Tap(model, [path], images(), role="student"), ""
    except UsageError as error:
        return None, str(error)


@pytest.mark.parametrize("inside", ["", "net."])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "mobilenet" else name for name in FAMILIES]
)
def test_channels_come_first_in_every_module_that_puts_out_a_map_and_others_are_refused(name: str, inside: str) -> None:
    model = Within(family(name)).eval() if inside else family(name)
    found = 0
    for path, expected in maps(name):
        tap, error = tapped(model, inside + path)
        if tap is None:
            assert expected is None or "in place" in error, path
            continue
        assert expected is not None, path
        with torch.no_grad(), tap.recording():
            model(images())
        assert torch.equal(tap.features()[inside + path], expected), path
        found += 1
    assert found > (0 if name == "vit" else 15)


@pytest.mark.parametrize("name", ["swin", "vit"])
def test_stages_within_a_user_s_own_module_are_those_of_timm_s_forward_intermediates(name: str) -> None:
    model = family(name)
    stages = [stage["module"] for stage in model.feature_info]
    tap = Tap(Within(model).eval(), [f"net.{stage}" for stage in stages], images(), role="student")
    expected = model.forward_intermediates(images(), intermediates_only=True)
    text = refusal(Within(model).eval(), None)
    assert text == (
        "the student does not say which is its last stage. "
        f"Name a module as student: of the term, such as {', '.join(f'net.{stage}' for stage in stages[-3:])}."
    )
    assert [tap.shapes[f"net.{stage}"] for stage in stages] == [reference.shape[1:] for reference in expected]


def test_a_stage_with_other_channels_than_its_layers_is_told_by_their_number() -> None:
    """Channels last in the blocks, and first between the stages."""
    args = {"img_size": SIDE, "embed_dim": 20, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
    model: Any = timm.create_model("swinv2_cr_tiny_224", num_classes=5, **args).eval()
    tap = Tap(model, ["stages.0", "stages.1", "stages.1.blocks.0"], images(), role="student")
    with torch.no_grad():
        expected = model.forward_intermediates(images(), intermediates_only=True)
        with tap.recording():
            model(images())
    found = tap.features()
    for path, reference in (("stages.0", expected[0]), ("stages.1", expected[1]), ("stages.1.blocks.0", expected[1])):
        torch.testing.assert_close(found[path], reference)


def refusal(model: nn.Module, path: str | None) -> str:
    tap, error = tapped(model, path)
    assert tap is None
    return error


def test_heads_of_attention_are_no_channels() -> None:
    text = refusal(family("vit"), "blocks.0.attn.q_norm")
    assert "[2, 3, 17, 12], of which nothing says where its channels are. " in text
    assert text.endswith("Name a module beside it, such as blocks.0.")
    as_many = family("vit", class_token=False, global_pool="avg", num_heads=16, embed_dim=64)
    assert "[2, 16, 16, 4], of which nothing says" in refusal(as_many, "blocks.0.attn.q_norm")


def test_layers_on_what_is_no_map_say_nothing_of_maps() -> None:
    """A linear classifier after convolutions, with as many channels as pixels a side."""
    model = nn.Sequential(nn.Conv2d(3, SIDE, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(SIDE, 5))
    tap = Tap(model.eval(), ["1"], images(), role="student")
    with torch.no_grad(), tap.recording():
        model(images())
    assert torch.equal(tap.features()["1"], model[:2](images()))


def test_where_nothing_tells_channels_from_pixels_a_stage_is_suggested() -> None:
    model = family("convnext", dims=(8, 16, 16, 16))  # maps of 8 x 8 x 8, before and after layers of either layout
    text = refusal(model, "stages.0.blocks.0")
    assert "'stages.0.blocks.0' of the student is [2, 8, 8, 8]" in text
    assert text.endswith("Name a module beside it, such as stages.0.")
    Tap(model, ["stages.0", "stages.0.blocks.0.conv_dw", "stages.0.blocks.0.mlp"], images(), role="student")
