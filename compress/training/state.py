"""The state of a training between two steps.

In: a model, batches, an objective and settings. Out: a Training, which is made once and changes with every step.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress import recipe
from compress.distributed.world import World, current
from compress.losses.objective import Means, Objective
from compress.losses.terms import Terms
from compress.models.inference import InferenceTeacher
from compress.system.errors import UsageError
from compress.system.modules import in_channels_last, overruns
from compress.system.seeds import stream
from compress.training.autocast import in_bf16
from compress.training.batches import Batch, Batches, Phase
from compress.training.divergence import DivergenceWatch
from compress.training.freezing import Freezing
from compress.training.optimizer import make_optimizer, restart_counters, scale_learning_rates


@dataclass
class Training:
    """All that a step needs, and all that a checkpoint holds.

    Attributes:
        model: the model that is trained.
        forward: `model` as a step calls it: compiled if the settings ask for it, and with gradients averaged over the
            processes.
        plain: the model that `prepare` was given. It differs from `model` only where processes share BatchNorm
            statistics.
        freezing: what of the model is not trained now.
        terms: of the objective, with their projections and discriminators; None where the objective has none.
        adversary: the optimiser of the discriminators; None where there are none.
        epochs_before: epochs of the training that this one follows. The schedules of terms count them.
        epoch: from 0.
        step: within the epoch, from 0.
        seconds: time of this epoch's steps so far.
    """

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    plain: nn.Module
    freezing: Freezing
    optimizer: torch.optim.Optimizer
    schedule: Scheduler | None
    ema: ModelEmaV3 | None
    objective: Objective
    terms: Terms | None
    adversary: torch.optim.Optimizer | None
    batches: Batches
    settings: recipe.TrainSettings
    phase: Phase
    world: World
    epochs_before: int
    watch: DivergenceWatch = field(init=False)
    means: Means = field(default_factory=Means)
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0

    @property
    def trained(self) -> nn.ModuleList:
        """The modules whose parameters `optimizer` updates."""
        return _trained(self.model, self.terms)

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers, by their names in a checkpoint."""
        return {"optimizer": self.optimizer} | ({} if self.adversary is None else {"adversary": self.adversary})

    def begin_training(self) -> None:
        """Puts the model into train mode.

        While inputs are quantised, BatchNorm keeps its running statistics. The ranges are then those of inference. The
        statistics of a batch would give other ranges, most of all where a map has few pixels. BatchNorms of frozen
        parts keep theirs, too.
        """
        self.model.train()
        self.freezing.hold_statistics()
        if self.phase == "quantize":
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    @property
    def updates(self) -> int:
        """Steps done so far, of all epochs."""
        return self.epoch * self.batches.steps_per_epoch + self.step

    def unfreeze(self) -> bool:
        """Ends the epochs in which the head alone is trained, if the next step is after them. Whether it did so."""
        if not self.freezing.before_step(self.updates):
            return False
        restart_counters(self.optimizer)
        self.forward = _forward(self.model, self.batches, self.settings)  # DDP knows only what needed a gradient
        return True

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients of the global batch. The terms' gradients are averaged here, since DDP wraps only the
        model.
        """
        loss.backward()
        if self.terms is not None:
            self.world.average_gradients(self.terms.parameters())

    def zero_grad(self) -> None:
        """Clears the gradients of all optimisers."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    @property
    def kept(self) -> nn.Module:
        """The model that is evaluated and saved: the moving average if there is one."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def result(self) -> nn.Module:
        """What is kept, in eval mode, with the modules of the model that `prepare` was given."""
        self.freezing.lift()
        if self.plain is self.model:
            return self.kept.eval()
        self.plain.load_state_dict(self.kept.state_dict())
        return self.plain.eval()


def prepare(
    model: nn.Module,
    batches: Batches,
    objective: Objective,
    settings: recipe.TrainSettings,
    epochs: int,
    phase: Phase,
    *,
    teacher: InferenceTeacher | None = None,
    epochs_before: int = 0,
) -> Training:
    """Moves the model to the images' device and makes its terms, optimisers, schedule and moving average.

    Args:
        epochs: of this training.
        teacher: the batches' teacher, for the terms of the objective.
        epochs_before: epochs of the training that this one follows.

    Raises:
        UsageError: the model has BatchNorm and each process has batches of one image, or parts of one; a term names a
            feature that is none; or the settings name a layer that is none.
    """
    world = batches.world
    refuse_batches_of_one(model, batches.images_each, settings.grad_accumulation, phase)
    # Dropout draws from torch's own stream and must differ between processes. All other draws have their own streams.
    torch.manual_seed(batches.seed if world.leads else stream(batches.seed, "process", world.rank))
    plain = in_channels_last(model, batches.device)
    model = world.synchronized(plain)
    example = batches.images.normalized(slice(0, 2))
    ema = None if settings.ema is None else ModelEmaV3(model, decay=settings.ema, use_warmup=True)
    freezing = Freezing(model, settings, batches.steps_per_epoch)
    terms = None
    if objective.terms and teacher is not None:
        terms = Terms(
            objective.terms,
            model,
            teacher,
            example,
            seed=stream(settings.seed, phase, "terms"),
            **_adjustment(objective),
        )
        batches.look_into(terms.teacher)
    projections = None if terms is None else terms.projections
    optimizer = make_optimizer(model, projections, settings, head=freezing.head)
    freezing.before_step(0)
    state = Training(
        model=model,
        forward=_forward(model, batches, settings),
        plain=plain,
        freezing=freezing,
        optimizer=optimizer,
        schedule=None,
        ema=ema,
        objective=objective,
        terms=terms,
        adversary=torch.optim.Adam(terms.opponents(), fused=True)
        if terms is not None and terms.discriminators
        else None,
        batches=batches,
        settings=settings,
        phase=phase,
        world=world,
        epochs_before=epochs_before,
    )
    if settings.schedule != "constant" and epochs:
        state.schedule, _ = create_scheduler_v2(
            state.optimizer,
            settings.schedule,
            num_epochs=epochs,
            decay_epochs=settings.step_epochs,
            decay_rate=settings.step_rate,
            warmup_epochs=settings.warmup_epochs,  # type: ignore[arg-type]
            warmup_lr=min(1e-5, settings.lr / 10),  # type: ignore[operator]
            step_on_epochs=False,
            updates_per_epoch=batches.steps_per_epoch,
        )
        if state.schedule is not None:
            state.schedule.step_update(0)
    else:
        scale_learning_rates(state.optimizer)
    return state


def refuse_batches_of_one(model: nn.Module, images_each: int, parts: int, role: str) -> None:
    """Raises UsageError for a model with BatchNorm that would see one image at a time.

    Args:
        images_each: images of a batch in each process.
        parts: in which a process computes them.
        role: of the model, for the error message.
    """
    if images_each // parts != 1 or not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return
    in_parts = parts > 1
    what = f"{'parts of ' * in_parts}batches of one image{' a process' * (current().size > 1 and not in_parts)}"
    raise UsageError(
        f"a {role} with BatchNorm cannot be trained on {what}",
        f"{'Lower train.grad_accumulation, raise' if in_parts else 'Raise'} train.batch_size, or add images.",
    )


def _forward(model: nn.Module, batches: Batches, settings: recipe.TrainSettings) -> Callable[[Tensor], Tensor]:
    if settings.grad_accumulation == 1:
        parallel = batches.world.data_parallel(model, batches.images.normalized(slice(0, 2)))
    else:  # gradients are averaged once, after the last part of a batch
        parallel = batches.world.with_weights_of_leader(model)
    if not settings.compile:
        return parallel
    around = batches.device.type == "cpu" and any(overruns(each) for each in model.modules())
    return torch.compile(parallel, options={"layout_optimization": False} if around else None)


def _adjustment(objective: Objective) -> dict[str, Any]:
    """The method's KA, which terms on logits follow."""
    method = objective.distillation
    return {} if method is None else {"adjust": method.adjust, "epsilon": method.epsilon}


