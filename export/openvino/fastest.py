"""Which of several files of one model is the fastest in OpenVINO on this machine."""

import functools
import logging
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compress.system.errors import GateError, InputError
from export.openvino.session import Session

logger = logging.getLogger(__name__)
_RUNS, _WARM_UP = 50, 5


def fastest(paths: Sequence[Path], threads: int | None) -> Path:
    """The file of the least median time at batch 1, of runs in turns, of those that OpenVINO runs.

    Args:
        paths: ONNX files that take the same input.
        threads: None takes what this process may use.

    Raises:
        GateError: OpenVINO runs none of them.
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
    if not runs:
        raise GateError("OpenVINO runs none of the INT8 graphs", "Deploy another precision or runtime")
    if len(runs) == 1:
        return next(iter(runs))
    times: dict[Path, list[int]] = {path: [] for path in runs}
    for _ in range(_RUNS + _WARM_UP):
        for path, run in runs.items():
            began = time.perf_counter_ns()
            run()
            times[path].append(time.perf_counter_ns() - began)
    return min(runs, key=lambda path: statistics.median(times[path][_WARM_UP:]))
