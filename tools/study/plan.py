"""A study: which arms are compared in which settings, how each arm is tuned, and the runs that this comes to.

In: a YAML file of tools/study. Out: a Study, and its runs as cells of compress.sweeps.cells.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from compress.recipe import Recipe, Section, validate_recipe
from compress.recipe.overrides import assign
from compress.recipe.strict_yaml import parse_yaml
from compress.runs.folder import runs_root
from compress.sweeps.cells import Cell
from compress.system.errors import UsageError
from compress.system.hashes import sha256_json

Values = dict[str, Any]
"""Keys of a recipe, with dots, and their values."""

TUNED = "tune-"
"""How the names of runs begin that are there to choose a configuration."""

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"


class Arm(Section):
    """What is compared: a method, that of the setting where there is none, and what else it has of its own."""

    name: str = Field(pattern=_NAME)
    method: str | None = None
    set: Values = Field(default_factory=dict)


class Tuning(Section):
    """Every arm tries equally many configurations, on a part of train that is held out."""

    setting: str = Field(description="The one that is tuned in; what wins there is used in all.")
    holdout: float = Field(gt=0, lt=1, description="The part of train; the teachers never see it either.")
    epochs: int = Field(ge=1)
    seeds: list[int] = Field(min_length=1)
    grid: dict[str, list[Values]] = Field(description="The configurations of each arm, on top of what it sets.")


class Study(Section):
    name: str = Field(pattern=_NAME)
    base: dict[str, Any] = Field(description="A recipe. Its teacher is trained once in each setting.")
    settings: dict[str, Values] = Field(min_length=1, description="What differs from the base, by name.")
    tune: Tuning | None = Field(default=None, description="None: every arm is taken as it is.")
    arms: list[Arm] = Field(min_length=2)
    baseline: str = Field(description="The arm that the others are compared with.")
    seeds: list[int] = Field(description="Of the final runs. None: a search alone.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError("two arms have one name")
        if self.baseline not in names:
            raise ValueError(f"baseline {self.baseline!r} is no arm")
        if self.tune is None:
            return self
        if self.tune.setting not in self.settings:
            raise ValueError(f"tune.setting {self.tune.setting!r} is no setting")
        if set(self.tune.grid) != set(names):
            raise ValueError("tune.grid must have every arm and nothing else")
        if len({len(grid) for grid in self.tune.grid.values()}) != 1 or not self.tune.grid[names[0]]:
            raise ValueError("tune.grid must have equally many configurations for every arm")
        return self

    @property
    def grid(self) -> dict[str, list[Values]]:
        """The configurations of each arm, on top of what it sets."""
        return {arm.name: [{}] for arm in self.arms} if self.tune is None else self.tune.grid

    @property
    def sha256(self) -> str:
        """Of all but the seeds, to which more may be added."""
        content = self.model_dump(mode="json", exclude={"seeds"})
        return sha256_json(content)

    @property
    def folder(self) -> Path:
        return runs_root() / self.name


def load_study(path: Path) -> Study:
    """Raises UsageError for anything wrong with it, also with one of its recipes."""
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path} ({error})", "Studies are in tools/study.") from None
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{path}: {where + ': ' if where else ''}{message}") from None
    anywhere = Path("TEACHER")
    tuning_cells(study, anywhere)
    for setting in study.settings:
        if teacher_recipe(study, setting).teacher.source not in ("train", "finetune"):
            raise UsageError(
                f"{path}: base: teacher.source must be train or finetune", "A study trains its own teachers."
            )
        for chosen in zip(*study.grid.values(), strict=True):
            final_cells(study, setting, anywhere, dict(zip(study.grid, chosen, strict=True)))
    return study


def teacher_recipe(study: Study, setting: str) -> Recipe:
    """Whose teacher serves all runs of the setting: it is trained without the part of train that is held out."""
    holdout = {} if study.tune is None else {"data.holdout": study.tune.holdout}
    return _recipe(study, f"teacher of {setting}", study.settings[setting], holdout)


def tuning_cells(study: Study, teacher: Path) -> list[Cell]:
    """Every configuration of every arm with every tuning seed. Cell.arm is ARM#NUMBER."""
    if study.tune is None:
        return []
    cells = []
    for arm in study.arms:
        for number, values in enumerate(study.tune.grid[arm.name]):
            for seed in study.tune.seeds:
                name = tuned_name(arm.name, number, seed)
                held_out = {"data.holdout": study.tune.holdout, "train.epochs": study.tune.epochs}
                own = _of_run(arm, seed, teacher, values) | held_out
                recipe = _recipe(study, name, study.settings[study.tune.setting], own)
                cells.append(Cell(name, f"{arm.name}#{number}", seed, recipe, study.folder / name))
    return cells


def final_cells(study: Study, setting: str, teacher: Path, chosen: Mapping[str, Values]) -> list[Cell]:
    """Every arm with what was chosen for it, with every seed, on all of train and the official evaluation split."""
    cells = []
    for arm in study.arms:
        for seed in study.seeds:
            name = final_name(setting, arm.name, seed)
            own = _of_run(arm, seed, teacher, chosen[arm.name])
            if study.tune is not None:
                own |= {"data.holdout": 0.0}
            recipe = _recipe(study, name, study.settings[setting], own)
            cells.append(Cell(name, arm.name, seed, recipe, study.folder / name))
    return cells


def tuned_name(arm: str, number: int, seed: int) -> str:
    return f"{TUNED}{arm}-{number}-s{seed}"


def final_name(setting: str, arm: str, seed: int) -> str:
    return f"{setting}-{arm}-s{seed}"


def _of_run(arm: Arm, seed: int, teacher: Path, values: Values) -> Values:
    """The teacher is named by a path below the current folder, so that a recipe is the same on every machine."""
    kept = {"teacher.source": "checkpoint", "teacher.checkpoint": str(teacher / "model")}
    method = {} if arm.method is None else {"supervision.method": arm.method}
    return method | {"train.seed": seed} | kept | arm.set | values


def _recipe(study: Study, name: str, setting: Values, own: Values) -> Recipe:
    raw = deepcopy(study.base)
    for key, value in {**setting, **own}.items():
        assign(raw, key.split("."), deepcopy(value), f"study {study.name}, {name}, {key}")
    return validate_recipe(raw, source=f"study {study.name}, {name}")