def _trained(model: nn.Module, terms: Terms | None) -> nn.ModuleList:
    return nn.ModuleList([model] if terms is None else [model, terms.projections])


def loss_parts(state: Training, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """The student's forward pass on a batch.

    Returns:
        The parts of the loss, scalars by name, and the student's logits [B, C].
    """
    student_logits, features = of_student(state, batch.images)
    return parts_of_loss(state, batch, student_logits, features), student_logits


def of_student(state: Training, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The student's logits [B, C], and its maps [B, C', H', W'] for the terms, by path."""
    recording = state.terms.recording() if state.terms is not None else nullcontext()
    with in_bf16(images.device, enabled=state.settings.precision == "bf16"), recording:
        student_logits = state.forward(images)
    return student_logits, {} if state.terms is None else state.terms.student_features()


def parts_of_loss(
    state: Training, batch: Batch, student_logits: Tensor, student_features: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The parts of the loss, scalars by name, from what `of_student` returned for the batch's images."""
    epoch = state.epochs_before + state.epoch + state.step / state.batches.steps_per_epoch
    return state.objective(
        student_logits,
        batch.teacher_logits,
        batch.labels,
        mixed=batch.mixed,
        terms=state.terms,
        student_features=student_features,
        teacher_features=batch.teacher_features,
        epoch=epoch,
        world=state.world,
    )
