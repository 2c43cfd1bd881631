"""A GPU that is not there: torch's fake tensors have shapes and devices and no data.

In: code that trains on `cuda`. Out: what it would copy from the host, mix or wait for. The backward pass does not run,
since torch's engine asks for the device: every parameter gets a gradient of its own shape instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compress.data import Splits
from compress.data.augment import Images

CUDA = torch.device("cuda")


class Copies(TorchDispatchMode):
    """Notes each operation whose tensors are on more than one device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.of_an_order = "aten._to_copy.default: cpu to cuda"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fused = "_fused_" in str(func)  # kernels of optimisers, which change their arguments and have no fake form
        result = None if fused else func(*args, **(kwargs or {}))
        given, made = _devices((args, kwargs)), _devices(result)
        if len(given) > 1 or (given and made - given):
            self.found.append(f"{func}: {'+'.join(sorted(given))} to {'+'.join(sorted(made))}")
        return result


def _devices(values: Any) -> set[str]:
    return {value.device.type for value in tree_leaves(values) if isinstance(value, Tensor)}


@contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Copies]:
    """Within the block tensors are fake, and those that name no device are on the host, as without it.

    Whatever asks for a value raises.
    """

    def backward(loss: Tensor, *args: Any, **options: Any) -> None:
        assert loss.requires_grad
        nodes, seen = [loss.grad_fn], set()
        while nodes:
            node: Any = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                node.variable.grad = torch.zeros_like(node.variable)
            nodes += [following for following, _ in node.next_functions]

    def moved(module: nn.Module, change: Any, recurse: bool = True) -> nn.Module:
        """Module._apply, which cannot swap fake parameters that a fake mode knows."""
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    part._parameters[name] = nn.Parameter(change(value.detach()), value.requires_grad)
            for name, value in part._buffers.items():
                if value is not None:
                    part._buffers[name] = change(value)
        return module

    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator())  # timm's EMA makes one on the GPU
    monkeypatch.setattr(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, raising=False)
    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(nn.Module, "_apply", moved)
    monkeypatch.setattr("torch.amp.autocast_mode.torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    with FakeTensorMode(allow_non_fake_inputs=False), Copies() as copies:
        yield copies


def fake_splits(count: int = 32, size: int = 8, classes: int = 4) -> Splits:
    """A data set on the GPU, as `on_device` puts it there."""
    mean, std = torch.zeros(3, device=CUDA), torch.ones(3, device=CUDA)
    images = Images(
        torch.zeros(count, size, size, 3, dtype=torch.uint8, device=CUDA),
        torch.zeros(count, dtype=torch.long, device=CUDA), mean, std,
    )  # fmt: skip
    return Splits(images, images)
