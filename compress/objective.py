"""What a step minimises and what an epoch reports: the loss by its named parts, and their sums on the device."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress import recipe
from compress.methods import default_alpha, method_parts
from compress.supervision import Adjust, Dynamic, Normalize, Scale, distillation_loss


@dataclass(frozen=True)
class Objective:
    """The loss of a method. Called with float logits [N, C] and labels [N]; ce needs no teacher logits."""

    label_smoothing: float
    supervised_by_teacher: bool = False
    adjust: Adjust = "none"
    epsilon: float = 0.1
    dynamic: Dynamic = "constant"
    base: float = 4.0
    beta: float = 40.0
    gamma: float = 0.5
    normalize: Normalize = "l2"
    floor: float = 1.0
    scale: Scale = "sample"
    alpha: float = 0.9

    @classmethod
    def of(cls, settings: recipe.Supervision, *, label_smoothing: float) -> "Objective":
        if settings.method == "ce":
            return cls(label_smoothing)
        adjust, dynamic = method_parts(settings.method)
        return cls(
            label_smoothing,
            supervised_by_teacher=True,
            adjust=adjust,
            epsilon=settings.epsilon,
            dynamic=dynamic,
            base=settings.temperature,
            beta=settings.dtd.beta,
            gamma=settings.dtd.gamma,
            normalize=settings.dtd.normalize,
            floor=settings.dtd.floor,
            scale=settings.scale,
            alpha=default_alpha(settings.method) if settings.alpha is None else settings.alpha,
        )

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
        """Scalars by name; "loss" is the one to minimise, the others are detached."""
        if teacher_logits is None:
            loss = F.cross_entropy(student_logits.float(), labels, label_smoothing=self.label_smoothing)
            return {"loss": loss, "ce": loss.detach()}
        options = {key: value for key, value in asdict(self).items() if key != "supervised_by_teacher"}
        result = distillation_loss(student_logits, teacher_logits, labels, **options)
        parts = {"loss": result["loss"], "kd": result["kd"].detach(), "ce": result["ce"].detach()}
        if self.adjust != "none":
            parts["adjusted"] = result["adjusted"]
        if self.dynamic != "constant":
            temperature = result["temperature"]
            parts |= {
                "temperature_min": temperature.amin(),
                "temperature_mean": temperature.mean(),
                "temperature_max": temperature.amax(),
                "temperature_floored": (temperature <= self.floor).to(temperature.dtype).mean(),
            }
        return parts


class Means:
    """Running means of named scalars on the device; *_min and *_max keep extremes. Only reading them waits."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, parts: dict[str, Tensor]) -> None:
        self.steps += 1
        for name, value in parts.items():
            value = value.detach().double()
            before = self.values.get(name)
            if before is None:
                self.values[name] = value
            elif name.endswith("_min"):
                self.values[name] = torch.minimum(before, value)
            elif name.endswith("_max"):
                self.values[name] = torch.maximum(before, value)
            else:
                self.values[name] = before + value

    def read(self) -> dict[str, float]:
        extremes = ("_min", "_max")
        return {
            name: value.item() if name.endswith(extremes) else value.item() / self.steps
            for name, value in self.values.items()
        }
