"""The loss that a step minimises and the means that an epoch reports.

In: a recipe's supervision, then logits and labels of each step. Out: the loss and its named parts, and their means over
an epoch, which stay on the device until they are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compress.distributed.world import ALONE, World
from compress.losses.distillation import DistillationSettings, distillation_loss
from compress.losses.labels import Mixed, cross_entropy
from compress.losses.terms import LOOK_ACROSS_THE_BATCH, Terms
from compress.recipe import FeatureTerm, Supervision, Term
from compress.recipe.methods import default_alpha, method_parts


def distillation_settings(supervision: Supervision) -> DistillationSettings | None:
    """The settings of `distillation_loss` for the recipe's method, or None for ce, which distils nothing."""
    if supervision.method == "ce":
        return None
    adjust, dynamic = method_parts(supervision.method)
    return DistillationSettings(
        adjust=adjust,
        epsilon=supervision.epsilon,
        dynamic=dynamic,
        base=supervision.temperature,
        beta=supervision.dtd.beta,
        gamma=supervision.dtd.gamma,
        normalize=supervision.dtd.normalize,
        floor=supervision.dtd.floor,
        scale=supervision.scale,
        alpha=default_alpha(supervision.method) if supervision.alpha is None else supervision.alpha,
    )


@dataclass(frozen=True)
class Objective:
    """The loss of a method and its terms.

    It is called with float logits [N, C] and labels [N]. The method ce without terms needs no teacher.
    """

    label_smoothing: float
    distillation: DistillationSettings | None = None
    """None for ce."""
    terms: tuple[Term, ...] = ()
    class_weights: Tensor | None = field(default=None, compare=False)
    """float [C], of the cross-entropy with labels, on the device of the logits. None: all are 1."""

    @classmethod
    def of(
        cls, supervision: Supervision, *, label_smoothing: float, class_weights: Tensor | None = None
    ) -> "Objective":
        """The objective of a recipe's supervision section."""
        return cls(label_smoothing, distillation_settings(supervision), tuple(supervision.terms), class_weights)

    @property
    def supervised_by_teacher(self) -> bool:
        """Whether the loss needs the teacher's logits."""
        return self.distillation is not None or bool(self.terms)

    @property
    def looks_into_teacher(self) -> bool:
        """Whether a term needs the teacher's feature maps."""
        return any(isinstance(term, FeatureTerm) for term in self.terms)

    @property
    def looks_across_the_batch(self) -> bool:
        """Whether the loss of a sample depends on the other samples of its batch."""
        dynamic = self.distillation is not None and self.distillation.dynamic != "constant"
        return dynamic or any(term.name in LOOK_ACROSS_THE_BATCH for term in self.terms)

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        *,
        mixed: Mixed | None = None,
        terms: Terms | None = None,
        student_features: Mapping[str, Tensor] | None = None,
        teacher_features: Mapping[str, Tensor] | None = None,
        epoch: float = 0.0,
        world: World = ALONE,
    ) -> dict[str, Tensor]:
        """The loss of a batch and its parts.

        Args:
            student_logits: [N, C], any float type.
            teacher_logits: [N, C], any float type; None is for ce without terms.
            labels: [N], int64; -1 for a picture without a label, which supervises by its teacher alone.
            mixed: the second labels, where pictures are mixed.
            terms: those of this objective, after the student ran within their `recording`.
            student_features: the student's maps for the terms. Default: those that the terms recorded last.
            teacher_features: the teacher's maps [N, C', H', W'] that the terms need, by path (`Terms.teacher`).
            epoch: epochs done so far, with a fraction, for the schedules of terms.
            world: the processes that share the batch. Losses that compare samples see the global batch. The mean of the
                losses over the processes, and of their gradients, then equals that of a single process.

        Returns:
            Scalars by name. "loss" is the one to minimise. The others are detached. The parts of terms are not
            weighted.
        """
        parts, temperature = self._method_parts(student_logits, teacher_logits, labels, mixed, world)
        if terms is not None:
            assert teacher_logits is not None
            found = terms(
                student_logits,
                teacher_logits,
                labels,
                student_features=student_features,
                teacher_features=teacher_features or {},
                epoch=epoch,
                temperature=temperature,
                mixed=mixed,
                world=world,
            )
            for name, (weight, value) in found.items():
                # A discriminator's loss adds its gradient to the loss, but no value.
                share = value - value.detach() if weight is None else weight * value
                parts["loss"] = parts["loss"] + share
                parts[name] = value.detach()
        return parts

    def _method_parts(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        mixed: Mixed | None,
        world: World,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The method's own parts, and with DTD the temperature of each sample."""
        settings = self.distillation
        if settings is None or teacher_logits is None:
            exact = student_logits.to(torch.promote_types(student_logits.dtype, torch.float32))
            loss = cross_entropy(
                exact, labels, mixed=mixed, label_smoothing=self.label_smoothing, class_weights=self.class_weights
            )
            return {"loss": loss, "ce": loss.detach()}, None
        result = distillation_loss(
            student_logits,
            teacher_logits,
            labels,
            **vars(settings),
            label_smoothing=self.label_smoothing,
            mixed=mixed,
            class_weights=self.class_weights,
            group=world.group,
        )
        parts = {"loss": result["loss"], "kd": result["kd"].detach(), "ce": result["ce"].detach()}
        if settings.adjust != "none":
            parts["adjusted"] = result["adjusted"]
        if settings.dynamic == "constant":
            return parts, None
        temperature = result["temperature"]
        parts |= {
            "temperature_min": temperature.amin(),
            "temperature_mean": temperature.mean(),
            "temperature_max": temperature.amax(),
            "temperature_floored": (temperature <= settings.floor).to(temperature.dtype).mean(),
        }
        return parts, temperature


class Means:
    """Running means of named scalars, kept on the device.

    Names that end in _min or _max keep the extreme instead of the mean. Only `read` waits for the device.
    """

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, parts: dict[str, Tensor]) -> None:
        """Adds the scalars of one step."""
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
        """The means and extremes of all steps so far. Waits for the device."""
        extremes = ("_min", "_max")
        return {
            name: value.item() if name.endswith(extremes) else value.item() / self.steps
            for name, value in self.values.items()
        }
