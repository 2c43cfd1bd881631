"""Exchanges tensors between the processes that train one run together (torchrun).

In: the part of one process. Out: what all processes together have. Every process must call the methods of its World in
the same order. In a world of one process each method returns its argument.
"""

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compress.distributed import launch
from compress.system import console
from compress.system.errors import MachineError, UsageError
from compress.system.modules import rehearsing

T = TypeVar("T")
# The second names are those before torch 2.14, which deprecates them.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_PATIENCE = timedelta(days=30)  # the leader may wait for another run's teacher; a dead process is noticed at once


class PeerGone(MachineError):
    """Another process of the run was killed, or ended with an error that it reports itself."""


@dataclass(frozen=True)
class World:
    """This process among all processes of the run.

    Attributes:
        rank: of this process, from 0. The leader has rank 0.
        size: the number of processes.
        group: moves tensors of the training's device.
        control: moves tensors and objects of the host.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    control: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this process is the leader, which alone writes files and prints."""
        return self.rank == 0

    @property
    def size_here(self) -> int:
        """The number of processes on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.size > 1 else 1

    @property
    def identity(self) -> dict[str, int]:
        """What the hash of a trained model must contain: several processes draw other dropout masks than one."""
        return {} if self.size == 1 else {"processes": self.size}

    def from_leader(self, make: Callable[[], T]) -> T:
        """What `make` returns in the leader. Only the leader calls it; the others wait for the value."""
        if self.size == 1:
            return make()
        box = [make() if self.leads else None]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]  # type: ignore[return-value]

    def leader_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in this process. The others call it once the leader has finished."""
        if self.leads:
            made = make()
            self.from_leader(lambda: None)
            return made
        self.from_leader(lambda: None)
        return make()

    def from_each(self, own: T) -> list[T]:
        """The value of every process, in the order of ranks."""
        every: list[Any] = [own] * self.size
        if self.size > 1:
            dist.all_gather_object(every, own, group=self.control)
        return every

    def part(self, rows: Tensor) -> Tensor:
        """This process's equal part of the rows of a global batch."""
        return rows if self.size == 1 else rows.chunk(self.size)[self.rank]

    def images_each(self, batch_size: int) -> int:
        """Images of a global batch for each process. Raises UsageError where the processes cannot have equal parts."""
        if batch_size % self.size:
            fitting = batch_size // self.size * self.size
            raise UsageError(
                f"batches of {batch_size} images cannot be divided equally among {self.size} processes",
                f"Set train.batch_size={fitting}, and so the batch_size of a teacher with a train of its own."
                if fitting
                else "Start fewer processes.",
            )
        return batch_size // self.size

    def gathered(self, part: Tensor) -> Tensor:
        """The parts [B, ...] of all processes as [size * B, ...], in the order of ranks.

        Gradients flow back to every part. Half precision becomes float32, in which gradients are summed.
        """
        if self.size == 1:
            return part
        if part.is_floating_point():
            part = part.to(torch.promote_types(part.dtype, torch.float32))
        return _Gather.apply(part, self)  # type: ignore[return-value]

    def combined(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars over all processes: the mean, or for names in _min and _max the extreme. Does not wait for the
        device.
        """
        if self.size == 1:
            return parts
        own = torch.stack([value.detach().double() for value in parts.values()])
        each = _Gather.apply(own.unsqueeze(0), self).unbind(1)  # type: ignore[union-attr]
        reduce = {"_min": torch.amin, "_max": torch.amax}
        return {name: reduce.get(name[-4:], torch.mean)(values) for name, values in zip(parts, each, strict=True)}

    def extremes(self, part: Tensor) -> Tensor:
        """A tensor with the lowest and the highest value of all processes' parts, which must not be empty."""
        if self.size == 1:
            return part
        lowest, highest = torch.aminmax(part.detach())
        both = torch.stack([-lowest, highest])
        dist.all_reduce(both, dist.ReduceOp.MAX, group=self.group)
        return torch.stack([-both[0], both[1]])

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages the gradients of parameters that `data_parallel` does not wrap."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, group=self.group)
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient) / self.size)

    def synchronized(self, model: nn.Module) -> nn.Module:
        """The model, or on CUDA a copy whose BatchNorms use the statistics of the global batch.

        The parameters of the copy have the same names. SyncBatchNorm does not support CPUs. There the statistics are
        those of each process's part.
        """
        on_cuda = any(parameter.is_cuda for parameter in model.parameters())
        return convert_sync_batchnorm(copy.deepcopy(model), self.group) if self.size > 1 and on_cuda else model

    def data_parallel(self, model: nn.Module, example: Tensor) -> nn.Module:
        """The model, wrapped so that backward() averages its gradients over the processes.

        Args:
            example: images [N, 3, H, W]. The model runs on them once, to find parameters that do not influence its
                output.
        """
        if self.size == 1:
            return model
        with rehearsing(model):
            model(example).sum().backward()
        unused = any(p.grad is None for p in model.parameters() if p.requires_grad)
        model.zero_grad()
        return DistributedDataParallel(model, process_group=self.group, find_unused_parameters=unused)

    def with_weights_of_leader(self, model: nn.Module) -> nn.Module:
        """The model, with the leader's parameters and buffers. `average_gradients` keeps them equal."""
        if self.size > 1:
            for value in model.state_dict().values():
                dist.broadcast(value, src=0, group=self.group)
        return model

    def follow_leader(self, model: nn.Module) -> None:
        """Copies the leader's buffers, such as BatchNorm's running statistics, into the model."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0, group=self.group)

    def random_states(self, own: Tensor) -> Tensor:
        """The states of all processes' random generators, uint8 on the host, one after another."""
        if self.size == 1:
            return own
        every = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(every, own, group=self.control)
        return torch.cat(every)

    def own_random_state(self, states: Tensor) -> Tensor:
        """This process's part of `random_states`."""
        return states.view(self.size, -1)[self.rank].clone()  # a copy, because torch needs aligned memory


