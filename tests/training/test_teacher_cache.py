"""The teacher's logits for repeated views: what they are, when the teacher is asked, and that nothing else changes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from compress import recipe
from compress.data.augment import Images
from compress.data.caches import list_caches, prune_caches
from compress.system.errors import Interrupted, UsageError
from compress.system.interrupts import Flag
from compress.training.batches import Batches
from compress.training.teacher_cache import TeacherViews

AUGMENT = recipe.Augment(crop=2, flip=True)
CPU = torch.device("cpu")
COUNT, CLASSES = 50, 4


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.images = nn.Linear(3 * 6 * 6, CLASSES), 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        with torch.no_grad():
            return self.layer(images.flatten(1))


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, 6, 6, 3), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(COUNT) % CLASSES, torch.full((3,), 0.4), torch.full((3,), 0.2))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def views(count: int = 2, **determined_by: Any) -> TeacherViews:
    return TeacherViews(
        count=count, samples=COUNT, of_a_pass=512, device=CPU, determined_by={"teacher": "t", **determined_by}
    )


def batches(images: Images, teacher: Counting, kept: TeacherViews | None) -> Batches:
    return Batches(images, AUGMENT, batch_size=16, seed=7, teacher=teacher, views=kept)


def epoch(source: Batches, number: int) -> list[Any]:
    return [source.get(number, step, Flag()) for step in range(source.steps_per_epoch)]


def far(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a.flatten(1), b.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")


def test_the_teacher_looks_at_each_view_once_and_then_never_again(images: Images) -> None:
    teacher = Counting()
    source = batches(images, teacher, views(2))
    asked = []
    for number in range(4):
        epoch(source, number)
        asked.append(teacher.images)
    assert asked == [COUNT, 2 * COUNT, 2 * COUNT, 2 * COUNT]
    later = Counting()
    epoch(batches(images, later, views(3)), 1)  # a view does not depend on how many there are
    assert later.images == 0


def test_logits_are_the_teachers_for_the_very_images_of_the_batch(images: Images) -> None:
    teacher = Counting()
    source = batches(images, teacher, views(2))
    for number in range(4):
        for batch in epoch(source, number):
            exact = teacher(batch.images)
            torch.testing.assert_close(batch.teacher_logits, exact, atol=0, rtol=2**-10)  # half precision
            assert not batch.teacher_logits.requires_grad


def test_views_repeat_after_so_many_epochs_and_the_order_does_not(images: Images) -> None:
    """Sample by sample: the augmentation of epoch 2 is that of epoch 0; without views it is another one."""
    source = batches(images, Counting(), views(2))
    rows = torch.arange(COUNT)
    by_row = []
    for number in range(3):
        seen = torch.cat([batch.images for batch in epoch(source, number)])
        order = torch.cat([batch.labels for batch in epoch(source, number)])
        expected = images.augmented(rows, AUGMENT, seed=7, epoch=number % 2)
        distances = far(seen, expected)
        assert distances.amin(1).max() < 1e-4
        by_row.append((distances.argmin(1), order))
    assert not torch.equal(by_row[0][0], by_row[2][0])
    plain = torch.cat([batch.images for batch in epoch(batches(images, Counting(), None), 2)])
    first = images.augmented(rows, AUGMENT, seed=7, epoch=0)
    assert far(plain, first).amin(1).max() > 0.1


@pytest.mark.parametrize("other", [{"teacher": "u"}, {"augment": {"crop": 4}}, {"seed": 1}, {"precision": "bf16"}])
def test_what_determines_the_logits_is_in_their_key(other: dict[str, Any]) -> None:
    assert views(**other).folder != views().folder
    assert views().folder == views(5).folder


def test_a_damaged_view_is_made_again(images: Images, cache: Path) -> None:
    first = epoch(batches(images, Counting(), views()), 0)
    (path,) = cache.glob("teacher-logits/*/view-0000.npy")
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        teacher = Counting()
        again = epoch(batches(images, teacher, views()), 0)
        assert teacher.images == COUNT
        assert path.read_bytes() == whole
        assert all(torch.equal(a.teacher_logits, b.teacher_logits) for a, b in zip(first, again, strict=True))
    assert np.load(path).dtype == np.float16


def test_a_signal_in_the_middle_leaves_no_view(images: Images, cache: Path) -> None:
    flag = Flag()
    flag.signal_number = 15
    with pytest.raises(Interrupted):
        batches(images, Counting(), views()).get(0, 0, flag)
    assert not list(cache.rglob("view-*"))


def test_kept_logits_and_terms_that_look_inside_the_teacher_exclude_one_another() -> None:
    raw = {
        "data": {"name": "digits"},
        "teacher": {"model": "resnet18", "cache": {"views": 2}},
        "student": {"model": "resnet10t"},
        "supervision": {"method": "kd", "terms": [{"name": "fitnet"}]},
    }
    with pytest.raises(UsageError, match=r"teacher\.cache"):
        recipe.validate_recipe(raw)


def test_a_signal_is_heard_while_another_process_writes_the_same_view(images: Images) -> None:
    kept, flag = views(), Flag()
    kept.folder.parent.mkdir(parents=True)
    flag.signal_number = 15
    with FileLock(f"{kept.folder}.lock"), pytest.raises(Interrupted):
        batches(images, Counting(), kept).get(0, 0, flag)


def test_logits_and_caches_in_the_making_are_left_alone_while_their_process_lives(images: Images, cache: Path) -> None:
    """A view while it is written, and what a decode writes beside its place under the lock of that place."""
    scratch = cache / "data" / "photos-64.abc1.tmp"
    scratch.mkdir(parents=True)
    kept, seen = views(teacher="old"), []

    class Slow(Counting):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            with FileLock(cache / "data" / "photos-64.lock"):
                seen.append(prune_caches(unused_days=0, remove=True))
            return super().forward(batch)

    epoch(batches(images, Slow(), kept), 0)
    assert seen
    assert all(found == [] for found in seen)
    assert kept.folder.is_dir()
    assert {entry.path for entry in prune_caches(unused_days=0, remove=True)} == {kept.folder, scratch}
    assert not scratch.exists()


def test_kept_logits_are_listed_and_go_once_they_are_not_used(images: Images) -> None:
    old, used = views(teacher="old"), views(teacher="used")
    for kept in (old, used):
        epoch(batches(images, Counting(), kept), 0)
        os.utime(kept.folder, (0, 0))
    assert {cache.path for cache in list_caches()} == {old.folder, used.folder}
    epoch(batches(images, Counting(), views(teacher="used")), 0)  # read by a later run
    assert [cache.path for cache in prune_caches(unused_days=30, remove=True)] == [old.folder]
    assert used.folder.is_dir()
    assert not old.folder.exists()
