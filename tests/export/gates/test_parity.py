"""The gates against other ways to the same numbers, and what they let pass and stop."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from compress.system.errors import GateError
from export.gates.parity import check_agreement, check_drop, check_finite, check_graph, check_logits, paired_drop
from export.runtimes import OrtRuntime, TorchRuntime
from tests.helpers.classifiers import MEAN, STD


def logits_for(classes: np.ndarray, count: int = 4) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[classes]


def two_models(n: int, lost: int, won: int, both_wrong: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of a reference and a candidate over n images, in known cells, and the labels (all 0)."""
    reference, candidate = np.zeros(n, int), np.zeros(n, int)
    candidate[:lost] = 1
    reference[lost : lost + won] = 1
    reference[lost + won : lost + won + both_wrong] = candidate[lost + won : lost + won + both_wrong] = 2
    return logits_for(reference), logits_for(candidate), np.zeros(n, int)


@pytest.mark.parametrize(("n", "lost", "won"), [(10_000, 120, 60), (2_000, 30, 28), (500, 0, 12)])
def test_paired_interval_agrees_with_the_bootstrap(n: int, lost: int, won: int) -> None:
    measured = paired_drop(*two_models(n, lost, won, n // 10))
    cells = np.random.default_rng(0).multinomial(n, [lost / n, won / n, 1 - (lost + won) / n], size=20_000)
    low, high = np.quantile((cells[:, 0] - cells[:, 1]) / n, [0.025, 0.975])
    assert measured.drop == pytest.approx((lost - won) / n)
    assert measured.low == pytest.approx(low, abs=1.5 / n + 0.05 * (high - low))
    assert measured.high == pytest.approx(high, abs=1.5 / n + 0.05 * (high - low))
    assert measured.reference_top1 == pytest.approx(1 - (won + n // 10) / n)
    assert measured.candidate_top1 == pytest.approx(1 - (lost + n // 10) / n)


def test_paired_interval_covers_a_small_true_drop() -> None:
    """Of 4000 small splits drawn with a drop of 1 point, the interval should hold it in about 95 %."""
    generator = np.random.default_rng(1)
    held = 0
    for lost, won, _ in generator.multinomial(300, [0.03, 0.02, 0.95], size=4000):
        measured = paired_drop(*two_models(300, lost, won, 20))
        held += measured.low <= 0.01 <= measured.high
    assert 0.94 <= held / 4000 <= 0.985


def test_a_tiny_split_does_not_fail_by_chance_but_a_broken_model_does() -> None:
    check_drop(paired_drop(*two_models(20, 1, 0, 2)), 0.005, "INT8")
    with pytest.raises(GateError, match=r"INT8 loses 60\.00 points .* 20 images\), 0\.50 allowed"):
        check_drop(paired_drop(*two_models(20, 12, 0, 2)), 0.005, "INT8")
    with pytest.raises(GateError):
        check_drop(paired_drop(*two_models(10_000, 150, 20, 500)), 0.005, "INT8")
    check_drop(paired_drop(*two_models(10_000, 60, 20, 500)), 0.005, "INT8")


def test_agreement_uses_the_sample_size() -> None:
    reference = logits_for(np.zeros(1000, int))
    for flips, passes in ((0, True), (15, True), (25, False)):
        candidate = logits_for(np.where(np.arange(1000) < flips, 1, 0))
        if passes:
            assert check_agreement(reference, candidate, 0.99, "FP16") == 1 - flips / 1000
        else:
            with pytest.raises(GateError, match=r"FP16 agrees with FP32 on 97\.50% of 1000 images, 99\.00% required"):
                check_agreement(reference, candidate, 0.99, "FP16")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_never_pass(value: float) -> None:
    reference = logits_for(np.zeros(100, int))
    candidate = reference.copy()
    candidate[3, 2] = value
    with pytest.raises(GateError, match="on 1 of 100 images"):
        check_finite(candidate, "FP16")
    with pytest.raises(GateError, match="on 1 of 100 images"):
        check_agreement(reference, candidate, 0.5, "FP16")


def test_logits_gate_finds_other_weights(trained: nn.Module, trained_onnx: Path) -> None:
    candidate = OrtRuntime(trained_onnx, MEAN, STD)
    good = check_logits(
        TorchRuntime(trained, MEAN, STD), candidate, shape=(3, 16, 16), batches=(1, 7, 2, 7), max_diff=1e-4
    )
    assert list(good) == [1, 2, 7]
    with torch.no_grad():
        other = nn.Sequential(trained, nn.Identity())
        last = trained[-1].bias
        last[0] += 0.01
        try:
            with pytest.raises(GateError, match=r"at batch 1 the logits differ by .*, 0\.0001 allowed"):
                check_logits(TorchRuntime(other, MEAN, STD), candidate, shape=(3, 16, 16), batches=(1,), max_diff=1e-4)
        finally:
            last[0] -= 0.01


def test_logits_gate_finds_a_fixed_batch(trained: nn.Module, trained_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(trained_onnx)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(GateError, match="at batch 1"):
        check_logits(
            TorchRuntime(trained, MEAN, STD),
            OrtRuntime(tmp_path / "fixed.onnx", MEAN, STD),
            shape=(3, 16, 16),
            batches=(2, 1),
            max_diff=1e-4,
        )


def test_invalid_onnx_fails_the_gate(trained_onnx: Path, tmp_path: Path) -> None:
    check_graph(trained_onnx)
    model = onnx.load(trained_onnx)
    model.graph.node.insert(0, helper.make_node("Relu", ["nowhere"], ["somewhere"]))
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(GateError) as caught:
        check_graph(tmp_path / "broken.onnx")
    assert "\n" not in str(caught.value)
