"""A grid of recipes as cells with stable names.

In: a recipe file and what varies. Out: cells, each a run itself, and the groups of cells that can run in lockstep.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.recipe import Recipe, load_recipe
from compress.recipe.methods import canonical_method
from compress.recipe.strict_yaml import parse_yaml
from compress.runs.folder import runs_root
from compress.system.errors import UsageError

_LONGEST_ARM = 120


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        name: of the run folder.
        arm: what distinguishes the run apart from its seed. The table compares arms.
        seed: train.seed.
        recipe: not resolved.
        folder: of the run.
    """

    name: str
    arm: str
    seed: int
    recipe: Recipe
    folder: Path


def grid(
    path: Path, methods: Sequence[str], seeds: Sequence[int], varied: Iterable[str], out: Path | None = None
) -> list[Cell]:
    """Every combination of methods, seeds and varied values, in that order.

    A cell is named after the recipe and the values that distinguish it, so that the same sweep finds its runs again.

    Args:
        path: the recipe file.
        methods: empty means the recipe's.
        seeds: of train.seed; empty means the recipe's.
        varied: "section.key=A,B", one entry for each key.
        out: the folder of the runs, runs/ by default.

    Raises:
        UsageError: a recipe, key or value is wrong, or two cells would be the same or have the same name.
        InputError: the recipe cannot be read.
    """
    keys, choices = _choices(varied)
    _refuse_twice([*keys, *(["supervision.method"] if methods else []), *(["train.seed"] if seeds else [])])
    cells = []
    for method, *values in itertools.product(methods or [None], *choices):
        fixed = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
        # The seed is never a part of an arm, even if it is given as a key.
        several = [
            text
            for key, text, its_values in zip(keys, fixed, choices, strict=True)
            if len(its_values) > 1 and key != "train.seed"
        ]
        for seed in seeds or [None]:
            settings = fixed if seed is None else [*fixed, f"train.seed={seed}"]
            recipe = load_recipe(path, method=method, overrides=settings)
            arm = "-".join([recipe.supervision.method, *map(_plain, several)])
            name = f"{path.stem}-{_shortened(arm)}-s{recipe.train.seed}"
            cells.append(Cell(name, arm, recipe.train.seed, recipe, (out or runs_root()) / name))
    first: dict[str, Cell] = {}
    for cell in cells:
        if (other := first.setdefault(cell.name, cell)) is cell:
            continue
        if other.recipe == cell.recipe:
            raise UsageError(f"{cell.name} is in the sweep twice", "Give every method, seed and value once.")
        raise UsageError(
            f"two runs of the sweep would both be named {cell.name}",
            "Their values differ in signs that a name cannot hold: sweep each value alone, with an --out of its own.",
        )
    return cells


def _choices(varied: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    """The keys, and for each key its values as JSON."""
    keys, choices = [], []
    for override in varied:
        key, separator, text = override.partition("=")
        values = parse_yaml(f"[{text}]", f"--set {key}") if separator and text.strip() else None
        if not values:
            raise UsageError(f"--set {override!r} is not KEY=VALUE,VALUE", "For example: --set train.lr=0.1,0.05.")
        keys.append(key.strip())
        choices.append([json.dumps(value, ensure_ascii=False) for value in values])
    return keys, choices


def _refuse_twice(keys: Sequence[str]) -> None:
    """Refuses a repeated key, or a later key that contains an earlier one: it would replace its values."""
    for earlier, later in itertools.combinations(keys, 2):
        if earlier == later or earlier.startswith(f"{later}."):
            raise UsageError(f"the sweep sets {earlier} twice", "Give every key once, with all its values.")


def baseline_arm(cells: Sequence[Cell], name: str | None) -> str:
    """The arm with which the others are compared, the first by default.

    Raises:
        UsageError: no arm has that name.
    """
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    if name is not None and name not in arms:
        with contextlib.suppress(ValueError):
            name = canonical_method(name)
    if name is not None and name not in arms:
        raise UsageError(f"--baseline {name!r} is no arm of this sweep", f"Its arms are {', '.join(arms)}.")
    return name or arms[0]


def lockstep_groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Groups of cells that can run in lockstep: they have the same batches and the same teacher.

    Within a group recipes differ in supervision and student only. The seed is the same, too.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        content = cell.recipe.dump()
        same = {key: value for key, value in content.items() if key not in ("supervision", "student")}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(cell)
    return list(groups.values())


def _plain(text: str) -> str:
    """KEY=VALUE, with the value as JSON, as a part of a folder's name."""
    bare = text.replace('"', "")
    kept = "".join(character if character.isalnum() or character in "=._" else "_" for character in bare)
    return kept.strip("_")


def _shortened(arm: str) -> str:
    """A stable short form of a long arm, since names in file systems end at 255 bytes."""
    if len(arm) <= _LONGEST_ARM:
        return arm
    return f"{arm[: _LONGEST_ARM - 9]}-{hashlib.sha256(arm.encode()).hexdigest()[:8]}"
