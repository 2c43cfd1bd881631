"""The batches of a training: augmented images, their labels, and the teacher's logits for them.

Students that are trained in lockstep have one Batches in common. Each batch is then made once, and the teacher sees it
once.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from compress.data.augment import Images
from compress.distributed.world import current
from compress.losses.objective import Objective
from compress.losses.taps import Tap
from compress.models.inference import InferenceTeacher, for_inference
from compress.recipe import Augment, Train
from compress.system.interrupts import Flag
from compress.system.seeds import stream
from compress.training.memo import Memo
from compress.training.teacher_cache import TeacherViews

T = TypeVar("T")
Phase = Literal["teacher", "student", "quantize"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class Batch:
    """One batch; of several processes, this one's part of it.

    Attributes:
        images: float32 [B, 3, H, W] in channels_last memory.
        labels: int64 [B].
        teacher_logits: [B, C], where a teacher supervises.
        teacher_features: maps [B, C', H', W'] by the path of the teacher's module, where terms look into it.
    """

    images: Tensor
    labels: Tensor
    teacher_logits: Tensor | None = None
    teacher_features: dict[str, Tensor] = field(default_factory=dict)


class Batches:
    """Makes the batch of any epoch and step.

    Every batch is full. Each epoch has an order of its own, so what one epoch leaves over comes in another.

    Args:
        batch_size: images of all processes together.
        seed: of this training's order and augmentation.
        teacher: float32 images [B, 3, H, W] to logits [B, C], without gradients.
        views: keeps the teacher's logits; the augmentations then repeat after views.count epochs.

    Raises:
        UsageError: the processes cannot have equal parts of a batch.
    """

    def __init__(
        self,
        images: Images,
        augment: Augment,
        *,
        batch_size: int,
        seed: int,
        teacher: Callable[[Tensor], Tensor] | None = None,
        views: TeacherViews | None = None,
    ) -> None:
        self.images, self.augment, self.seed, self.teacher = images, augment, seed, teacher
        self.world = current()
        self.batch_size = min(batch_size, len(images.labels))
        """Of all processes together."""
        self.images_each = self.world.images_each(self.batch_size)
        self._views = views
        self._taps: list[Tap] = []
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        self._newest: tuple[tuple[int, int], Batch] | None = None

    @property
    def device(self) -> torch.device:
        return self.images.images.device

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images.labels) // self.batch_size

    def look_into(self, tap: Tap) -> None:
        """From now on the batches hold these maps of the teacher, too. Views keep logits alone, so they have none."""
        known = [path for other in self._taps for path in other.shapes]
        if any(path not in known for path in tap.shapes):
            self._taps.append(tap)
            self._newest = None

    def get(self, epoch: int, step: int, interrupted: Flag) -> Batch:
        """The batch of that step. Everyone who asks before the next step gets the same tensors.

        Raises:
            Interrupted: a signal came while the teacher computed a new view.
        """
        if self._newest is None or self._newest[0] != (epoch, step):
            self._newest = ((epoch, step), self._make(epoch, step, interrupted))
        return self._newest[1]

    def _make(self, epoch: int, step: int, interrupted: Flag) -> Batch:
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(len(self.images.labels), seed=self.seed, epoch=epoch).to(self.device))
        rows = self.world.part(self._order[1][step * self.batch_size : (step + 1) * self.batch_size])
        labels = self.images.labels[rows]
        if self._views is None:
            return self.supervised(self.augmented(rows, epoch), labels)
        view = epoch % self._views.count
        logits = self._views.logits(view, self._logits_of_view, interrupted)
        return Batch(self.augmented(rows, view), labels, logits[rows].float())

    def supervised(self, images: Tensor, labels: Tensor) -> Batch:
        """With what the teacher, where there is one, says of the images now."""
        if self.teacher is None:
            return Batch(images, labels)
        with ExitStack() as recording:
            for tap in self._taps:
                recording.enter_context(tap.recording())
            logits = self.teacher(images)
        features = {path: feature for tap in self._taps for path, feature in tap.features().items()}
        return Batch(images, labels, logits, features)

    def augmented(self, rows: Tensor, draw: int) -> Tensor:
        return self.images.augmented(rows, self.augment, seed=self.seed, epoch=draw)

    def _logits_of_view(self, view: int, rows: Tensor) -> Tensor:
        assert self.teacher is not None
        return self.teacher(self.augmented(rows.to(self.device), view))


def epoch_order(count: int, *, seed: int, epoch: int) -> Tensor:
    """A permutation of the rows, int64 [count], that depends on (seed, epoch) alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(stream(seed, "order", epoch)))


def batches_and_teacher(
    images: Images,
    teacher: nn.Module | None,
    objective: Objective,
    settings: Train,
    augment: Augment,
    phase: Phase,
    *,
    views: TeacherViews | None,
    memo: Memo,
) -> tuple[Batches, InferenceTeacher | None]:
    """The batches of a training, and its teacher made for inference.

    Trainings of one seed on the same images get the same objects from one memo. The teacher's BatchNorms are not folded
    where a term looks inside it.
    """
    light: InferenceTeacher | None = None
    if settings.compile:  # without it what was compiled while nobody looked inside is used again when somebody does
        torch._dynamo.config.skip_nnmodule_hook_guards = False
    if teacher is not None and objective.supervised_by_teacher:
        whole, fold = teacher, not objective.looks_into_teacher
        precision = torch.bfloat16 if settings.precision == "bf16" else torch.float32

        def make_teacher() -> InferenceTeacher:
            made = for_inference(whole, images.normalized(slice(0, 8)), precision=precision, fold=fold)
            if settings.compile:
                made.compile()
            return made

        light = memo.once(("teacher", teacher, precision, fold, settings.compile), make_teacher)
    seed = stream(settings.seed, phase)
    key = ("batches", id(images), augment.model_dump_json(), settings.batch_size, seed, id(light))
    batches = memo.once(
        key,
        lambda: Batches(
            images,
            augment,
            batch_size=settings.batch_size,
            seed=seed,
            teacher=light,
            views=None if light is None else views,
        ),
    )
    return batches, light
