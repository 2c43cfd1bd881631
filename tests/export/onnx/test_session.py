"""Sessions of ONNX Runtime: threads that the machine really has."""

import os
from pathlib import Path

import pytest

from export.onnx import default_threads, open_session


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_threads_follow_the_affinity_of_the_process(trained_onnx: Path) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert default_threads() == 1
        assert open_session(trained_onnx).get_session_options().intra_op_num_threads == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert open_session(trained_onnx, 3).get_session_options().intra_op_num_threads == 3


def test_threads_that_stop_spinning_are_a_setting_of_the_session(trained_onnx: Path) -> None:
    key = "session.force_spinning_stop"
    assert open_session(trained_onnx, 1, stop_spinning=True).get_session_options().get_session_config_entry(key) == "1"
