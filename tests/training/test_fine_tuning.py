"""Parts of a model that keep their weights, against the graph of autograd, torch's own steps and a linear probe."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import recipe
from compress.data import Splits
from compress.data.augment import Images
from compress.losses.objective import Objective
from compress.models.wrappers import Adapted
from compress.system.errors import Interrupted, UsageError
from compress.training.evaluate import accuracy, logits_of
from compress.training.freezing import Freezing, names_up_to
from compress.training.loop import finish
from compress.training.qat import fine_tune
from compress.training.state import Training
from tests.helpers.networks import Staged, equal, with_statistics
from tests.helpers.terms import STAGED_HINT, supervision
from tests.helpers.training import by_labels, newest, repeatable_metrics, run, splits, stop_after, trained


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("test_resnet", "layer2"),
        ("test_efficientnet", "blocks.2"),
        ("test_efficientnet", "blocks.1.0.bn1"),
        ("test_vit", "blocks.3"),
        ("test_convnext", "stages.1"),
        ("test_convnext", "stem"),
        ("twins_svt_small", "blocks.1.0"),  # registers all patch_embeds before all blocks
    ],
)
def test_a_module_and_all_before_it_are_what_its_output_depends_on(name: str, last: str) -> None:
    size = {"img_size": 64} if name in ("test_vit", "twins_svt_small") else {}
    model = timm.create_model(name, num_classes=3, **size)
    outputs: list[Tensor] = []
    model.get_submodule(last).register_forward_hook(lambda module, inputs, output: outputs.append(output))
    model.eval()(torch.randn(2, 3, 64, 64))
    outputs[-1].square().sum().backward()
    expected = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    found = names_up_to(model, last)
    assert {one for one in found if one in dict(model.named_parameters())} == expected
    assert names_up_to(Adapted(model, torch.ones(3), torch.zeros(3)), last) >= expected


def test_a_change_of_what_is_trained_is_told_once() -> None:
    settings = recipe.TrainSettings.model_validate({"epochs": 3, "freeze_epochs": 1.0})
    freezing = Freezing(Staged(1), settings, 3)
    assert [freezing.before_step(updates) for updates in (0, 1, 2, 3, 4)] == [True, False, False, True, False]


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    """The parameters and buffers of other bits."""
    new = after.state_dict()
    return {name for name, value in before.state_dict().items() if not torch.equal(value, new[name])}


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.3},
        {"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.3, "ema": 0.9, "clip_grad": 1.0},
        {"optimizer": "lamb", "lr": 0.003, "layer_decay": 0.7, "head_lr": 0.01},
    ],
)
def test_frozen_weights_and_statistics_keep_every_bit_and_all_others_are_trained(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    model = with_statistics(Staged(1))
    before = copy.deepcopy(model)
    result = run(tmp_path, [STAGED_HINT], model=model, freeze="layer1", **options)
    frozen = {name for name in before.state_dict() if name.startswith(("stem.", "layer1."))}
    assert changed(before, result) == before.state_dict().keys() - frozen
    assert all(parameter.requires_grad for parameter in result.parameters())
    assert not torch.equal(newest(tmp_path)["terms.projections.fitnet.weight"], torch.zeros(12, 8, 1, 1))


def gradients_by_step(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The parameters with a gradient in each step of the trainings that follow."""
    original, steps = Training.zero_grad, []

    def zero_grad(self: Training) -> None:
        if self.model.training:
            steps.append({name for name, parameter in self.model.named_parameters() if parameter.grad is not None})
        original(self)

    monkeypatch.setattr(Training, "zero_grad", zero_grad)
    return steps


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 3), (1.4, 4), (0.3, 1), (0.0, 0)])
def test_the_head_alone_is_trained_for_so_many_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: float, steps: int
) -> None:
    found = gradients_by_step(monkeypatch)
    run(tmp_path, model=Staged(1), freeze_epochs=epochs, freeze="stem")  # 3 epochs of 3 steps
    head = {"fc.weight", "fc.bias"}
    rest = {name for name, _ in Staged(1).named_parameters() if not name.startswith("stem.")}
    assert found[-9:] == [head] * steps + [rest] * (9 - steps)  # before the first step some are tried


