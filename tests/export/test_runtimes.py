"""One contract for torch and ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import functional

from compress.system.errors import InputError
from export.runtimes import OrtRuntime, TorchRuntime, batches_to_measure, normalise
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


@pytest.mark.parametrize(("size", "most"), [(32, 32), (128, 32), (160, 20), (224, 10), (4000, 1)])
def test_a_pass_that_keeps_every_tensor_takes_fewer_of_larger_images(size: int, most: int) -> None:
    images = np.broadcast_to(np.arange(65, dtype=np.uint8)[:, None, None, None], (65, size, size, 3))
    parts = list(batches_to_measure(images))
    assert max(map(len, parts)) == most
    assert np.concatenate([part[:, 0, 0, 0] for part in parts]).tolist() == list(range(65))