ALONE = World()


def processes(count: int) -> str:
    """The number of processes as text, such as 2 processes."""
    return "1 process" if count == 1 else f"{count} processes"


class _Gather(torch.autograd.Function):
    """Like dist.nn.functional.all_gather, which is deprecated; its successor is missing in older torch."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, world: World) -> Tensor:
        ctx.world = world
        whole = part.new_empty(world.size * len(part), *part.shape[1:])
        _all_gather(whole, part.contiguous(), group=world.group)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (whole,) = gradients
        part = whole.new_empty(len(whole) // ctx.world.size, *whole.shape[1:])
        _reduce_scatter(part, whole.contiguous(), group=ctx.world.group)
        return part, None


_worlds = [ALONE]


def current() -> World:
    """The world of this process: ALONE, or that of the `joined` block around the call."""
    return _worlds[-1]


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world that torchrun started, within the block. Only its leader prints. Without torchrun it is `current()`.

    Args:
        device: where all processes train. On CUDA each uses the GPU of its LOCAL_RANK.

    Raises:
        MachineError: there are fewer GPUs than processes.
        PeerGone: another process of the run ended.
    """
    if launch.size() == 1 or current().size > 1:
        yield current()
        return
    on_cuda = device.type == "cuda"
    if on_cuda:
        local_rank = int(os.environ["LOCAL_RANK"])
        if local_rank >= torch.cuda.device_count():
            raise MachineError(
                f"{local_rank + 1} processes or more were started, and there are {torch.cuda.device_count()} GPUs",
                f"Give --nproc-per-node={torch.cuda.device_count()}, or --device cpu.",
            )
        torch.cuda.set_device(local_rank)
    rank, size = int(os.environ["RANK"]), launch.size()
    with explained():
        dist.init_process_group(
            "nccl" if on_cuda else "gloo",
            store=launch.store("groups"),
            rank=rank,
            world_size=size,
            device_id=torch.device("cuda", torch.cuda.current_device()) if on_cuda else None,
        )
        control = dist.new_group(backend="gloo", timeout=_PATIENCE)
        assert isinstance(control, dist.ProcessGroup)
        _worlds.append(World(rank, size, dist.group.WORLD, control))
        try:
            with console.silenced(rank != 0):
                yield current()
        finally:
            _worlds.pop()
    dist.destroy_process_group()  # not after an error: it may wait for dead processes


@contextmanager
def explained() -> Iterator[None]:
    """Turns a failed collective within the block into PeerGone."""
    try:
        yield
    except RuntimeError as error:
        if launch.size() == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise PeerGone("another process of this run is gone", "Start all of them again, with --resume.") from error
