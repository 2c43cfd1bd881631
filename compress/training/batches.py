"""The batches of a training, with the teacher's answers.

In: a split on the device, and the teacher if there is one. Out: the batch of each epoch and step. Students that train
in lockstep share one Batches. They so share each batch and each forward pass of the teacher.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from compress.data.augment import Images
from compress.data.mixing import Mixing, mixing
from compress.data.stream import StreamedImages
from compress.distributed.world import current
from compress.losses.labels import Mixed
from compress.losses.objective import Objective
from compress.losses.taps import Tap
from compress.models.inference import InferenceTeacher, for_inference
from compress.recipe import Augment, Train
from compress.system.errors import UsageError
from compress.system.interrupts import Flag
from compress.system.seeds import stream
from compress.training.batch_rows import BatchRows
from compress.training.memo import Memo
from compress.training.teacher_cache import TeacherViews

T = TypeVar("T")
Phase = Literal["teacher", "student", "quantize"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class Batch:
    """One batch. With several processes it is this process's part of the global batch.

    Attributes:
        images: float32 [B, 3, H, W], in channels_last memory.
        labels: int64 [B], -1 for images without a label.
        teacher_logits: [B, C], or None without a teacher.
        teacher_features: maps [B, C', H', W'] of the teacher's modules that a term looks at, by path.
        mixed: the second labels, where images are mixed. The teacher saw the mixed images, too.
    """

    images: Tensor
    labels: Tensor
    teacher_logits: Tensor | None = None
    teacher_features: dict[str, Tensor] = field(default_factory=dict)
    mixed: Mixed | None = None


class Batches:
    """All batches of a training, by epoch and step.

    `compress.training.batch_rows` says which images are in which batch.

    Attributes:
        batch_size: images of the global batch.
        images_each: images of the batch in each process.
        unlabeled_each: those of them without a label.
        smallest_part: images of the smallest part in which a process computes its batch.

    Args:
        seed: of the order and the augmentation.
        teacher: float32 images [B, 3, H, W] to logits [B, C], without gradients.
        views: keeps the teacher's logits. The augmentations then repeat after `views.count` epochs, and so do the
            batches if images are mixed, since the logits are those of the pairs.
        unlabeled_share: the part of a batch that has no labels, if the split has images without.
        parts: in which each process computes its batch, one after the other. So does the teacher.

    Raises:
        UsageError: the processes cannot have equal parts of a batch, or have fewer images than parts.
    """

    def __init__(
        self,
        images: Images | StreamedImages,
        augment: Augment,
        *,
        batch_size: int,
        seed: int,
        teacher: Callable[[Tensor], Tensor] | None = None,
        views: TeacherViews | None = None,
        unlabeled_share: float = 0.0,
        parts: int = 1,
    ) -> None:
        self.images, self.augment, self.seed, self.teacher = images, augment, seed, teacher
        self.world = current()
        self._rows = BatchRows(
            images.labeled,
            images.unlabeled if unlabeled_share else 0,
            batch_size,
            share=unlabeled_share,
            seed=seed,
            world=self.world,
            paired=augment.mixes,
        )
        self.batch_size, self.images_each = self._rows.batch_size, self._rows.images_each
        self.unlabeled_each = self._rows.unlabeled_each
        check_parts(self.images_each, parts)
        self._parts, self.smallest_part = parts, self.images_each // parts
        self._views = views
        self._taps: list[Tap] = []
        self._mirror = self._rows.mirror.to(self.device)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        self._newest: tuple[tuple[int, int], Batch] | None = None
        self._coming: tuple[tuple[int, int], Iterator[Tensor]] = ((-1, 0), iter(()))

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def steps_per_epoch(self) -> int:
        return self._rows.steps

    def look_into(self, tap: Tap) -> None:
        """Adds the maps of this tap to every later batch. Not together with views, which keep logits only."""
        known = [path for other in self._taps for path in other.shapes]
        if any(path not in known for path in tap.shapes):
            self._taps.append(tap)
            self._newest = None

    def get(self, epoch: int, step: int, interrupted: Flag) -> Batch:
        """The batch of that step. Until the next step everyone who asks gets the same tensors.

        Args:
            epoch: from 0.
            step: within the epoch, from 0.
            interrupted: raises Interrupted in the middle of the teacher's first pass over a view.

        Raises:
            Interrupted: a signal arrived meanwhile.
            MachineError: the cache of the teacher's logits cannot be written.
        """
        if self._newest is None or self._newest[0] != (epoch, step):
            self._newest = ((epoch, step), self._make(epoch, step, interrupted))
        return self._newest[1]

    def _make(self, epoch: int, step: int, interrupted: Flag) -> Batch:
        draw = epoch if self._views is None else epoch % self._views.count
        order = draw if self.augment.mixes else epoch
        if self._order[0] != order:
            self._order = (order, self._rows.of_epoch(order).to(self.device))
        rows = self._order[1][step]
        labels, mixed = self.images.labels[rows], None
        images = self._augmented(epoch, step, draw)
        if self.augment.mixes:
            mix = self._mixing(rows, draw)
            images, mixed = mix(images, images[self._mirror]), Mixed(labels[self._mirror], mix.share)
        if self._views is None:
            return self.supervised(images, labels, mixed)
        logits = self._views.logits(draw, self._logits_of_view, interrupted)
        return Batch(images, labels, logits[rows].float(), mixed=mixed)

    def _augmented(self, epoch: int, step: int, draw: int) -> Tensor:
        """The batch as float32 [B, 3, H, W], before it is mixed. The images know which ones come next in the epoch.

        draw: the number of the augmentation, which is an epoch or a view.
        """
        coming = self._coming[1]
        if self._coming[0] != (epoch, step):
            rows = list(self._order[1][step:])
            coming = self.images.batches(rows, self.augment, seed=self.seed, epoch=draw)
        images = next(coming)
        self._coming = ((epoch, step + 1), coming)
        return images

    def supervised(self, images: Tensor, labels: Tensor, mixed: Mixed | None = None) -> Batch:
        """A batch of these images, float32 [B, 3, H, W], with the teacher's logits and maps computed now."""
        if self.teacher is None:
            return Batch(images, labels, mixed=mixed)
        if self._parts == 1:
            return Batch(images, labels, *self._answers(images), mixed=mixed)
        answers = [self._answers(part) for part in images.tensor_split(min(self._parts, len(images)))]
        features = {path: torch.cat([maps[path] for _, maps in answers]) for path in answers[0][1]}
        return Batch(images, labels, torch.cat([logits for logits, _ in answers]), features, mixed)

    def _answers(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's logits, and the maps that terms look at."""
        assert self.teacher is not None
        with ExitStack() as recording:
            for tap in self._taps:
                recording.enter_context(tap.recording())
            logits = self.teacher(images)
        return logits, {path: feature for tap in self._taps for path, feature in tap.features().items()}

    def _mixing(self, rows: Tensor, draw: int) -> Mixing:
        size = self.images.image_size
        return mixing(rows, self.augment, size, size, seed=self.seed, epoch=draw)

    def _logits_of_view(self, view: int, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The teacher's logits [B, C] for the rows int64 [B] of each batch."""
        assert self.teacher is not None

        def pictures(rows: list[Tensor]) -> Iterator[Tensor]:
            return self.images.batches(rows, self.augment, seed=self.seed, epoch=view)

        rows = [batch.to(self.device) for batch in batches]
        if not self.augment.mixes:
            return map(self.teacher, pictures(rows))
        partners = self._rows.partners(view).to(self.device)
        pairs = zip(rows, pictures(rows), pictures([partners[part] for part in rows]), strict=True)
        return (self.teacher(self._mixing(part, view)(own, other)) for part, own, other in pairs)


def check_parts(images: int, parts: int, key: str = "train") -> None:
    """Raises UsageError where a process has fewer images of a batch than parts in which it computes them.

    Args:
        key: of the settings in the recipe, for the error message.
    """
    if parts > images:
        raise UsageError(
            f"{key}.grad_accumulation: {images} images of a batch in a process cannot be computed in {parts} parts",
            f"Set it to {images} or lower, or raise {key}.batch_size.",
        )


def batches_and_teacher(
    images: Images | StreamedImages,
    teacher: nn.Module | None,
    objective: Objective,
    settings: Train,
    augment: Augment,
    phase: Phase,
    *,
    views: TeacherViews | None,
    unlabeled_share: float = 0.0,
    memo: Memo,
) -> tuple[Batches, InferenceTeacher | None]:
    """The batches of a training, and its teacher made ready for inference.

    Trainings with the same images, augmentation, batch size, seed and teacher get the same Batches from one memo.

    Args:
        images: the split to train on.
        teacher: None, or a module that maps [N, 3, H, W] to logits [N, C].
        views: keeps the teacher's logits, if given.
        unlabeled_share: the part of a batch that has no labels, if the split has images without.
        memo: shared by the trainings of this process.

    Returns:
        The batches, and the teacher for inference. The teacher is None where the objective needs none. Its BatchNorms
        are folded, unless terms look at its feature maps.

    Raises:
        UsageError: the processes cannot have equal parts of a batch, or have fewer images than parts to compute.
    """
    light: InferenceTeacher | None = None
    if settings.compile:  # otherwise torch would reuse code that it compiled before the hooks of a Tap were there
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
    key = (
        "batches",
        id(images),
        augment.model_dump_json(),
        unlabeled_share,
        settings.batch_size,
        settings.grad_accumulation,
        seed,
        id(light),
    )
    batches = memo.once(
        key,
        lambda: Batches(
            images,
            augment,
            batch_size=settings.batch_size,
            seed=seed,
            teacher=light,
            views=None if light is None else views,
            unlabeled_share=unlabeled_share,
            parts=settings.grad_accumulation,
        ),
    )
    return batches, light
