"""Which rows of the training split are in which batch.

In: the numbers of rows, and a seed. Out: the rows of each epoch, by step and process.
"""

import torch
from torch import Tensor

from compress.distributed.world import World
from compress.system.seeds import stream


class BatchRows:
    """The rows of every batch. They depend on (seed, epoch, step) alone.

    Every batch is full. Each epoch is a pass over the rows with labels, in an order of its own, so rows that are left
    over in one epoch are used in another. Rows without a label have an order of their own. It goes on from epoch to
    epoch, so that each is used equally often. In each process's part of a batch they come last.

    Attributes:
        batch_size: images of the global batch.
        images_each: images of the batch in each process.
        unlabeled_each: those of them without a label.
        steps: of an epoch.
        mirror: int64 [images_each]. Where pictures are mixed, the partner of a part's image is at this place of the
            part. The part is mirrored, as in timm, but images with and without labels apart.

    Args:
        labeled: rows with labels. They are 0 to labeled - 1.
        unlabeled: rows without, which follow.
        batch_size: that the settings ask for. A small set makes one smaller batch.
        share: the part of a batch that has no labels.
        seed: of the order.
        world: the processes that share the batch.
        paired: pictures are mixed. Processes then get such parts that the pairs are those of a single process. That
            needs an even number of images with labels, and of those without, in each process.

    Raises:
        UsageError: the processes cannot have equal parts of a batch.
    """

    def __init__(
        self, labeled: int, unlabeled: int, batch_size: int, *, share: float, seed: int, world: World, paired: bool
    ) -> None:
        share = share if unlabeled else 0.0
        self.labeled, self.unlabeled = labeled, unlabeled
        self.batch_size = min(batch_size, int(labeled / (1 - share)))
        self.images_each = world.images_each(self.batch_size)
        wanted = min(max(1, round(share * self.images_each)), self.images_each - 1) if share else 0
        labeled_each = min(self.images_each - wanted, max(1, labeled // world.size))
        self.unlabeled_each = self.images_each - labeled_each
        self.steps = labeled // (labeled_each * world.size)
        places = torch.arange(self.images_each)
        self.mirror = torch.cat([places[:labeled_each].flip(0), places[labeled_each:].flip(0)])
        self._seed, self._world, self._paired = seed, world, paired

    def of_epoch(self, epoch: int) -> Tensor:
        """int64 [steps, images_each] of this process, on the host."""
        return self._of_all(epoch)[:, self._world.rank]

    def partners(self, epoch: int) -> Tensor:
        """int64 [N]: the row with which each row is mixed in that epoch. Rows that are in no batch stay as they are."""
        rows = self._of_all(epoch)
        found = torch.arange(self.labeled + self.unlabeled)
        found[rows] = rows[:, :, self.mirror]
        return found

    def _of_all(self, epoch: int) -> Tensor:
        """int64 [steps, processes, images_each]."""
        used = self.steps * (self.images_each - self.unlabeled_each) * self._world.size
        parts = self._parts(epoch_order(self.labeled, seed=self._seed, epoch=epoch)[:used])
        if not self.unlabeled_each:
            return parts
        return torch.cat([parts, self._parts(self.labeled + self._unlabeled_order(epoch))], dim=2)

    def _unlabeled_order(self, epoch: int) -> Tensor:
        """Those of an epoch, counted from 0: the next part of an endless row of permutations."""
        used = self.steps * self.unlabeled_each * self._world.size
        start = epoch * used
        passes = range(start // self.unlabeled, (start + used - 1) // self.unlabeled + 1)
        seed = stream(self._seed, "unlabeled")
        orders = [epoch_order(self.unlabeled, seed=seed, epoch=number) for number in passes]
        return torch.cat(orders)[start % self.unlabeled :][:used]

    def _parts(self, rows: Tensor) -> Tensor:
        """The rows of all batches, one after another, as [steps, processes, images]."""
        size = self._world.size
        batches = rows.view(self.steps, -1)
        if not self._paired or batches.shape[1] % (2 * size):
            return batches.view(self.steps, size, -1)
        front, back = batches.chunk(2, dim=1)
        of_each = front.reshape(self.steps, size, -1), back.flip(1).reshape(self.steps, size, -1).flip(2)
        return torch.cat(of_each, dim=2)


def epoch_order(count: int, *, seed: int, epoch: int) -> Tensor:
    """A permutation of the rows, int64 [count]. It depends on (seed, epoch) alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(stream(seed, "order", epoch)))
