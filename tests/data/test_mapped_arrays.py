import gc
import io
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.system.files import map_array
from compress.system.interrupts import Flag
from compress.training.teacher_cache import TeacherViews


@pytest.mark.parametrize("shape", [(5, 4, 4, 3), (7,), (0, 8, 8, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16])
def test_a_mapped_array_is_the_one_that_numpy_loads(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    for name, saved in (("rows.npy", array), ("columns.npy", np.asfortranarray(array))):
        np.save(tmp_path / name, saved)
        mapped = map_array(tmp_path / name)
        assert mapped.dtype == dtype
        np.testing.assert_array_equal(mapped, np.load(tmp_path / name))


def test_an_array_larger_than_the_memory_can_be_mapped_and_read(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rows = 2 * memory // 3072
    path = tmp_path / "large.npy"
    try:
        written = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(rows, 32, 32, 3))  # a sparse file
    except OSError as error:
        pytest.skip(f"no file of that size can be made here: {error}")
    written[-1] = 7
    del written
    mapped = map_array(path)
    assert torch.from_numpy(mapped)[rows - 1].eq(7).all()


def test_what_is_written_into_a_mapped_array_stays_out_of_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6))
    before = (tmp_path / "a.npy").read_bytes()
    map_array(tmp_path / "a.npy")[:] = 0
    assert (tmp_path / "a.npy").read_bytes() == before


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array"])
def test_a_file_that_holds_no_array_is_a_value_error(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(damage)
    with pytest.raises(ValueError, match=r".+"):
        map_array(tmp_path / "a.npy")


def test_a_file_that_is_cut_short_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100, 100)))
    os.truncate(tmp_path / "a.npy", 5000)
    with pytest.raises(ValueError, match="cut short"):
        map_array(tmp_path / "a.npy")


def test_a_view_is_written_batch_by_batch_as_numpy_would_save_it_whole(tmp_path: Path) -> None:
    logits = torch.randn(1300, 10, generator=torch.Generator().manual_seed(0)).half()
    alive: list[weakref.ref[Tensor]] = []

    def compute(view: int, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        for rows in batches:
            gc.collect()
            assert sum(part() is not None for part in alive) <= 2, "parts that were written are kept in memory"
            part = logits[rows]
            alive.append(weakref.ref(part))
            yield part

    views = TeacherViews(
        count=1, samples=1300, of_a_pass=512, device=torch.device("cpu"), determined_by={"test": str(tmp_path)}
    )
    found = views.logits(0, compute, Flag())
    assert torch.equal(found, logits)
    assert len(alive) == 3
    expected = io.BytesIO()
    np.save(expected, logits.numpy())
    assert (views.folder / "view-0000.npy").read_bytes() == expected.getvalue()
