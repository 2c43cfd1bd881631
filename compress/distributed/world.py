"""The processes that train one run together (torchrun): parts of a batch, and what they tell each other.

Everything goes through the World of this process. Every process must call its methods in the same order. Without
torchrun the world is one process, and each method hands back what it was given.
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
from compress.system.interrupts import Flag, interrupt

T = TypeVar("T")
_PATIENCE = timedelta(days=30)  # for a leader that waits for another run's teacher; one that is gone is seen at once


class PeerGone(MachineError):
    """Another process of the run was killed, or ended with an error that it says itself."""


@dataclass(frozen=True)
class World:
    """Which of how many processes this is. group moves tensors of the training's device, control those of the host."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    control: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """The leader alone writes and speaks."""
        return self.rank == 0

    @property
    def identity(self) -> dict[str, int]:
        """What names a model that this world trains must depend on: several draw another dropout, for one."""
        return {} if self.size == 1 else {"processes": self.size}

    def from_leader(self, make: Callable[[], T]) -> T:
        """What `make` returns in the leader, which alone calls it; the others wait for it."""
        if self.size == 1:
            return make()
        box = [make() if self.leads else None]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]  # type: ignore[return-value]

    def leader_first(self, make: Callable[[], T]) -> T:
        """What `make` returns here; it begins once the leader's has ended."""
        if self.leads:
            made = make()
            self.from_leader(lambda: None)
            return made
        self.from_leader(lambda: None)
        return make()

    def from_each(self, own: T) -> list[T]:
        """What every process gives, by rank."""
        every: list[Any] = [own] * self.size
        if self.size > 1:
            dist.all_gather_object(every, own, group=self.control)
        return every

    def part(self, rows: Tensor) -> Tensor:
        """This process's equal part of a global batch's rows."""
        return rows if self.size == 1 else rows.chunk(self.size)[self.rank]

    def images_each(self, batch_size: int) -> int:
        """How many images of a global batch each process has. Raises UsageError where the parts are not equal."""
        if batch_size % self.size:
            fitting = batch_size // self.size * self.size
            raise UsageError(
                f"batches of {batch_size} images cannot be divided equally among {self.size} processes",
                f"Set train.batch_size={fitting}." if fitting else "Start fewer processes.",
            )
        return batch_size // self.size

    def gathered(self, part: Tensor) -> Tensor:
        """Every process's [B, ...] as one [size B, ...], by rank. Gradients come back from all that is made of it.

        Half precision becomes float32, in which gradients are summed.
        """
        if self.size == 1:
            return part
        if part.is_floating_point():
            part = part.to(torch.promote_types(part.dtype, torch.float32))
        return _Gather.apply(part, self)  # type: ignore[return-value]

    def combined(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars over all processes: means, and of *_min and *_max the extremes. Nothing waits for the device."""
        if self.size == 1:
            return parts
        own = torch.stack([value.detach().double() for value in parts.values()])
        each = _Gather.apply(own.unsqueeze(0), self).unbind(1)  # type: ignore[union-attr]
        reduce = {"_min": torch.amin, "_max": torch.amax}
        return {name: reduce.get(name[-4:], torch.mean)(values) for name, values in zip(parts, each, strict=True)}

    def extremes(self, part: Tensor) -> Tensor:
        """What has the lowest and the highest value of every process's part, which must not be empty."""
        if self.size == 1:
            return part
        lowest, highest = torch.aminmax(part.detach())
        both = torch.stack([-lowest, highest])
        dist.all_reduce(both, dist.ReduceOp.MAX, group=self.group)
        return torch.stack([-both[0], both[1]])

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """For parameters outside of what `data_parallel` wraps."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, group=self.group)
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient) / self.size)

    def synchronized(self, model: nn.Module) -> nn.Module:
        """The model; on CUDA a copy whose BatchNorms have the statistics of the global batch.

        Parameter names stay. On CPUs, which SyncBatchNorm refuses, the statistics are those of each process's part.
        """
        on_cuda = any(parameter.is_cuda for parameter in model.parameters())
        return convert_sync_batchnorm(copy.deepcopy(model), self.group) if self.size > 1 and on_cuda else model

    def data_parallel(self, model: nn.Module, example: Tensor) -> nn.Module:
        """The model whose gradients are averaged over the processes by backward().

        example: images, of which the model makes an output to see whether there are parameters without influence.
        """
        if self.size == 1:
            return model
        was_training = model.training
        model.eval()(example).sum().backward()
        unused = any(p.grad is None for p in model.parameters() if p.requires_grad)
        model.zero_grad()
        model.train(was_training)
        return DistributedDataParallel(model, process_group=self.group, find_unused_parameters=unused)

    def follow_leader(self, model: nn.Module) -> None:
        """Takes over the leader's buffers: BatchNorm's running statistics, which differ where batch statistics do."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0, group=self.group)

    def random_states(self, own: Tensor) -> Tensor:
        """Every process's state of a random generator, uint8 on the host, one after another."""
        if self.size == 1:
            return own
        every = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(every, own, group=self.control)
        return torch.cat(every)

    def own_random_state(self, states: Tensor) -> Tensor:
        return states.view(self.size, -1)[self.rank].clone()  # torch reads it in words, which must be aligned


ALONE = World()


def processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


class _Gather(torch.autograd.Function):
    """As dist.nn.functional.all_gather, which is deprecated for what not every torch that we take has yet."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, world: World) -> Tensor:
        ctx.world = world
        whole = part.new_empty(world.size * len(part), *part.shape[1:])
        dist.all_gather_into_tensor(whole, part.contiguous(), group=world.group)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (whole,) = gradients
        part = whole.new_empty(len(whole) // ctx.world.size, *whole.shape[1:])
        dist.reduce_scatter_tensor(part, whole.contiguous(), group=ctx.world.group)
        return part, None


class Agreement:
    """What one process learns and all must act on at the same step: a signal, and that it is time for a checkpoint.

    With several processes it is known one step later, so that nobody waits for the slowest of them.
    """

    def __init__(self, own: Flag, world: World = ALONE) -> None:
        self.own, self._world = own, world
        self._number = 0
        self._pending: tuple[dist.Work, Tensor] | None = None

    def before_step(self, *, save: bool) -> tuple[bool, bool]:
        """Whether to stop before this step, and whether to save. save: whether the leader holds that it is time."""
        if self._world.size == 1:
            return bool(self.own), save
        now = self._result()
        self._ask(save=save and not now)
        return self._number != 0, now

    def raise_if_set(self) -> None:
        """Raises Interrupted where a signal has reached any process by now."""
        if self._world.size == 1:
            self.own.raise_if_set()
            return
        self._result()
        self._ask(save=False)
        self._result()
        if self._number:
            interrupt(self._number)

    def _ask(self, *, save: bool) -> None:
        asked = torch.tensor([self.own.signal_number, save and self._world.leads])
        work = dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._world.control, async_op=True)
        assert work is not None
        self._pending = (work, asked)

    def _result(self) -> bool:
        """Whether to save, by what was asked last."""
        if self._pending is None:
            return False
        (work, answer), self._pending = self._pending, None
        work.wait()
        number, save = answer.tolist()
        self._number = self._number or number
        return bool(save)


_worlds = [ALONE]


def current() -> World:
    """The world of this process: ALONE, or that of the `joined` block it is in."""
    return _worlds[-1]


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world that torchrun started, if any, within the block; only its leader is heard on the console.

    device: where all of them train, on CUDA each on the device of its LOCAL_RANK. Raises MachineError where there are
    fewer devices than processes, and PeerGone.
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
    dist.destroy_process_group()  # not after an error, where it may wait for those that are gone


@contextmanager
def explained() -> Iterator[None]:
    """Says PeerGone where a collective failed."""
    try:
        yield
    except RuntimeError as error:
        if launch.size() == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise PeerGone("another process of this run is gone", "Start all of them again, with --resume.") from error
