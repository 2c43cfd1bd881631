"""Trainings in turns: each makes one step, the one that is furthest behind first, so that they share each batch.

In: generators of distill_in_steps by name. Out: what each came to, a Run or the error that ended it.
"""

import traceback
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compress.runs.folder import Run
from compress.system.errors import CompressError, Interrupted, MachineError, fault, is_out_of_memory
from compress.training.batches import PHASES
from compress.training.loop import Position

Steps = Generator[Position, None, Run]
Outcome = Run | CompressError


def run_in_lockstep(runs: Mapping[str, Steps]) -> dict[str, Outcome]:
    """Each run ends at the same bits as alone, since it has a random stream of its own.

    A teacher that several runs have is made by the first of them, before the next begins. Where a run fails, the
    others go on. Raises Interrupted after a signal, once every run that had begun is saved.
    """
    trainees = [_Trainee(name, steps) for name, steps in runs.items()]
    begun: list[_Trainee] = []
    try:
        for trainee in trainees:
            begun.append(trainee)
            trainee.advance()
        while active := [trainee for trainee in trainees if trainee.position is not None]:
            min(active, key=lambda trainee: trainee.progress).advance()
    except Interrupted:
        for trainee in begun:
            trainee.stop()
        raise
    finally:
        for trainee in begun:
            trainee.steps.close()
    return {trainee.name: trainee.outcome for trainee in trainees if trainee.outcome is not None}


@dataclass
class _Trainee:
    """One run. position is None before it begins and after it ended."""

    name: str
    steps: Steps
    position: Position | None = None
    outcome: Outcome | None = None
    random: list[Tensor] = field(default_factory=lambda: _random_state())

    @property
    def progress(self) -> tuple[int, int, int]:
        """Phases in their order, then epochs, then steps."""
        position = self.position
        return (PHASES.index(position.phase), position.epoch, position.step) if position else (0, 0, 0)

    def advance(self) -> None:
        """To before its next step, or to its end."""
        others = _random_state()
        _set_random_state(self.random)
        try:
            self.position = next(self.steps)
        except StopIteration as end:
            self.position, self.outcome = None, end.value
        except CompressError as error:
            traceback.clear_frames(error.__traceback__)  # they hold the model of a run that is over
            self.position, self.outcome = None, error
        except Exception as error:  # noqa: BLE001 - whatever it is, the other runs go on
            self.position, self.outcome = None, fault(error)
            if isinstance(error, OSError):
                self.outcome = MachineError(f"{error.filename or self.name}: {error.strerror or error}")
            elif is_out_of_memory(error):
                self.outcome = MachineError(
                    f"the memory is too small for {self.name} beside what is there",
                    "Put fewer runs into the sweep, or lower train.batch_size.",
                )
            traceback.clear_frames(error.__traceback__)
        finally:
            self.random = _random_state()
            _set_random_state(others)

    def stop(self) -> None:
        """The signal was seen: on its next turn a training saves itself and says Interrupted."""
        while self.position is not None:
            try:
                self.advance()
            except Interrupted:
                self.position = None


def _random_state() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states


def _set_random_state(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])
