"""By which gates an engine passes, and on which GPUs it is put to them."""

import numpy as np
import pytest

from compress.recipe import Export
from export.gates.parity import judge
from export.records import Precision
from export.tensorrt.engines import limits_on_gpu
from export.tensorrt.library import built_for


@pytest.mark.parametrize("wanted", ["89", "8.9", "sm89", "SM8.9", "8.9f"])
def test_an_engine_runs_on_the_gpu_that_it_was_built_for_however_that_is_written(wanted: str) -> None:
    assert Export(compute_capabilities=[wanted]).compute_capabilities == [wanted], "the recipe takes it"
    assert built_for([wanted], 8, 9)
    assert built_for(["75", wanted], 8, 9)
    assert not built_for([wanted], 8, 6)
    assert built_for([], 8, 6)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_one_image_of_many_that_rounding_changes_does_not_leave_an_engine_undecided(precision: Precision) -> None:
    labels = np.zeros(10_000, np.int64)
    reference = np.tile(np.array([1, 0], np.float32), (len(labels), 1))
    rounded = reference.copy()
    rounded[7] = [0, 1]
    assert judge(reference, rounded, labels, limits_on_gpu(Export(), precision)).outcome == "PASS"
    rounded[:60] = [0, 1]
    worse = judge(reference, rounded, labels, limits_on_gpu(Export(), precision)).outcome
    assert worse == ("UNDECIDED" if precision == "int8" else "FAIL")
