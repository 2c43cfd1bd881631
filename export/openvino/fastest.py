"""How fast several files of one model are in OpenVINO on this machine."""

import functools
import logging
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compress.system.errors import InputError
from export.openvino.session import Session

logger = logging.getLogger(__name__)

_RUNS, _WARM_UP = 50, 5


def median_times(paths: Sequence[Path], threads: int | None) -> dict[Path, float]:
    """The median time at batch 1 in seconds, of runs in turns, of each file that OpenVINO runs; the fastest first.

    Args:
        paths: ONNX files that take the same input.
        threads: None takes what this process may use.
    """
    runs = {}
    for path in paths:
        try:
            session = Session(path, threads)
            shape = [max(1, size) for size in session.input_shape]
            image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
            session.run(image)
        except InputError as error:
            logger.warning(f"OpenVINO does not run {path.name}: {error.message}")
        else:
            runs[path] = functools.partial(session.run, image)
    times: dict[Path, list[float]] = {path: [] for path in runs}
    for _ in range(_RUNS + _WARM_UP):
        for path, run in runs.items():
            began = time.perf_counter()
            run()
            times[path].append(time.perf_counter() - began)
    medians = {path: statistics.median(taken[_WARM_UP:]) for path, taken in times.items()}
    return dict(sorted(medians.items(), key=lambda entry: entry[1]))
