"""Makes the processes of a run act on an event at the same step: a signal, or the time to save a checkpoint.

In: what one process knows. Out: what all of them do before a step.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from compress.distributed.world import ALONE, World
from compress.system.interrupts import Flag, interrupt


class Agreement:
    """What one process learns and all processes must act on at the same step.

    With several processes everyone knows it one step later, so that nobody waits for the slowest.

    Args:
        own: the flag that a signal sets in this process.
        world: the processes that must agree.
    """

    def __init__(self, own: Flag, world: World = ALONE) -> None:
        self.own, self._world = own, world
        self._number = 0
        self._pending: tuple[dist.Work, Tensor] | None = None

    def before_step(self, *, save: bool) -> tuple[bool, bool]:
        """What to do before this step.

        Args:
            save: whether this process finds that a checkpoint is due. The leader's answer counts.

        Returns:
            Whether to stop, and whether to save a checkpoint.
        """
        if self._world.size == 1:
            return bool(self.own), save
        now = self._result()
        self._ask(save=save and not now)
        return self._number != 0, now

    def raise_if_set(self) -> None:
        """Raises Interrupted where a signal has reached any process. All processes must call it together."""
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
        """Whether to save, by the last question."""
        if self._pending is None:
            return False
        (work, answer), self._pending = self._pending, None
        work.wait()
        number, save = answer.tolist()
        self._number = self._number or number
        return bool(save)
