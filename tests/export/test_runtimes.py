"""One contract for torch and ONNX Runtime, and threads that the machine really has."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import functional

from compress.system.errors import InputError
from export.runtimes import OrtRuntime, TorchRuntime, _cgroup_cpus, default_threads, normalise, open_session
from tests.helpers.classifiers import MEAN, STD, Digits


def test_normalise_equals_torchvision(data: Digits) -> None:
    expected = [functional.normalize(functional.to_tensor(image), mean=MEAN, std=STD) for image in data.eval_images[:5]]
    actual = normalise(data.eval_images[:5], MEAN, STD)
    assert actual.flags.c_contiguous
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, torch.stack(expected).numpy(), atol=1e-6)


def test_both_runtimes_give_the_same_logits_whatever_their_batch(
    trained: nn.Module, trained_onnx: Path, data: Digits
) -> None:
    images = data.eval_images[:37]
    by_torch = TorchRuntime(trained, MEAN, STD, batch_size=37)(images)
    np.testing.assert_allclose(OrtRuntime(trained_onnx, MEAN, STD, batch_size=8)(images), by_torch, atol=1e-4)
    np.testing.assert_allclose(TorchRuntime(trained, MEAN, STD, batch_size=8)(images), by_torch, atol=1e-4)


def test_torch_runtime_evaluates_and_gives_the_mode_back(trained: nn.Module, data: Digits) -> None:
    before = trained[1].running_mean.clone()
    trained.train()
    trained[1].eval()  # a frozen BatchNorm inside a model that trains
    try:
        runtime = TorchRuntime(trained, MEAN, STD)
        assert np.array_equal(runtime(data.eval_images[:4]), runtime(data.eval_images[:8])[:4])
        assert trained.training
        assert trained[4].training
        assert not trained[1].training
    finally:
        trained.eval()
    assert torch.equal(trained[1].running_mean, before)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert _cgroup_cpus(tmp_path) == cores


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


def test_files_that_are_no_models_are_input_errors(trained_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "half.onnx").write_bytes(trained_onnx.read_bytes()[:1000])
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("half.onnx", "empty.onnx", "none.onnx"):
        with pytest.raises(InputError, match=name) as caught:
            OrtRuntime(tmp_path / name, MEAN, STD)
        assert "\n" not in str(caught.value)


def test_images_of_another_size_are_an_input_error(trained_onnx: Path) -> None:
    with pytest.raises(InputError, match=r"student\.onnx does not run on input \(2, 3, 20, 20\)"):
        OrtRuntime(trained_onnx, MEAN, STD)(np.zeros((2, 20, 20, 3), np.uint8))
