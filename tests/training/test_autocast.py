"""bf16 in training: which convolutions stay in float32 on a CPU, and that all else is torch's autocast."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.training.autocast import in_bf16

CPU = torch.device("cpu")

FLOAT32 = {
    "depthwise, 5 x 5": (nn.Conv2d(8, 8, 5, padding=2, groups=8), 12),
    "depthwise, with strides": (nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False), 12),
    "depthwise, two maps for each": (nn.Conv2d(8, 16, 5, padding="same", groups=8), 12),
    "a map of two pixels": (nn.Conv2d(8, 8, 3, padding=1), 2),
}
BF16 = {
    "depthwise, 3 x 3": (nn.Conv2d(8, 8, 3, padding=1, groups=8), 12),
    "dense, 5 x 5, with strides": (nn.Conv2d(8, 8, 5, stride=2, padding=2), 12),
    "grouped": (nn.Conv2d(8, 8, 5, padding=2, groups=2), 12),
    "a single pixel, pointwise": (nn.Conv2d(8, 8, 1), 1),
}


def images(size: int) -> Tensor:
    return torch.randn(4, 8, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FLOAT32)
def test_what_cpus_do_slowly_or_wrongly_in_bf16_is_computed_in_float32(name: str) -> None:
    conv, size = FLOAT32[name]
    with in_bf16(CPU, enabled=True):
        found = conv(images(size))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, conv(images(size)).bfloat16())
    found.float().square().sum().backward()
    gradient, conv.weight.grad = conv.weight.grad, None
    conv(images(size)).bfloat16().float().square().sum().backward()
    assert gradient is not None
    torch.testing.assert_close(gradient, conv.weight.grad, rtol=1e-6, atol=1e-6)
    conv.weight.grad = None


@pytest.mark.parametrize("name", BF16)
def test_all_else_is_torchs_autocast(name: str) -> None:
    conv, size = BF16[name]
    with in_bf16(CPU, enabled=True):
        found = conv(images(size))
    with torch.autocast("cpu", torch.bfloat16):
        expected = conv(images(size))
    assert torch.equal(found, expected)
    assert not torch.equal(found, conv(images(size)).bfloat16())


def test_without_bf16_and_after_the_block_everything_is_float32() -> None:
    conv, size = FLOAT32["depthwise, 5 x 5"]
    expected = F.conv2d(images(size), conv.weight, conv.bias, padding=2, groups=8)
    with in_bf16(CPU, enabled=False):
        assert torch.equal(conv(images(size)), expected)
    with in_bf16(CPU, enabled=True):
        pass
    assert torch.equal(conv(images(size)), expected)


def test_gradients_of_a_network_with_maps_of_one_pixel_are_finite() -> None:
    """With AMX 5 of 24 passes of such a network gave others under autocast alone."""
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", channels=(8, 8, 8, 8), num_classes=4).to(memory_format=torch.channels_last)
    for _ in range(24):
        with in_bf16(CPU, enabled=True):
            logits = model(torch.randn(8, 3, 32, 32).to(memory_format=torch.channels_last))
        logits.float().logsumexp(dim=1).mean().backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
        model.zero_grad()