def test_the_epochs_of_the_head_are_steps_of_torch_s_own_sgd_on_fixed_features(tmp_path: Path) -> None:
    data, model = splits(16), with_statistics(Staged(1))
    before = copy.deepcopy(model)
    options = {"precision": "fp32", "schedule": "constant", "weight_decay": 0.01, "lr": 0.1, "head_lr": 0.3}
    result = trained(
        model,
        splits=data,
        teacher=None,
        objective=Objective.of(supervision([], "ce"), label_smoothing=0.0),
        settings=recipe.TrainSettings.model_validate({"epochs": 3, "batch_size": 16, "freeze_epochs": 2.5, **options}),
        augment=recipe.Augment(crop=0, flip=False),
        epochs=2,
        folder=tmp_path,
        provenance={},
    )
    images = ((data.train.images / 255 - 0.4) / 0.2).permute(0, 3, 1, 2)
    reference = copy.deepcopy(before).eval()
    features = reference.pool(reference.layer2(reference.layer1(reference.stem(images)))).detach()
    groups = [{"params": [reference.fc.weight], "weight_decay": 0.01}, {"params": [reference.fc.bias]}]
    optimizer = torch.optim.SGD(groups, lr=0.3, momentum=0.9, nesterov=True)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(reference.fc(features), data.train.labels).backward()
        optimizer.step()
    assert changed(before, result) == {"fc.weight", "fc.bias"}
    torch.testing.assert_close(result.get_submodule("fc").weight, reference.fc.weight, atol=1e-5, rtol=1e-4)


RESUMED: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw": {"optimizer": "adamw", "lr": 0.003, "ema": 0.9, "clip_grad": 1.0, "head_lr": 0.01},
    "lamb": {"optimizer": "lamb", "lr": 0.003, "layer_decay": 0.7},
    "adan": {"optimizer": "adan", "lr": 0.003, "schedule": "constant", "head_lr": 0.01},
}


@pytest.mark.parametrize("stop", [2, 4, 5, 8])
@pytest.mark.parametrize("name", RESUMED)
def test_an_interrupted_run_resumes_to_the_same_bits_in_each_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stop: int
) -> None:
    """The head alone is trained for 4 steps of 9."""
    options = {"freeze": "stem", "freeze_epochs": 1.4, **RESUMED[name]}
    whole = run(tmp_path / "whole", [STAGED_HINT], model=Staged(1), **options)
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", [STAGED_HINT], model=Staged(1), **options)
    assert equal(whole, run(tmp_path / "parts", [STAGED_HINT], model=Staged(1), **options))
    assert repeatable_metrics(tmp_path / "parts") == repeatable_metrics(tmp_path / "whole")
    first, second = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("optimizer", ["lamb", "adan", "adamw"])
def test_what_is_unfrozen_starts_as_at_a_first_step(tmp_path: Path, optimizer: str) -> None:
    """With a head of no learning rate, the rest moves after its epochs as it moves without them."""
    options = {"optimizer": optimizer, "lr": 0.001, "schedule": "constant", "head_lr": 1e-30, "method": "ce"}
    fixed = {"data": splits(16), "augment": recipe.Augment(crop=0, flip=False), "precision": "fp32"}
    norms = {"model": Staged(1, statistics=False)}
    late = run(tmp_path / "late", epochs=3, freeze_epochs=2.0, **options, **fixed, **norms)
    norms = {"model": Staged(1, statistics=False)}
    early = run(tmp_path / "early", epochs=1, **options, **fixed, **norms)
    for one, other in zip(late.parameters(), early.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": "layer9"}, "train.freeze: 'layer9' of Staged is none of its modules. Nearest: layer2, layer1"),
        ({"freeze": "pool"}, "train.freeze: 'pool' of Staged has no weights. Nearest: "),
        ({"freeze": "fc"}, "train.freeze: fc leaves nothing to train. Name an earlier module."),
        ({"freeze": "fc", "freeze_epochs": 1.0}, "train.freeze: fc leaves no head to train. Name an earlier module."),
    ],
)
def test_what_cannot_be_frozen_is_refused_in_one_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(tmp_path, model=Staged(1), **options)
    assert str(caught.value).startswith(message)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_epochs_of_the_head_need_a_model_that_says_what_its_head_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train.freeze_epochs needs the last layer, and Sequential does not say"):
        run(tmp_path, freeze_epochs=1.0)


