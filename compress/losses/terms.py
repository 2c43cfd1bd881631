"""The terms of supervision.terms: losses on features or logits, which are added to the loss of supervision.method.

In: logits, labels and recorded feature maps. Out: the weight and the value of each term. The module also owns what
terms train: projections of the student's maps, and discriminators.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.distributed.world import ALONE, World
from compress.losses import features
from compress.losses.adversarial import Discriminator, adversarial_losses, count_classes
from compress.losses.labels import Mixed
from compress.losses.logits import decoupled_kd, dist_loss
from compress.losses.taps import Tap
from compress.recipe import Term
from compress.recipe.methods import Adjust
from compress.recipe.supervision import Adversarial, FeatureTerm
from compress.system.errors import UsageError

_FEATURE_LOSSES: dict[str, Callable[..., Tensor]] = {
    "fitnet": features.fitnet,
    "attention_transfer": features.attention_transfer,
    "neuron_selectivity": features.neuron_selectivity,
    "similarity_preserving": features.similarity_preserving,
    "relational": features.relational,
}
LOOK_ACROSS_THE_BATCH = {"similarity_preserving", "relational", "dist"}
_NEED_EQUAL_CHANNELS = {"fitnet"}
_COMPARE_PIXELS = {"attention_transfer", "neuron_selectivity"}
_NEED_EQUAL_SIZE = {"fitnet", *_COMPARE_PIXELS}
_NOT_OPTIONS = {"name", "weight", "schedule", "student", "teacher", "temperature", "lr", "width"}


class Terms(nn.Module):
    """The terms of one training. It is called after the student ran within `recording`.

    Terms whose maps must be equal in size average-pool the larger map to the smaller. Terms whose channels must be
    equal (fitnet) project the student's map by a 1x1 convolution with bias, as FitNets' regressor does. Later code adds
    a BatchNorm there. We leave it out, so that the loss of a sample depends on no other sample (ours).

    Attributes:
        projections: trained together with the student's parameters.
        discriminators: trained against the student, by their own optimiser.
        teacher: records the teacher's feature maps.

    Args:
        images: float32 [N, 3, S, S]. Both models run on them once.
        seed: for the weights of projections and discriminators. torch's own random stream does not move.
        adjust: the method's KA, which terms on logits follow.
        epsilon: the label smoothing of KA.

    Raises:
        UsageError: a term names a feature that does not exist or is no map (`compress.losses.taps`).
    """

    def __init__(
        self,
        terms: Sequence[Term],
        student: nn.Module,
        teacher: nn.Module,
        images: Tensor,
        *,
        seed: int,
        adjust: Adjust = "none",
        epsilon: float = 0.1,
    ) -> None:
        super().__init__()
        self.terms = dict(zip(_part_names(terms), terms, strict=True))
        self._options = {part: term.model_dump(exclude=_NOT_OPTIONS) for part, term in self.terms.items()}
        self._adjustment: dict[str, Any] = {"adjust": adjust, "epsilon": epsilon}
        self._student = tap(student, terms, images, role="student")
        self.teacher = tap(teacher, terms, images, role="teacher")
        self.projections, self.discriminators = nn.ModuleDict(), nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed CUDA
            for part, term in self.terms.items():
                if isinstance(term, FeatureTerm) and term.name in _NEED_EQUAL_CHANNELS:
                    channels_s = self._student.shapes[self._student.paths[term.student]][0]
                    channels_t = self.teacher.shapes[self.teacher.paths[term.teacher]][0]
                    if channels_s != channels_t:
                        self.projections[part] = nn.Conv2d(channels_s, channels_t, kernel_size=1)
                elif isinstance(term, Adversarial):
                    self.discriminators[part] = Discriminator(count_classes(teacher, images), term.width)
        self.to(images.device)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the terms among the parts of the loss. A name that repeats gets a number, from 2."""
        return (*self.terms, *map(_of_discriminator, self.discriminators))

    def opponents(self) -> list[dict[str, Any]]:
        """The discriminators as parameter groups for an optimiser, each with its learning rate."""
        return [
            {"params": list(module.parameters()), "lr": term.lr}
            for part, module in self.discriminators.items()
            if isinstance(term := self.terms[part], Adversarial)
        ]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records the student's feature maps within the block."""
        with self._student.recording():
            yield

    def student_features(self) -> dict[str, Tensor]:
        """The student's maps [N, C, H, W] of the last recorded pass, by path, once."""
        return self._student.features()

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
        *,
        teacher_features: Mapping[str, Tensor],
        epoch: float,
        student_features: Mapping[str, Tensor] | None = None,
        temperature: Tensor | None = None,
        mixed: Mixed | None = None,
        world: World = ALONE,
    ) -> dict[str, tuple[float | None, Tensor]]:
        """The weight and the unweighted value of each part.

        Args:
            student_logits: [N, C], any float type.
            teacher_logits: [N, C], any float type.
            labels: [N], int64; -1 for none.
            teacher_features: the teacher's maps [N, C', H', W'] from the pass that gave teacher_logits, by the paths of
                `teacher`.
            epoch: epochs done so far, with a fraction, for the schedules.
            student_features: from `student_features`. Default: those of the last recorded pass.
            temperature: of each sample [N], with DTD. A term on logits uses it where the term sets none itself.
            mixed: the second labels, where pictures are mixed.
            world: the processes that share the batch. Terms that compare samples get the global batch.

        Returns:
            By part: weight and scalar. The weight is None for the loss of a discriminator. It has no gradient for the
            student.
        """
        if student_features is None:
            student_features = self.student_features()
        parts: dict[str, tuple[float | None, Tensor]] = {}
        for part, term in self.terms.items():
            seen = world if term.name in LOOK_ACROSS_THE_BATCH else ALONE
            if isinstance(term, FeatureTerm):
                f_s = student_features[self._student.paths[term.student]]
                f_t = teacher_features[self.teacher.paths[term.teacher]]
                if term.name in _NEED_EQUAL_SIZE:
                    f_s, f_t = _pooled(f_s, like=f_t), _pooled(f_t, like=f_s)
                if part in self.projections:
                    projection = self.projections[part]
                    f_s = projection(f_s.to(next(projection.parameters()).dtype))
                value = _FEATURE_LOSSES[term.name](seen.gathered(f_s), seen.gathered(f_t), **self._options[part])
            elif isinstance(term, Adversarial):
                value, opponent = adversarial_losses(
                    self.discriminators[part], student_logits, teacher_logits, labels, mixed
                )
                parts[_of_discriminator(part)] = (None, opponent)
            else:
                options = {**self._options[part], **self._adjustment}
                if (own := term.temperature if term.temperature is not None else temperature) is not None:
                    options["temperature"] = seen.gathered(own) if isinstance(own, Tensor) else own
                loss = decoupled_kd if term.name == "dkd" else dist_loss
                z_s, z_t, of = (seen.gathered(part) for part in (student_logits, teacher_logits, labels))
                second = None if mixed is None else mixed.each(seen.gathered)
                value = loss(z_s, z_t, labels=of, mixed=second, **options)
            parts[part] = (term.weight * term.schedule.share(epoch), value)
        return parts


