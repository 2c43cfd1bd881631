"""What a training run consists of between two steps: made once, saved in checkpoints, put back when it is resumed."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress import recipe
from compress.distributed.world import World, processes
from compress.losses.objective import Means, Objective
from compress.losses.terms import Terms
from compress.models.inference import InferenceTeacher
from compress.system.errors import InputError, UsageError
from compress.system.seeds import stream
from compress.training.batches import Batch, Batches, Phase
from compress.training.checkpoint import Checkpoint, newest_checkpoint
from compress.training.divergence import DivergenceWatch

logger = logging.getLogger(__name__)


@dataclass
class Training:
    """All that a step needs, and all that a checkpoint holds."""

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    """The model, its gradients averaged over the processes, and compiled where that is asked for."""
    plain: nn.Module
    """The model as it was given; another one only where several processes share its BatchNorm statistics."""
    optimizer: torch.optim.Optimizer
    schedule: Scheduler | None
    ema: ModelEmaV3 | None
    objective: Objective
    terms: Terms | None
    """The objective's, with their projections and discriminators; None where it has none."""
    adversary: torch.optim.Optimizer | None
    """Trains the discriminators; None where there are none."""
    batches: Batches
    settings: recipe.Train
    phase: Phase
    world: World
    epochs_before: int
    """Of the training that this one follows: the schedules of terms count them."""
    watch: DivergenceWatch = field(init=False)
    means: Means = field(default_factory=Means)
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    """Spent on this epoch's steps so far."""

    @property
    def trained(self) -> nn.ModuleList:
        """All whose parameters `optimizer` has."""
        return _trained(self.model, self.terms)

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By their names in a checkpoint."""
        return {"optimizer": self.optimizer} | ({} if self.adversary is None else {"adversary": self.adversary})

    def begin_training(self) -> None:
        """Puts the model into train mode.

        BatchNorm keeps its statistics where inputs are quantised: their ranges are then those of inference. The
        statistics of a batch give others, most of all where a map has few pixels.
        """
        self.model.train()
        if self.phase == "quantize":
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def backward(self, loss: Tensor) -> None:
        """Gradients of the global batch; those of terms are outside of what averages the model's."""
        loss.backward()
        if self.terms is not None:
            self.world.average_gradients(self.terms.parameters())

    def zero_grad(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    @property
    def kept(self) -> nn.Module:
        """What is evaluated and saved."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def result(self) -> nn.Module:
        """What is kept, in eval mode, with the modules of the model that was given."""
        if self.plain is self.model:
            return self.kept.eval()
        self.plain.load_state_dict(self.kept.state_dict())
        return self.plain.eval()


def prepare(
    model: nn.Module,
    batches: Batches,
    objective: Objective,
    settings: recipe.Train,
    epochs: int,
    phase: Phase,
    *,
    teacher: InferenceTeacher | None = None,
    epochs_before: int = 0,
) -> Training:
    """Moves the model to the images' device and makes terms, optimisers, schedule and moving average.

    Args:
        teacher: that of the batches; the terms of the objective look into it.
        epochs_before: of the training that this one follows.

    Raises:
        UsageError: a batch has one image, and the model has BatchNorm.
    """
    world = batches.world
    if batches.images_each == 1 and any(isinstance(m, _BatchNorm) for m in model.modules()):
        raise UsageError(
            f"a {phase} with BatchNorm cannot be trained on batches of one image{' a process' * (world.size > 1)}",
            "Raise train.batch_size, or add images.",
        )
    # Dropout differs between the processes; all else that is drawn has streams of its own.
    torch.manual_seed(batches.seed if world.leads else stream(batches.seed, "process", world.rank))
    plain = model.to(batches.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = world.synchronized(plain)
    example = batches.images.normalized(slice(0, 2))
    parallel = world.data_parallel(model, example)
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
    state = Training(
        model=model,
        forward=torch.compile(parallel) if settings.compile else parallel,
        plain=plain,
        optimizer=_optimizer(_trained(model, terms), settings),
        schedule=None,
        ema=None if settings.ema is None else ModelEmaV3(model, decay=settings.ema, use_warmup=True),
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
            step_on_epochs=False,
            updates_per_epoch=batches.steps_per_epoch,
        )
        if state.schedule is not None:
            state.schedule.step_update(0)
    return state


def _adjustment(objective: Objective) -> dict[str, Any]:
    """What the method says of wrong rows, which terms on logits follow."""
    method = objective.distillation
    return {} if method is None else {"adjust": method.adjust, "epsilon": method.epsilon}


def _trained(model: nn.Module, terms: Terms | None) -> nn.ModuleList:
    return nn.ModuleList([model] if terms is None else [model, terms.projections])


def _optimizer(model: nn.Module, settings: recipe.Train) -> torch.optim.Optimizer:
    groups = param_groups_weight_decay(model, settings.weight_decay)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    nesterov = settings.nesterov and settings.momentum > 0
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov, fused=True)


def loss_parts(state: Training, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """The student's forward pass: the parts of the loss, and logits."""
    autocast = torch.autocast(batch.images.device.type, torch.bfloat16, enabled=state.settings.precision == "bf16")
    with autocast, state.terms.recording() if state.terms is not None else nullcontext():
        student_logits = state.forward(batch.images)
    epoch = state.epochs_before + state.epoch + state.step / state.batches.steps_per_epoch
    parts = state.objective(
        student_logits,
        batch.teacher_logits,
        batch.labels,
        terms=state.terms,
        teacher_features=batch.teacher_features,
        epoch=epoch,
        world=state.world,
    )
    return parts, student_logits


def snapshot(state: Training, provenance: dict[str, Any]) -> Checkpoint:
    """All that going on needs; provenance is compared when it is put back. Made by all processes together."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    if state.ema is not None:
        tensors |= {f"ema.{name}": value for name, value in state.ema.module.state_dict().items()}
    if state.terms is not None:
        tensors |= {f"terms.{name}": value for name, value in state.terms.state_dict().items()}
    for prefix, optimizer in state.optimizers.items():
        for number, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"{prefix}.{number}.{name}": value for name, value in slots.items() if value is not None}
    tensors |= {f"means.{name}": value for name, value in state.means.values.items()}
    tensors["random.cpu"] = state.world.random_states(torch.get_rng_state())
    if torch.cuda.is_initialized():
        tensors["random.cuda"] = state.world.random_states(torch.cuda.get_rng_state())
    meta = {
        "epoch": state.epoch,
        "step": state.step,
        "seconds": state.seconds,
        "mean_steps": state.means.steps,
        "processes": state.world.size,
        "provenance": provenance,
    }
    return Checkpoint(tensors, meta)


def restore(state: Training, found: Checkpoint, provenance: dict[str, Any], folder: Path) -> None:
    """Puts a checkpoint back.

    Raises:
        InputError: it is of other data or of another teacher.
        UsageError: another number of processes made it.
    """
    if (before := found.meta.get("processes", 1)) != state.world.size:
        raise UsageError(
            f"the checkpoints in {folder} are of {processes(before)}, and here are {state.world.size}",
            f"Go on with {processes(before)}, or remove that folder.",
        )
    recorded = found.meta["provenance"]
    if changed := sorted(key for key in provenance if recorded.get(key) != provenance[key]):
        raise InputError(f"the checkpoints in {folder} are of another {', '.join(changed)}", "Use another --out.")
    device = state.batches.device
    state.model.load_state_dict(found.part("model"))
    if state.ema is not None:
        state.ema.module.load_state_dict(found.part("ema"))
    if state.terms is not None:
        state.terms.load_state_dict(found.part("terms"))
    for prefix, optimizer in state.optimizers.items():
        slots = _optimizer_slots(optimizer, found.part(prefix))
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    state.means = Means()
    state.means.values = {name: value.to(device) for name, value in found.part("means").items()}
    state.means.steps = found.meta["mean_steps"]
    state.epoch, state.step, state.seconds = found.meta["epoch"], found.meta["step"], found.meta["seconds"]
    if state.schedule is not None:
        state.schedule.step_update(state.epoch * state.batches.steps_per_epoch + state.step)
    torch.set_rng_state(state.world.own_random_state(found.tensors["random.cpu"]))
    if device.type == "cuda" and "random.cuda" in found.tensors:
        torch.cuda.set_rng_state(state.world.own_random_state(found.tensors["random.cuda"]), device)


def take_terms(state: Training, checkpoints: Path) -> None:
    """Projections and discriminators as they were at the end of an earlier training."""
    if state.terms is not None and (found := newest_checkpoint(checkpoints)) is not None:
        state.terms.load_state_dict(found.part("terms"))


def _optimizer_slots(optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Slots by parameter number. The fused kernels walk memory, so a slot takes its parameter's memory format again."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.items():
        number, _, name = key.partition(".")
        like = parameters[int(number)]
        same = value.shape == like.shape
        slots.setdefault(int(number), {})[name] = torch.empty_like(like).copy_(value) if same else value
    return slots
