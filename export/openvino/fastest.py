"""Which of several files of one model is the fastest in OpenVINO on this machine."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.openvino.session import Session

_RUNS, _WARM_UP = 50, 5


def fastest(paths: Sequence[Path], threads: int | None) -> Path:
    """The file of the least median time at batch 1, of runs in turns. One file alone is not timed.

    Args:
        paths: ONNX files that take the same input.
        threads: None takes what this process may use.
    """
    if len(paths) == 1:
        return paths[0]
    sessions = {path: Session(path, threads) for path in paths}
    shape = [max(1, size) for size in next(iter(sessions.values())).input_shape]
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    times: dict[Path, list[int]] = {path: [] for path in paths}
    for _ in range(_RUNS + _WARM_UP):
        for path, session in sessions.items():
            began = time.perf_counter_ns()
            session.run(image)
            times[path].append(time.perf_counter_ns() - began)
    return min(paths, key=lambda path: statistics.median(times[path][_WARM_UP:]))
