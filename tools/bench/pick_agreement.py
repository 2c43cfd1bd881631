"""Do two runs of `compress pick` rank alike? Kendall's tau of their latencies, with its 95 % interval over models.

In: two files of `compress pick --json`, each measured with a cache of its own. Out: tau-b of p90_ms, and its bootstrap
interval (percentiles, models drawn in pairs).

    COMPRESS_CACHE=a compress pick --image-size 224 --p90-ms 5 --threads 1 --json > a.json
    COMPRESS_CACHE=b compress pick --image-size 224 --p90-ms 5 --threads 1 --json > b.json
    python tools/bench/pick_agreement.py a.json b.json
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from harness import json_option, run, show
from scipy.stats import bootstrap, kendalltau

from compress.system.errors import InputError


def latencies(path: Path) -> dict[str, float]:
    """The p90 of each model. Raises InputError where the file is no output of `compress pick --json`."""
    try:
        return {row["model"]: row["p90_ms"] for row in json.loads(path.read_text(encoding="utf-8"))["models"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no output of `compress pick --json` ({error})") from None


def tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b."""
    found: Any = kendalltau(first, second)
    return float(found.statistic)


def agreement(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """tau, low and high, over the models that both have."""
    both = sorted(first.keys() & second.keys())
    if len(both) < 3:
        raise InputError(f"both files have {len(both)} models in common, and three are needed")
    pairs = ([first[name] for name in both], [second[name] for name in both])
    drawn = bootstrap(
        pairs,
        tau,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = {"tau": tau(*pairs), "low": drawn.low, "high": drawn.high}
    return {"models": len(both), **{name: round(float(value), 4) for name, value in found.items()}}


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@json_option
def main(first: Path, second: Path, as_json: bool) -> None:
    """How far two runs of pick agree."""
    found = agreement(latencies(first), latencies(second))
    line = f"tau {found['tau']:.3f} ({found['low']:.3f} to {found['high']:.3f}), {found['models']} models"
    show({"setting": f"{first} and {second}", **found}, [line], as_json=as_json)


if __name__ == "__main__":
    run(main)
