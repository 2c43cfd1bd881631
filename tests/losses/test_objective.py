"""An objective is the loss of its recipe: each setting reaches the formula."""

import pytest
import torch
import torch.nn.functional as F

from compress.losses.objective import Objective
from compress.recipe import Supervision


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(16, 5, generator=generator) for _ in range(2))
    return student, teacher, torch.arange(16) % 5


@pytest.mark.parametrize("method", ["ce", "kd", "ka-ps", "dtd-flsw", "ka-lsr+dtd-cwsm"])
def test_labels_are_smoothed_in_every_method(method: str) -> None:
    student, teacher, labels = batch()
    objective = Objective.of(Supervision.model_validate({"method": method, "alpha": None}), label_smoothing=0.1)
    parts = objective(student, None if method == "ce" else teacher, labels)
    smooth = F.cross_entropy(student, labels, label_smoothing=0.1)
    torch.testing.assert_close(parts["ce"], smooth)
    weights = Objective.of(Supervision.model_validate({"method": method}), label_smoothing=0.1).distillation
    alpha = 0.0 if weights is None else weights.alpha
    kd = parts.get("kd", torch.tensor(0.0))
    torch.testing.assert_close(parts["loss"], alpha * kd + (1 - alpha) * smooth)


def test_plain_kd_has_the_recipes_temperature_and_alpha() -> None:
    student, teacher, labels = batch()
    supervision = Supervision.model_validate({"method": "kd", "temperature": 3.0, "alpha": 0.6})
    parts = Objective.of(supervision, label_smoothing=0.0)(student, teacher, labels)
    soft = [F.log_softmax(logits / 3, dim=1) for logits in (student, teacher)]
    kd = 9 * F.kl_div(*soft, reduction="batchmean", log_target=True)
    torch.testing.assert_close(parts["kd"], kd)
    torch.testing.assert_close(parts["loss"], 0.6 * kd + 0.4 * F.cross_entropy(student, labels))
