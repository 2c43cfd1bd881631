"""The loop. A student is trained with a teacher's supervision, and a teacher by the same loop without one.

train() reads top to bottom: resume, epochs of steps, evaluation, a line of metrics, a checkpoint.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from compress import console, recipe
from compress.augment import Images, Splits
from compress.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from compress.divergence import DivergenceWatch
from compress.errors import InputError, Interrupted
from compress.evaluate import accuracy, logits_of
from compress.interrupts import Flag, deferred
from compress.metrics import MetricsLog, peak_memory_mb
from compress.objective import Means, Objective

Phase = Literal["teacher", "student"]


@dataclass
class Training:
    """All that a step needs, and all that a checkpoint holds."""

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    """The model, compiled where that is asked for."""
    teacher: Callable[[Tensor], Tensor] | None
    optimizer: torch.optim.Optimizer
    schedule: Scheduler | None
    ema: ModelEmaV3 | None
    objective: Objective
    images: Images
    augment: recipe.Augment
    settings: recipe.Train
    phase: Phase
    seed: int
    """Of this phase's own random stream."""
    watch: DivergenceWatch = field(init=False)
    means: Means = field(default_factory=Means)
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    """Spent on this epoch's steps so far."""

    @property
    def batch_size(self) -> int:
        return min(self.settings.batch_size, len(self.images.labels))

    @property
    def steps_per_epoch(self) -> int:
        """Every batch is full; what is left over is drawn in another epoch, since each has an order of its own."""
        return len(self.images.labels) // self.batch_size

    @property
    def kept(self) -> nn.Module:
        """What is evaluated and saved."""
        return self.ema.module if self.ema is not None else self.model


def train(
    model: nn.Module,
    *,
    splits: Splits,
    teacher: nn.Module | None,
    objective: Objective,
    settings: recipe.Train,
    augment: recipe.Augment,
    epochs: int,
    phase: Phase,
    folder: Path,
    provenance: dict[str, Any],
) -> nn.Module:
    """Trains `model` for `epochs` and returns what is to be kept, in eval mode: itself, or its moving average.

    folder gets checkpoints/ and metrics.jsonl; from a valid checkpoint there training goes on, bit-identical on CPU.
    provenance must be equal in the checkpoint and now. Raises DivergedError before a step whose loss or gradient is not
    finite, and Interrupted after a signal, once the step is finished and saved.
    """
    state = prepare(model, teacher, objective, splits.train, settings, augment, epochs, phase)
    checkpoints = folder / "checkpoints"
    if (found := newest_checkpoint(checkpoints, warn=console.warn)) is not None:
        _restore(state, found, provenance, checkpoints)
    log = MetricsLog(folder, tensorboard=settings.tensorboard)
    log.keep_before(phase, state.epoch)
    console.say(_outlook(state, epochs))

    def save() -> None:
        save_checkpoint(checkpoints, _checkpoint(state, provenance), keep=settings.keep_checkpoints)

    with deferred() as interrupted:
        while state.epoch < epochs:
            with console.progress_bar(f"{phase} {state.epoch + 1}/{epochs}", state.steps_per_epoch) as bar:
                run_epoch(state, interrupted, bar, save)
            state.watch.raise_if_diverged(phase, state.epoch)
            try:
                interrupted.raise_if_set()
                logits = logits_of(state.kept, splits.evaluation, precision=settings.precision, interrupted=interrupted)
            except Interrupted:
                save()
                raise
            result = accuracy(logits, splits.evaluation.labels)
            line = {
                "phase": phase,
                "epoch": state.epoch,
                **state.means.read(),
                "eval_top1": result.top1,
                "eval_balanced_top1": result.balanced_top1,
                "images_per_s": state.steps_per_epoch * state.batch_size / state.seconds,
                "seconds": state.seconds,
                "lr": state.optimizer.param_groups[0]["lr"],
                "peak_memory_mb": peak_memory_mb(splits.train.images.device),
            }
            log.write(line)
            console.say(_epoch_line(line, epochs, remaining=(epochs - 1 - state.epoch) * state.seconds))
            state.epoch, state.step, state.seconds, state.means = state.epoch + 1, 0, 0.0, Means()
            save()
            interrupted.raise_if_set()
    return state.kept.eval()


