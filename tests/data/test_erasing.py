"""Random erasing: the rectangles and fillings of timm's RandomErasing, in distribution, and a draw for each sample."""

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from compress.data.erasing import erased
from compress.recipe import Augment

SIZE, COUNT = (24, 30), 3000


def ours(mode: str = "const", *, count: int = COUNT, probability: float = 1.0, **where: int) -> Tensor:
    batch = torch.full((count, 3, *SIZE), 7.0).contiguous(memory_format=torch.channels_last)
    augment = Augment.model_validate({"erase": probability, "erase_mode": mode})
    return erased(batch, torch.arange(count), augment, **{"seed": 1, "epoch": 0, **where})


def timms(mode: str = "const", *, probability: float = 1.0) -> Tensor:
    random.seed(0)
    torch.manual_seed(0)
    return RandomErasing(probability, mode=mode, device="cpu")(torch.full((COUNT, 3, *SIZE), 7.0))


def rectangles(batch: Tensor) -> dict[str, np.ndarray]:
    """Top, left, height and width of each erased part, which must be a rectangle in all channels."""
    hit = (batch != 7).any(1)
    hit = hit[hit.flatten(1).any(1)]
    found: dict[str, list[int]] = {"top": [], "left": [], "height": [], "width": []}
    for one in hit.numpy():
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert one.sum() == height * width
        for name, value in zip(found, (rows[0], columns[0], height, width), strict=True):
            found[name].append(int(value))
    return {name: np.array(values) for name, values in found.items()}


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return rectangles(ours()), rectangles(timms())


@pytest.mark.parametrize("name", ["top", "left", "height", "width"])
def test_rectangles_have_timms_sizes_and_places(both: Any, name: str) -> None:
    mine, theirs = both
    assert stats.ks_2samp(mine[name], theirs[name]).pvalue > 1e-4
    assert set(mine[name]) >= set(np.unique(theirs[name])[2:-2])


def test_nearly_all_are_erased_where_all_shall_be_as_in_timm(both: Any) -> None:
    mine, theirs = (len(one["top"]) for one in both)
    assert abs(mine - theirs) < 20
    assert mine > COUNT - 20


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_the_filling_is_timms(mode: str) -> None:
    mine, theirs = (batch.permute(0, 2, 3, 1) for batch in (ours(mode), timms(mode)))
    kinds = []
    for batch in (mine, theirs):
        values = [image[(image != 7).any(-1)] for image in batch]
        big = [one for one in values if len(one) > 20]
        if mode == "const":
            assert all((one == 0).all() for one in big)
        if mode == "rand":
            assert all((one == one[0]).all() for one in big)
            assert all(one[0].unique().numel() == 3 for one in big)
        kinds.append(torch.stack([one[0] for one in big]))
    if mode != "const":
        colours = kinds[0].flatten().double().numpy()
        assert stats.kstest(colours, "norm").pvalue > 1e-4
        assert stats.ks_2samp(colours, kinds[1].flatten().double().numpy()).pvalue > 1e-4
    if mode == "pixel":
        inside = mine[mine != 7].double().numpy()
        assert abs(inside.mean()) < 0.02
        assert abs(inside.std() - 1) < 0.02
        parts = [image[(image != 7).any(-1)].flatten() for image in mine[:200]]
        pairs = [abs(np.corrcoef(a[:60], b[:60])[0, 1]) for a, b in pairwise(parts) if min(len(a), len(b)) > 60]
        assert np.median(pairs) < 0.2


def test_the_part_of_the_samples_is_the_probability() -> None:
    changed = (ours(probability=0.3) != 7).flatten(1).any(1).sum()
    assert stats.binomtest(int(changed), COUNT, 0.3).pvalue > 1e-4


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_a_draw_depends_on_seed_epoch_and_sample_and_on_nothing_else(mode: str) -> None:
    batch = torch.full((40, 3, *SIZE), 7.0).contiguous(memory_format=torch.channels_last)
    augment = Augment.model_validate({"erase": 0.7, "erase_mode": mode})
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    first = erased(batch, torch.arange(40), augment, seed=1, epoch=0)
    assert torch.equal(erased(batch, order, augment, seed=1, epoch=0), first[order])
    assert first.is_contiguous(memory_format=torch.channels_last)
    for other in ({"seed": 2}, {"epoch": 1}):
        assert not torch.equal(ours(mode, count=40, probability=0.7, **other), ours(mode, count=40, probability=0.7))
