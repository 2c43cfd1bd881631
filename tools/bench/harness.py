"""What all benchmarks here share: their options, rounds, facts of the machine, output and exit codes.

In: functions that do the work. Out: their seconds, and a result as text or, with --json, as one JSON object on stdout.
"""

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import onnxruntime
import torch

from compress.cli.main import run_command
from compress.system import console, platform
from export.benchmark.machine import this_machine

Work = Callable[[], object]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def rounds_option(default: int) -> Callable[[Any], Any]:
    return click.option(
        "--rounds", type=click.IntRange(1), default=default, show_default=True, help="In which all take turns."
    )


def run(command: click.Command) -> NoReturn:
    """Ends the process as `compress` ends: an error is one line on stderr, and has the same exit code."""
    console.show_log()
    run_command(command, Path(sys.argv[0]).name)


def take_turns(
    contestants: Mapping[str, Work], rounds: int, synchronize: Work = lambda: None
) -> dict[str, list[float]]:
    """Times contestants against each other, so that a drift of the machine hits them all alike.

    Args:
        contestants: What is timed, by name. Each is called once a round. The first in turn changes with every round.
        rounds: How many are kept. One more comes before them, and warms up.
        synchronize: Waits for a GPU, or for other processes. Called before each, and after it within its time.

    Returns:
        Seconds of each contestant, one value a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            synchronize()
            began = time.perf_counter()
            contestants[name]()
            synchronize()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def median_seconds(work: Work, repeats: int) -> float:
    """Of one piece of work alone, without a warm-up."""
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """A ratio for each round: what drifts over the rounds cancels."""
    return [a / b for a, b in zip(above, below, strict=True)]


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """`name`: the median over rounds; `name`_min and `name`_max: the smallest and the largest round."""
    found = {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}
    return {key: round(value, 4) for key, value in found.items()}


def per_second(count: int, seconds: Sequence[float]) -> float:
    """By the median round."""
    return round(count / statistics.median(seconds), 1)


def in_own_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Where it can be, forked from a parent that never computes: its peak memory and its threads are its own."""
    with multiprocessing.get_context(platform.OWN_PROCESS).Pool(1) as pool:
        found = pool.apply(work, arguments)
        pool.close()
        pool.join()  # it ends by itself: a signal would raise in it
    return found


def machine() -> dict[str, Any]:
    """What a number depends on beside the code."""
    here = this_machine()
    return {
        "cpu": here.cpu,
        "gpu": here.gpu,
        "threads": torch.get_num_threads(),
        "load_average": here.load_average,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def show(
    result: Mapping[str, Any],
    lines: Iterable[str] | None = None,
    *,
    as_json: bool,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Prints a result and the machine that it is of.

    Args:
        result: What --json prints, together with `machine`.
        lines: The same for people. Default: a line for each key.
        as_json: Whether --json was given.
        facts: Of the machine. Default: this one.
    """
    facts = facts or machine()
    if as_json:
        print(json.dumps({**result, "machine": facts}))
        return
    for line in lines if lines is not None else (f"{name:<32}{value}" for name, value in result.items()):
        print(line)
    print(f"{'machine':<32}{', '.join(f'{name} {value}' for name, value in facts.items() if value is not None)}")