def run_epoch(state: Training, interrupted: Flag, bar: console.Bar, save: Callable[[], None]) -> None:
    """The steps of one epoch, from state.step on. Nothing waits for the device but the progress bar, twice a second."""
    device = state.images.images.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=state.settings.precision == "bf16")
    order = epoch_order(len(state.images.labels), seed=state.seed, epoch=state.epoch).to(device)
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    before, first = state.seconds, state.step
    state.watch = DivergenceWatch(device, state.step)
    state.model.train()
    began = shown = saved = time.perf_counter()
    while state.step < state.steps_per_epoch and not interrupted:
        rows = order[state.step * state.batch_size : (state.step + 1) * state.batch_size]
        images = state.images.augmented(rows, state.augment, seed=state.seed, epoch=state.epoch)
        labels = state.images.labels[rows]
        with autocast:
            teacher_logits = None
            if state.teacher is not None:
                with torch.no_grad():
                    teacher_logits = state.teacher(images)
            student_logits = state.forward(images)
        parts = state.objective(student_logits, teacher_logits, labels)
        parts["loss"].backward()

        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if state.settings.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, state.settings.clip_grad, norm)
        # From the first bad step on, the fused optimiser leaves the weights alone on the device, without a sync.
        state.optimizer.found_inf = state.watch.check(parts, norm)  # type: ignore[attr-defined]
        state.optimizer.step()
        state.optimizer.zero_grad()

        state.step += 1
        updates = state.epoch * state.steps_per_epoch + state.step
        if state.schedule is not None:
            state.schedule.step_update(updates)
        if state.ema is not None:
            state.ema.update(state.model, step=updates)
        state.means.add({**parts, "train_top1": (student_logits.detach().argmax(1) == labels).float().mean()})

        now = time.perf_counter()
        state.seconds = before + now - began
        if device.type == "cpu" and state.watch.diverged():
            return
        if bar.visible and now - shown > 0.5:
            shown = now
            rate = (state.step - first) * state.batch_size / (now - began)
            bar.show(state.step, f"{rate:,.0f} images/s  loss {parts['loss'].item():.3f}")
        if now - saved > 60 * state.settings.checkpoint_minutes and state.step < state.steps_per_epoch:
            state.watch.raise_if_diverged(state.phase, state.epoch)
            save()
            saved = now
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    state.seconds = before + time.perf_counter() - began


def prepare(
    model: nn.Module,
    teacher: nn.Module | None,
    objective: Objective,
    images: Images,
    settings: recipe.Train,
    augment: recipe.Augment,
    epochs: int,
    phase: Phase,
) -> Training:
    """Moves the models to the images' device and makes optimiser, schedule and moving average."""
    device = images.images.device
    seed = stream(settings.seed, phase)
    torch.manual_seed(seed)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if teacher is not None and objective.supervised_by_teacher:
        teacher = teacher.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    else:
        teacher = None
    compiled = torch.compile if settings.compile else lambda module: module
    state = Training(
        model=model,
        forward=compiled(model),
        teacher=None if teacher is None else compiled(teacher),
        optimizer=_optimizer(model, settings),
        schedule=None,
        ema=None if settings.ema is None else ModelEmaV3(model, decay=settings.ema, use_warmup=True),
        objective=objective,
        images=images,
        augment=augment,
        settings=settings,
        seed=seed,
        phase=phase,
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
            updates_per_epoch=state.steps_per_epoch,
        )
        if state.schedule is not None:
            state.schedule.step_update(0)
    return state


def epoch_order(count: int, *, seed: int, epoch: int) -> Tensor:
    """A permutation of the rows, int64 [count], that depends on (seed, epoch) alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(stream(seed, "order", epoch)))


def stream(*key: object) -> int:
    """A seed for a random stream of its own: 63 bits of the SHA-256 of its key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1


