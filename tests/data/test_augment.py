import numpy as np
import pytest
import torch
from scipy import stats

from compress.data.augment import Images
from compress.data.draws import uniform_draws
from compress.recipe import Augment
from tests.reference.augment_reference import find_shift


def images(count: int = 64, size: int = 10) -> Images:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    return Images(
        pixels, torch.zeros(count, dtype=torch.int64), torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    )


def to_pixels(batch: torch.Tensor, source: Images) -> np.ndarray:
    restored = (batch.permute(0, 2, 3, 1) * source.std + source.mean) * 255
    return restored.round().to(torch.uint8).numpy()


def test_normalisation_is_that_of_torchvision() -> None:
    from torchvision.transforms.functional import normalize, to_tensor

    source = images(3)
    expected = torch.stack(
        [normalize(to_tensor(image.numpy()), source.mean.tolist(), source.std.tolist()) for image in source.images]
    )
    batch = source.normalized(slice(0, 3))
    torch.testing.assert_close(batch, expected)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_each_sample_is_a_shift_and_flip_of_its_own_and_all_of_them_occur() -> None:
    source = images(400)
    rows = torch.arange(400)
    batch = source.augmented(rows, Augment(crop=1, flip=True), seed=3, epoch=5)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    seen: dict[tuple[int, int, bool], int] = {}
    for image, result in zip(source.images.numpy(), to_pixels(batch, source), strict=True):
        (found,) = find_shift(image, result, padding=1)
        seen[found] = seen.get(found, 0) + 1
    assert len(seen) == 18
    assert stats.chisquare(list(seen.values())).pvalue > 1e-4


def test_a_draw_depends_on_seed_epoch_and_sample_and_on_nothing_else() -> None:
    source = images(32)
    augment = Augment(crop=3, flip=True, erase=0.5, scale=0.5)
    rows = torch.arange(32)
    batch = source.augmented(rows, augment, seed=1, epoch=2)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(source.augmented(order, augment, seed=1, epoch=2), batch[order])
    assert not torch.equal(source.augmented(rows, augment, seed=2, epoch=2), batch)
    assert not torch.equal(source.augmented(rows, augment, seed=1, epoch=3), batch)


def test_draws_are_uniform_and_independent() -> None:
    draws = uniform_draws(torch.arange(20_000), seed=7, epoch=0, count=8).double().numpy()
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    assert np.abs(np.corrcoef(draws.T) - np.eye(8)).max() < 0.04
    many = uniform_draws(torch.arange(2000), seed=7, epoch=0, count=30).double().numpy()
    assert stats.kstest(many.ravel(), "uniform").pvalue > 1e-4
    assert len(np.unique(many)) > 0.99 * many.size  # no sample shares a number with its neighbour
    neighbours = uniform_draws(torch.arange(20_000), seed=7, epoch=1, count=8).double().numpy()
    assert abs(np.corrcoef(draws[:, 0], neighbours[:, 0])[0, 1]) < 0.04
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.04


def test_without_augmentation_the_batch_is_the_normalised_images() -> None:
    source = images(8)
    rows = torch.tensor([3, 1, 7])
    plain = source.augmented(rows, Augment(crop=0, flip=False), seed=0, epoch=0)
    torch.testing.assert_close(plain, source.normalized(rows))


def test_a_resized_crop_of_a_gradient_stays_a_part_of_it() -> None:
    ramp = torch.arange(16, dtype=torch.uint8).repeat(40, 16, 1).unsqueeze(-1).expand(-1, -1, -1, 3) * 10
    source = Images(ramp.contiguous(), torch.zeros(40, dtype=torch.int64), torch.zeros(3), torch.ones(3))
    batch = source.augmented(torch.arange(40), Augment(crop=0, flip=False, scale=0.3), seed=0, epoch=0) * 255
    slope = (batch[:, 0, 8, 12] - batch[:, 0, 8, 4]) / 8
    assert (slope > 0).all()
    assert slope.max() <= 10.1  # never scaled down
    assert slope.min() < 8  # and often scaled up
    assert batch.min() >= 0
    assert batch.max() <= 150.01


@pytest.mark.parametrize("size", [5, 7])
def test_odd_sizes_work(size: int) -> None:
    batch = images(4, size=size).augmented(
        torch.arange(4), Augment(crop=2, flip=True, erase=1.0, scale=0.5), seed=0, epoch=0
    )
    assert batch.shape == (4, 3, size, size)
    assert batch.isfinite().all()
