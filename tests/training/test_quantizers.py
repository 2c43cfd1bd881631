"""The rounding of quantisation-aware training, against torch.ao.quantization where torch still has it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from compress.training.quantizers import InputQuantizer, WeightQuantizer

ao: Any = pytest.importorskip("torch.ao.quantization")
RANGE = {"quant_min": -127, "quant_max": 127, "dtype": torch.qint8}


def batches() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for size, shift in ((1.0, 0.0), (3.0, 0.5), (0.1, -2.0), (0.0, 0.0), (50.0, 1.0)):
        yield size * torch.randn(4, 3, 5, 5, generator=generator) + shift


def test_inputs_are_rounded_as_by_torch() -> None:
    own = InputQuantizer().train()
    theirs = ao.FakeQuantize(ao.MovingAverageMinMaxObserver, qscheme=torch.per_tensor_symmetric, **RANGE)
    for batch in batches():
        one, other = batch.clone().requires_grad_(), batch.clone().requires_grad_()
        mine, reference = own(one), theirs(other)
        torch.testing.assert_close(mine, reference, rtol=0, atol=0)
        mine.square().sum().backward()
        reference.square().sum().backward()
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)
    observer = theirs.activation_post_process
    assert (own.min_val.item(), own.max_val.item()) == (observer.min_val.item(), observer.max_val.item())
    theirs.disable_observer()
    large = 1000 * torch.randn(2, 3)
    torch.testing.assert_close(own.eval()(large), theirs(large), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (4, 5), (3, 2, 3), (2, 3, 1, 2, 2)])
def test_weights_are_rounded_as_by_torch(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    weight[0] = 0
    observer, scheme = ao.MovingAveragePerChannelMinMaxObserver, torch.per_channel_symmetric
    theirs = ao.FakeQuantize(observer, qscheme=scheme, ch_axis=0, averaging_constant=1.0, **RANGE)
    torch.testing.assert_close(WeightQuantizer()(weight), theirs(weight), rtol=0, atol=0)


def test_a_checkpoint_holds_the_ranges() -> None:
    trained, fresh = InputQuantizer().train(), InputQuantizer().eval()
    for batch in batches():
        trained(batch)
    fresh.load_state_dict(trained.state_dict())
    torch.testing.assert_close(fresh(batch), trained.eval()(batch), rtol=0, atol=0)
