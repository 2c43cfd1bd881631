"""Which rows are in which batch: full passes, even use of pictures without labels, pairs that processes share."""

import pytest
import torch
from torch import Tensor

from compress.distributed.world import World
from compress.system.errors import UsageError
from compress.training.batch_rows import BatchRows


def rows(labeled: int = 50, unlabeled: int = 0, batch: int = 16, **options: object) -> BatchRows:
    settings = {"share": 0.5, "seed": 3, "world": World(), "paired": False, **options}
    return BatchRows(labeled, unlabeled, batch, **settings)  # type: ignore[arg-type]


def pairs(of: BatchRows, epoch: int) -> set[tuple[int, ...]]:
    rows = of.of_epoch(epoch)
    partners = rows[:, of.mirror]
    return {tuple(sorted(pair)) for pair in zip(rows.flatten().tolist(), partners.flatten().tolist(), strict=True)}


def in_each_process(size: int, **options: object) -> list[BatchRows]:
    return [rows(world=World(rank, size), **options) for rank in range(size)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("share", "each"), [(0.5, (8, 8)), (0.25, (12, 4)), (0.001, (15, 1)), (0.999, (1, 15))])
def test_an_epoch_is_a_pass_over_the_labels_and_a_batch_has_its_share_without(
    share: float, each: tuple[int, int]
) -> None:
    source = rows(50, 30, share=share)
    found = source.of_epoch(0)
    labeled, unlabeled = found[:, : each[0]], found[:, each[0] :]
    assert found.shape == (50 // each[0], 16)
    assert labeled.max() < 50 <= unlabeled.min()
    assert len(labeled.unique()) == labeled.numel()
    assert source.unlabeled_each == each[1]


def test_pictures_without_labels_are_used_equally_often_over_epochs() -> None:
    source = rows(50, 30)
    used = torch.cat([source.of_epoch(epoch)[:, 8:].flatten() for epoch in range(5)])
    counts = torch.bincount(used - 50, minlength=30)
    assert counts.sum() == 5 * 6 * 8
    assert counts.tolist() == [8] * 30
    assert used[:30].sort().values.equal(used[30:60].sort().values)
    assert not used[:30].equal(used[30:60])


def test_without_pictures_without_labels_no_batch_has_any() -> None:
    assert rows(50, 0).of_epoch(1).equal(rows(50, 30, share=0.0).of_epoch(1))
    assert rows(50, 0).steps == 3


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5, 0.7])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_small_set_makes_one_batch(share: float, size: int) -> None:
    if int(10 / (1 - share)) % size:
        with pytest.raises(UsageError, match="cannot be divided equally"):
            rows(10, 100, 1000, share=share, world=World(0, size))
        return
    every = [source.of_epoch(0) for source in in_each_process(size, labeled=10, unlabeled=100, batch=1000, share=share)]
    labeled: Tensor = torch.cat(every).flatten()
    labeled = labeled[labeled < 10]
    assert len(labeled.unique()) == len(labeled) > 10 - size


@pytest.mark.parametrize("epoch", [0, 4])
@pytest.mark.parametrize("unlabeled", [0, 30])
def test_two_and_four_processes_make_the_pairs_of_one(unlabeled: int, epoch: int) -> None:
    alone = rows(50, unlabeled, paired=True)
    for size in (2, 4):
        processes = in_each_process(size, labeled=50, unlabeled=unlabeled, paired=True)
        assert set().union(*(pairs(one, epoch) for one in processes)) == pairs(alone, epoch)
        for step in range(alone.steps):
            together = torch.cat([one.of_epoch(epoch)[step] for one in processes])
            assert together.sort().values.equal(alone.of_epoch(epoch)[step].sort().values)
        assert all(one.partners(epoch).equal(alone.partners(epoch)) for one in processes)


def test_batches_that_processes_cannot_share_by_pairs_are_shared_in_their_order() -> None:
    alone = rows(50, 0, batch=6, paired=True).of_epoch(1)
    processes = in_each_process(2, labeled=50, unlabeled=0, batch=6, paired=True)
    assert torch.cat([one.of_epoch(1) for one in processes], dim=1).equal(alone)


@pytest.mark.parametrize("size", [1, 2])
def test_partners_are_those_of_the_batches_and_a_row_in_no_batch_is_its_own(size: int) -> None:
    for source in in_each_process(size, labeled=50, unlabeled=0, batch=12, paired=True):
        partners = source.partners(2)
        for part in source.of_epoch(2):
            assert partners[part].equal(part.flip(0))
        assert (partners == torch.arange(50)).sum() == 2
        assert partners[partners].equal(torch.arange(50))