def _optimizer(model: nn.Module, settings: recipe.Train) -> torch.optim.Optimizer:
    groups = param_groups_weight_decay(model, settings.weight_decay)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    nesterov = settings.nesterov and settings.momentum > 0
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov, fused=True)


def _checkpoint(state: Training, provenance: dict[str, Any]) -> Checkpoint:
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    if state.ema is not None:
        tensors |= {f"ema.{name}": value for name, value in state.ema.module.state_dict().items()}
    for number, slots in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in slots.items() if value is not None}
    tensors |= {f"means.{name}": value for name, value in state.means.values.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    meta = {
        "epoch": state.epoch,
        "step": state.step,
        "seconds": state.seconds,
        "mean_steps": state.means.steps,
        "provenance": provenance,
    }
    return Checkpoint(tensors, meta)


def _restore(state: Training, found: Checkpoint, provenance: dict[str, Any], folder: Path) -> None:
    recorded = found.meta["provenance"]
    if changed := sorted(key for key in provenance if recorded.get(key) != provenance[key]):
        raise InputError(f"the checkpoints in {folder} are of another {', '.join(changed)}", "Use another --out.")
    device = state.images.images.device
    state.model.load_state_dict(found.part("model"))
    if state.ema is not None:
        state.ema.module.load_state_dict(found.part("ema"))
    state.optimizer.load_state_dict(
        {
            "state": _optimizer_slots(state.optimizer, found.part("optimizer")),
            "param_groups": state.optimizer.state_dict()["param_groups"],
        }
    )
    state.means = Means()
    state.means.values = {name: value.to(device) for name, value in found.part("means").items()}
    state.means.steps = found.meta["mean_steps"]
    state.epoch, state.step, state.seconds = found.meta["epoch"], found.meta["step"], found.meta["seconds"]
    if state.schedule is not None:
        state.schedule.step_update(state.epoch * state.steps_per_epoch + state.step)
    torch.set_rng_state(found.tensors["random.cpu"])
    if device.type == "cuda" and "random.cuda" in found.tensors:
        torch.cuda.set_rng_state(found.tensors["random.cuda"], device)


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


def _outlook(state: Training, epochs: int) -> str:
    """What is about to happen, about how long it will take, and what it needs on disk."""
    size = sum(value.numel() * value.element_size() for value in state.model.state_dict().values()) / 1e6
    copies = 2 + (state.ema is not None) + (state.settings.optimizer == "adamw")
    steps = epochs * state.steps_per_epoch - state.epoch * state.steps_per_epoch - state.step
    done = f", going on from epoch {state.epoch + 1}, step {state.step}" if state.epoch or state.step else ""
    time_left = f"about {console.duration(steps * _seconds_per_step(state))} and " if steps > 0 else ""
    return (
        f"{state.phase}: {sum(p.numel() for p in state.model.parameters()) / 1e6:.1f} M parameters, {epochs} epochs of "
        f"{state.steps_per_epoch} steps of {state.batch_size} images{done}; "
        f"{time_left}{size * copies * state.settings.keep_checkpoints:,.0f} MB of checkpoints"
    )


def _seconds_per_step(state: Training) -> float:
    """Of a forward and backward pass, timed once after a warm-up. In eval mode and without a step: nothing changes."""
    device = state.images.images.device
    images = state.images.normalized(slice(0, state.batch_size))
    state.model.eval()
    began = 0.0
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=state.settings.precision == "bf16"):
            if state.teacher is not None:
                with torch.no_grad():
                    state.teacher(images)
            state.forward(images).float().square().mean().backward()
        state.optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _epoch_line(line: dict[str, Any], epochs: int, *, remaining: float) -> str:
    temperature = (
        f"  T {line['temperature_min']:.1f}-{line['temperature_max']:.1f}" if "temperature_min" in line else ""
    )
    adjusted = f"  adjusted {line['adjusted']:.1%}" if "adjusted" in line else ""
    return (
        f"{line['phase']} {line['epoch'] + 1}/{epochs}  loss {line['loss']:.3f}  top1 {line['eval_top1']:.2%}"
        f"{temperature}{adjusted}  {line['images_per_s']:,.0f} images/s  {console.duration(remaining)} left"
    )