def tap(model: nn.Module, terms: Sequence[Term], images: Tensor, *, role: str) -> Tap:
    """Makes the Tap that records the features which the terms name for one role.

    Args:
        images: float32 [N, 3, S, S]. The model runs on them once.
        role: "student" or "teacher".

    Raises:
        UsageError: a feature does not exist or is no map. Also a map of one pixel for a loss that compares pixels,
            because that loss is then always 0.
    """
    names = {
        term: term.student if role == "student" else term.teacher for term in terms if isinstance(term, FeatureTerm)
    }
    found = Tap(model, names.values(), images, role=role)
    for term, name in names.items():
        path = found.paths[name]
        if term.name in _COMPARE_PIXELS and found.shapes[path][1:] == (1, 1):
            raise UsageError(
                f"{term.name} compares the pixels of a map, and {path!r} of the {role} has one",
                "Name earlier modules as student: and teacher: of the term, of a stage before it.",
            )
    return found


def _part_names(terms: Sequence[Term]) -> list[str]:
    names = [term.name for term in terms]
    counts = [names[:number].count(name) for number, name in enumerate(names)]
    return [f"{name}_{count + 1}" if count else name for name, count in zip(names, counts, strict=True)]


def _of_discriminator(part: str) -> str:
    return f"{part}_discriminator"


def _pooled(feature: Tensor, *, like: Tensor) -> Tensor:
    """The map, average-pooled in float32 or float64 where it is higher or wider than the other."""
    exact = feature.to(torch.promote_types(feature.dtype, torch.float32))
    size = (min(feature.shape[2], like.shape[2]), min(feature.shape[3], like.shape[3]))
    return feature if feature.shape[2:] == size else F.adaptive_avg_pool2d(exact, size)
