"""The norm that tells whether a gradient is finite, against float64 over all gradients at once."""

import pytest
import torch
from torch import nn

from compress.training.divergence import gradient_norm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_that_of_all_gradients_as_one_vector(layout: torch.memory_format, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    parameters = [
        nn.Parameter(torch.randn(shape).to(dtype)) for shape in [(8, 3, 3, 3), (6, 8, 1, 1), (5, 7), (4,), (), (0,)]
    ]
    for parameter in parameters:
        gradient = torch.randn(parameter.shape).to(dtype)
        parameter.grad = gradient.to(memory_format=layout) if gradient.ndim == 4 else gradient
    parameters.append(nn.Parameter(torch.ones(3)))  # one without a gradient
    expected = torch.cat([p.grad.double().flatten() for p in parameters if p.grad is not None]).norm()
    precise = 1e-5 if dtype == torch.float32 else 1e-2
    assert gradient_norm(parameters).item() == pytest.approx(expected.item(), rel=precise)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_makes_the_norm_not_finite(bad: float) -> None:
    parameter = nn.Parameter(torch.zeros(4, 3, 5, 5))
    parameter.grad = torch.zeros(4, 3, 5, 5).to(memory_format=torch.channels_last)
    parameter.grad[3, 1, 4, 2] = bad
    assert not gradient_norm([parameter]).isfinite()