@pytest.mark.parametrize("options", [{"freeze": "layer1"}, {"layer_decay": 0.5, "head_lr": 0.1, "freeze_epochs": 1.0}])
def test_the_fine_tuning_for_int8_keeps_frozen_weights_and_trains_the_rest_at_once(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    student = with_statistics(Staged(1))
    before = copy.deepcopy(student)
    settings = recipe.TrainSettings.model_validate(
        {"epochs": 2, "batch_size": 16, "lr": 0.05, "quantize": "int8", "quantize_epochs": 1, "quantize_lr": 0.01}
        | options
    )
    job = by_labels(tmp_path, settings)
    finish(fine_tune(student, job, splits(), checkpoints=tmp_path / "qat", teacher=None))
    weights = {name for name, _ in before.named_parameters()}
    frozen = {name for name in weights if name.startswith(("stem.", "layer1."))} if "freeze" in options else set()
    assert changed(before, student) == weights - frozen


def digits() -> Splits:
    """scikit-learn's digits, 8 x 8 pixels, in colour; the last 400 are those of evaluation."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.tensor(found.images * 15, dtype=torch.uint8).unsqueeze(-1).expand(-1, -1, -1, 3).contiguous()
    labels = torch.tensor(found.target, dtype=torch.long)
    half = torch.full((3,), 0.5)
    return Splits(Images(pixels[:-400], labels[:-400], half, half), Images(pixels[-400:], labels[-400:], half, half))


def test_with_all_but_the_head_frozen_a_training_is_a_linear_probe(tmp_path: Path) -> None:
    """It finds scikit-learn's logistic regression on the same features, whose penalty is a weight decay of 1 / n."""
    from sklearn.linear_model import LogisticRegression

    data, backbone = digits(), Staged(3, channels=32, classes=10)
    run(tmp_path / "first", model=backbone, data=data, method="ce", epochs=3, batch_size=64, lr=0.1)
    start = copy.deepcopy(backbone)
    options = {"lr": 3.0, "weight_decay": 1 / len(data.train.labels), "batch_size": 127, "precision": "fp32"}
    plain = recipe.Augment(crop=0, flip=False)
    result = run(
        tmp_path / "probe", model=start, data=data, method="ce", epochs=25, freeze="layer2", augment=plain, **options
    )

    def features(images: Images) -> Any:
        model = copy.deepcopy(backbone)
        model.fc = nn.Identity()  # type: ignore[assignment]
        return logits_of(model, images).numpy()

    regression = LogisticRegression(C=1.0, max_iter=5000).fit(features(data.train), data.train.labels.numpy())
    expected = regression.score(features(data.evaluation), data.evaluation.labels.numpy())
    assert changed(backbone, result) == {"fc.weight", "fc.bias"}
    assert expected > 0.8
    assert accuracy(logits_of(result, data.evaluation), data.evaluation.labels).top1 == pytest.approx(
        expected, abs=0.01
    )
    weight, theirs = result.get_submodule("fc").weight.detach(), torch.tensor(regression.coef_)
    assert (weight - weight.mean(0) - theirs).norm() < 0.1 * theirs.norm()
