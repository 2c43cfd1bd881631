"""Mixup and CutMix against timm's, and their distributions against scipy's."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.mixup import Mixup
from torch import Tensor

from compress.data import mixing as module
from compress.data.mixing import mixing
from compress.recipe import Augment

BOTH = Augment(mixup=0.8, cutmix=1.0)


@pytest.mark.parametrize("size", [(8, 8), (9, 14)])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.8, 0.5)])
def test_equal_draws_give_timms_pictures_and_targets(
    monkeypatch: pytest.MonkeyPatch, mixup: float, cutmix: float, size: tuple[int, int]
) -> None:
    count, (height, width) = 64, size
    draws = torch.rand(count, 4, generator=torch.Generator().manual_seed(4))
    monkeypatch.setattr(module, "uniform_draws", lambda *_, **__: draws)
    which, quantile, y, x = draws.numpy().T
    middles = (np.floor(quantile * 4096) + 0.5) / 4096
    cut = which < 0.5 if mixup and cutmix else np.full(count, bool(cutmix))
    centres = np.stack([np.floor(y * height), np.floor(x * width)], 1).astype(int)[cut]
    places: Iterator[int] = iter(centres.ravel().tolist())
    chances = iter([which, np.zeros(count)] if mixup and cutmix else [np.zeros(count)])
    monkeypatch.setattr(np.random, "rand", lambda *_: next(chances))
    monkeypatch.setattr(np.random, "beta", lambda a, b, size: stats.beta.ppf(middles, a, b))
    monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: next(places))

    images = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(5))
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(count) % 7
    timms = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, mode="elem", label_smoothing=0.0, num_classes=7)
    expected, targets = timms(images.clone(), labels)
    mix = mixing(torch.arange(count), Augment(mixup=mixup, cutmix=cutmix), height, width, seed=0, epoch=0)
    found = mix(images, images.flip(0))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    share = mix.share.unsqueeze(1)
    onehot = torch.eye(7)[labels]
    torch.testing.assert_close(share * onehot + (1 - share) * onehot.flip(0), targets, rtol=1e-5, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert len(mix.share.unique()) > 10


def test_shares_of_mixup_follow_beta_and_areas_of_cutmix_those_of_timm() -> None:
    rows = torch.arange(20_000)
    shares = mixing(rows, Augment(mixup=0.4), 8, 8, seed=1, epoch=0).share.double().numpy()
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 1e-4
    areas = mixing(rows, Augment(cutmix=0.7), 16, 16, seed=1, epoch=0).share.numpy()
    np.random.seed(0)
    timms = Mixup(mixup_alpha=0.0, cutmix_alpha=0.7, mode="elem", label_smoothing=0.0, num_classes=2)
    reference = timms._mix_elem(torch.zeros(20_000, 1, 16, 16)).squeeze(1).numpy()
    assert stats.ks_2samp(areas, reference).pvalue > 1e-4


def test_with_both_each_sample_gets_one_or_the_other() -> None:
    mix = mixing(torch.arange(4000), BOTH, 8, 8, seed=0, epoch=3)
    assert stats.binomtest(int(mix.cut.sum()), 4000, 0.5).pvalue > 1e-4
    empty = (mix.box[:, 1] - mix.box[:, 0]) * (mix.box[:, 3] - mix.box[:, 2]) == 0
    assert empty[~mix.cut].all()
    assert not empty[mix.cut].all()


def test_a_draw_depends_on_seed_epoch_and_sample_and_on_nothing_else() -> None:
    def of(rows: Tensor, seed: int = 1, epoch: int = 2) -> Tensor:
        mix = mixing(rows, BOTH, 8, 8, seed=seed, epoch=epoch)
        return torch.cat([mix.share[:, None], mix.cut[:, None], mix.box], dim=1)

    rows = torch.arange(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(of(rows[order]), of(rows)[order])
    assert not torch.equal(of(rows, seed=2), of(rows))
    assert not torch.equal(of(rows, epoch=3), of(rows))


def test_a_share_of_one_keeps_the_picture_to_the_bit() -> None:
    images = torch.randn(2, 3, 4, 4)
    box = torch.zeros(2, 4, dtype=torch.int64)
    mix = module.Mixing(torch.ones(2), torch.tensor([True, False]), box)
    assert torch.equal(mix(images, images.flip(0)), images)
