"""The gates against other ways to the same numbers, and what they let pass and stop."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from compress.system.errors import GateError
from export.gates.parity import (
    Limits,
    LogitParity,
    check_agreement,
    check_classes,
    check_drop,
    check_finite,
    check_graph,
    check_logits,
    check_outcome,
    judge,
    paired_drop,
)
from export.runtimes import OrtRuntime
from tests.helpers.classifiers import MEAN, STD, Digits, Exported, normalised, random_model, small_net


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


def parity_of(model: nn.Module, path: Path, images: np.ndarray, batches: tuple[int, ...] = (1, 2, 7)) -> LogitParity:
    inputs = normalised(images)
    with torch.inference_mode():
        reference = model(torch.from_numpy(inputs)).numpy()
        exact = copy.deepcopy(model).double()(torch.from_numpy(inputs).double()).numpy()
    return check_logits(reference, exact, OrtRuntime(path, MEAN, STD), inputs, batches=batches, max_diff=1e-4)


def test_a_right_file_equals_torch_on_images_at_every_batch(
    trained: nn.Module, trained_onnx: Path, data: Digits
) -> None:
    found = parity_of(trained, trained_onnx, data.eval_images[:8], (1, 7, 2, 20, 7))
    assert list(found.diff_by_batch) == [1, 2, 7, 20]
    assert max(found.diff_by_batch.values()) < 1e-5
    assert 0 < found.float32_error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_small_100", "vit_tiny_patch16_224"])
def test_right_files_of_nets_sensitive_to_rounding_pass(exported: Callable[[str], Exported], name: str) -> None:
    case = exported(name)
    parity_of(case.model, case.path, case.images[:32])
    with pytest.raises(GateError, match=r"logits differ by .* allowed"):
        parity_of(random_model(name, seed=1), case.path, case.images[:32])


def test_what_is_allowed_grows_with_torchs_own_float32_error() -> None:
    generator = np.random.default_rng(0)
    exact = generator.normal(size=(16, 10))
    exact /= np.abs(exact).max()
    candidate = SimpleNamespace(run=lambda inputs: (exact + 4e-4 * np.sign(exact))[: len(inputs)].astype(np.float32))
    inputs = np.zeros((16, 3, 4, 4), np.float32)
    sensitive = exact + 5e-4 * generator.uniform(-1, 1, exact.shape)
    check_logits(sensitive, exact, candidate, inputs, batches=(16,), max_diff=1e-4)
    with pytest.raises(GateError, match=r"differ by 0\.0004 of the largest, 0\.0001 allowed"):
        check_logits(exact + 1e-6, exact, candidate, inputs, batches=(16,), max_diff=1e-4)


@pytest.mark.parametrize("layer", range(5))
def test_one_altered_weight_of_any_layer_is_found(
    trained: nn.Module, trained_onnx: Path, data: Digits, tmp_path: Path, layer: int
) -> None:
    model = onnx.load(trained_onnx)
    weights = [node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weights[layer])
    values = numpy_helper.to_array(tensor).copy()
    place = np.unravel_index(np.abs(values).argmax(), values.shape)
    values[place] *= 1.05
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "altered.onnx")
    parity_of(trained, trained_onnx, data.eval_images[:8])
    with pytest.raises(GateError, match="does not compute what the model does"):
        parity_of(trained, tmp_path / "altered.onnx", data.eval_images[:8])


def test_the_file_of_another_model_is_found(trained_onnx: Path, data: Digits) -> None:
    torch.manual_seed(1)
    with pytest.raises(GateError, match="does not compute what the model does"):
        parity_of(small_net().eval(), trained_onnx, data.eval_images[:8])


def test_logits_gate_finds_a_fixed_batch(trained: nn.Module, trained_onnx: Path, data: Digits, tmp_path: Path) -> None:
    model = onnx.load(trained_onnx)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(GateError, match="at batch 1"):
        parity_of(trained, tmp_path / "fixed.onnx", data.eval_images[:8], (2, 1))


def test_the_class_must_be_that_of_torch_on_every_image_but_for_ties() -> None:
    reference = logits_for(np.arange(200) % 4) * 10
    tied = reference.copy()
    tied[5, 1], tied[5, 2] = 10.0, 10.0001
    reference[5] = [0, 10.0, 9.9999, 0]
    assert check_classes(reference, tied, 1e-3, "the file") == 199 / 200
    other = reference.copy()
    other[7] = np.roll(other[7], 1)
    with pytest.raises(GateError, match="the file gives 1 of 200 images another class than torch does, 0 allowed"):
        check_classes(reference, other, 1e-3, "the file")


@pytest.mark.parametrize(
    ("n", "lost", "won", "outcome"),
    [
        (10_000, 250, 50, "FAIL"),  # 2 points
        (10_000, 20, 20, "PASS"),
        (341, 6, 2, "UNDECIDED"),
        (341, 0, 0, "UNDECIDED"),  # no image of 341 says little of half a point
        (200, 60, 55, "FAIL"),  # the accuracy holds, the classes do not
    ],
)
def test_a_file_passes_fails_or_is_undecided_by_both_intervals(n: int, lost: int, won: int, outcome: str) -> None:
    found = judge(*two_models(n, lost, won, 0), Limits(0.005, 0.9))
    assert found.outcome == outcome
    assert found.agreement == pytest.approx(1 - (lost + won) / n)
    assert (found.images_to_decide is not None) == (outcome == "UNDECIDED")
    if outcome == "FAIL":
        with pytest.raises(GateError, match=r"allowed|required"):
            check_outcome(found, "INT8")
    else:
        check_outcome(found, "INT8")


def test_as_many_images_as_are_named_would_decide() -> None:
    undecided = judge(*two_models(341, 6, 2, 0), Limits(0.005, 0.9))
    assert undecided.images_to_decide is not None
    share = undecided.images_to_decide / 341
    more = (round(1.2 * share * count) for count in (341, 6, 2))
    assert judge(*two_models(*more, 0), Limits(0.005, 0.9)).outcome != "UNDECIDED"


@pytest.mark.parametrize(
    ("lost", "won", "limits"),
    [
        (61, 56, Limits(0.005, 0.9)),  # the classes are missed; of the accuracy no number of images would decide
        (55, 51, Limits(0.005, 0.9)),  # and here a great number
        (18, 4, Limits(0.005, 0.978)),  # the accuracy is missed; the classes equal their limit
        (14, 4, Limits(0.005, 0.985)),  # both are missed
        (12, 4, Limits(0.02, 0.98)),  # both are met
    ],
)
def test_the_images_that_would_decide_are_the_fewest_that_do(lost: int, won: int, limits: Limits) -> None:
    needed = judge(*two_models(1000, lost, won, 0), limits).images_to_decide
    assert needed is not None

    def judged(share: float) -> str:
        return judge(
            *two_models(*(round(share * needed / 1000 * count) for count in (1000, lost, won)), 0), limits
        ).outcome

    met = (lost - won) / 1000 <= limits.max_drop and 1 - (lost + won) / 1000 >= limits.min_agreement
    assert judged(1.3) == ("PASS" if met else "FAIL")
    assert judged(0.8) == "UNDECIDED"


def test_a_precision_that_only_rounds_passes_where_no_image_changes_its_class() -> None:
    assert judge(*two_models(50, 0, 0, 0), Limits(0.002, 0.99, same_is_enough=True)).outcome == "PASS"
    assert judge(*two_models(50, 1, 0, 0), Limits(0.002, 0.99, same_is_enough=True)).outcome == "UNDECIDED"


def test_invalid_onnx_fails_the_gate(trained_onnx: Path, tmp_path: Path) -> None:
    check_graph(trained_onnx)
    model = onnx.load(trained_onnx)
    model.graph.node.insert(0, helper.make_node("Relu", ["nowhere"], ["somewhere"]))
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(GateError) as caught:
        check_graph(tmp_path / "broken.onnx")
    assert "\n" not in str(caught.value)
