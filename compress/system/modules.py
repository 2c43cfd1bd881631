"""Runs a model in another mode without a trace, and moves it.

In: a module. Out: the same module with its modes, buffers and torch's random streams as before.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_BLOCK = 16  # channels that oneDNN takes at once with AVX512; with AVX2 eight


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within the block. Afterwards each module is in the mode in which it was.

    LeViT, TinyViT and others keep what they computed from their weights in eval mode, until they are in train mode. So
    the model is in train mode for a moment before and after the block.
    """
    with _modes_kept(model):
        model.train()
        model.eval()
        yield


@contextmanager
def rehearsing(model: nn.Module) -> Iterator[None]:
    """Train mode within the block. Afterwards modes, buffers and torch's random streams are as before.

    Gradients are the caller's to clear.
    """
    buffers = [
        (module, name, value)
        for module in model.modules()
        for name, value in module._buffers.items()
        if value is not None
    ]
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    try:
        with torch.random.fork_rng(devices=devices), _modes_kept(model):
            for module, name, value in buffers:
                module._buffers[name] = value.clone()
            model.train()
            yield
    finally:
        for module, name, value in buffers:
            module._buffers[name] = value


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        model.train()  # drops what was kept in eval mode
        for module, mode in modes:
            module.training = mode


def in_channels_last(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves the model to the device, with the weights of 2-D convolutions in channels_last memory.

    `Module.to(memory_format=...)` would refuse a weight with five dimensions, as LambdaResNet has. On a CPU the
    convolutions that oneDNN gets wrong in that memory get their pictures in plain memory (`overruns`). torch.compile
    must then be told to leave layouts alone.
    """
    model.to(device)
    around = [each for each in model.modules() if device.type == "cpu" and overruns(each)]
    for module in around:
        if _in_plain_memory not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_in_plain_memory, with_kwargs=True)
            module.register_forward_hook(_back_in_channels_last)
    plain = {id(value) for module in around for value in module.parameters()}  # also where weights are parametrized
    for value in (*model.parameters(), *model.buffers()):
        if id(value) in plain:
            value.data = _plain(value.data)
        elif value.dim() == 4:
            value.data = value.data.to(memory_format=torch.channels_last)
    return model


def overruns(module: nn.Module) -> bool:
    """Whether oneDNN's gradient of the weights writes behind its memory where pictures are in channels_last.

    So it does for a strided 1x1 convolution of fewer channels than a block has, as the stems of MobileOne, FastViT and
    RepVGG have: a crash, or wrong weights. https://github.com/uxlfoundation/oneDNN/issues/6035, open as of oneDNN 3.12.
    """
    if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1) or module.groups != 1:
        return False
    return max(module.stride) > 1 and module.in_channels < _BLOCK


def _plain(value: Tensor) -> Tensor:
    """contiguous() alone would leave strides of channels_last where a dimension has one element."""
    return value.contiguous().flatten().view(value.shape)


def _in_plain_memory(
    module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    return tuple(_plain(each) for each in inputs), {name: _plain(each) for name, each in named.items()}


def _back_in_channels_last(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.contiguous(memory_format=torch.channels_last) if output.dim() == 4 else output


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the host in plain memory of their own, as safetensors needs them.

    Tensors that share memory, such as tied weights, are written once for each name. Whoever loads them by name then
    finds all of them.
    """
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()  # 0 for no memory at all
        apart[name] = value.clone() if place and place in seen else value
        seen.add(place)
    return apart
