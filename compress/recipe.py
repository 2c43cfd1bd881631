"""The recipe: its frozen schema, and the strict YAML loader.

A file goes in; a validated Recipe comes out, or a UsageError that names the key and the nearest right one.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from compress.errors import InputError, UsageError
from compress.overrides import apply_override, assign
from compress.recipe_supervision import TERMS, FeatureTerm, Section, Supervision, Term
from compress.recipe_teacher import Member, Model, Teacher
from compress.strict_yaml import MAX_DEPTH, is_deep, parse_yaml

__all__ = ["Augment", "Data", "Export", "Member", "Model", "Recipe", "Supervision", "Teacher", "Term", "Train"]

MAX_RECIPE_BYTES = 64 * 1024


class Augment(Section):
    """Drawn anew for every sample and epoch. crop and flip default to what suits the data set."""

    crop: int | None = Field(default=None, ge=0, le=64, description="Padding in pixels before a random crop; 0 is off.")
    flip: bool | None = Field(default=None, description="Mirror half of the images.")
    erase: float = Field(default=0.0, ge=0, le=1, description="Probability of blanking a random rectangle.")
    scale: float = Field(default=1.0, gt=0, le=1, description="Smallest area of a random resized crop; 1 is off.")


class Data(Section):
    name: Literal["cifar100", "cinic10", "tinyimagenet", "digits", "folder"]
    root: str | None = Field(default=None, description="Where it lies. Default: $COMPRESS_DATA, then data/.")
    image_size: int | None = Field(
        default=None, ge=4, le=1024, description="Pixels a side. Default: the data set's own."
    )
    augment: Augment = Augment()
    holdout: float = Field(
        default=0.0, ge=0, lt=1, description="Evaluate on this part of train instead of the official split."
    )
    label_noise: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Part of the training labels replaced by another class, uniformly (symmetric noise): always the "
        "same ones for a data set and a part. What is evaluated on keeps its labels, with data.holdout too.",
    )

    @model_validator(mode="after")
    def _folder_needs_a_place_and_a_size(self) -> Self:
        if self.name == "folder" and (self.root is None or self.image_size is None):
            raise ValueError("data.name: folder needs data.root and data.image_size")
        return self


class Train(Section):
    """How a model is trained; it holds for a teacher that is trained, too, except teacher.epochs."""

    epochs: int = Field(default=200, ge=1, le=100_000)
    batch_size: int = Field(default=128, ge=1, le=1_000_000)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: float = Field(default=0.0, ge=0)
    step_epochs: float = Field(default=60.0, gt=0, description="schedule step: epochs between two decays.")
    step_rate: float = Field(default=0.2, gt=0, le=1, description="schedule step: the factor of each decay.")
    clip_grad: float | None = Field(default=None, gt=0, description="Largest norm of the gradient.")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="Decay of the weights' moving average, which is then kept."
    )
    seed: int = Field(default=0, ge=0, lt=2**31)
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="auto: bf16 on a GPU and on CPUs with AMX, where it is faster, else fp32."
    )
    compile: bool = Field(default=False, description="torch.compile both models.")
    quantize: Literal["int8"] | None = Field(
        default=None, description="Then fine-tune the student with INT8's rounding, for where an export loses by it."
    )
    quantize_epochs: int = Field(default=3, ge=1, le=100_000)
    quantize_lr: float | None = Field(default=None, gt=0, description="Default: a hundredth of train.lr.")
    checkpoint_minutes: float = Field(
        default=10.0, gt=0, description="Also checkpoint inside an epoch after this long."
    )
    keep_checkpoints: int = Field(default=2, ge=1, le=100)
    tensorboard: bool = False


class Export(Section):
    """Limits of the gates that a file passes before it appears under its final name. Fractions: 0.005 is 0.5 points."""

    calibration_images: int = Field(default=512, ge=1, description="Training images that INT8 ranges are measured on.")
    calibration_method: Literal["minmax", "entropy", "percentile"] = "percentile"
    calibration_seed: int = Field(default=0, ge=0)
    sensitivity_images: int = Field(default=256, ge=1, description="Training images that each layer is tried on.")
    max_logit_diff: float = Field(default=1e-4, gt=0, description="FP32 ONNX against torch, on noise.")
    min_agreement: float = Field(default=0.99, gt=0, le=1, description="Same class as FP32; for ONNX and FP16.")
    max_fp16_top1_drop: float = Field(default=0.002, ge=0, lt=1)
    max_int8_top1_drop: float = Field(default=0.005, ge=0, lt=1)
    min_int8_macs: float = Field(default=0.9, ge=0, le=1, description="Share of multiply-adds that must stay INT8.")
    batches: list[int] = Field(default=[1, 8, 64], min_length=3, max_length=3, description="Smallest, best, largest.")

    @field_validator("batches")
    @classmethod
    def _in_order(cls, value: list[int]) -> list[int]:
        if not 1 <= value[0] <= value[1] <= value[2]:
            raise ValueError("the smallest, the best and the largest batch must be in order, from 1 up")
        return value

    workspace_mb: int = Field(default=1024, ge=1, description="Memory that TensorRT may use while it builds.")
    compute_capabilities: list[Annotated[str, Field(pattern=r"^([sS][mM])?[1-9]\d?\.?\d[af]?$")]] = Field(
        default=[], description='GPUs to build for, such as "86", "89".'
    )
    version_compatible: bool = False
    hardware_compatible: bool = False


class Benchmark(Section):
    """Limits of the verdict; what is not set is not judged. Fractions: 0.02 is 2 points."""

    p90_ms: float | None = Field(default=None, gt=0, description="90th percentile of latency at batch 1, model only.")
    max_top1_drop: float | None = Field(default=0.02, ge=0, le=1, description="Of the student against its teacher.")
    max_class_drop: float | None = Field(default=None, ge=0, le=1, description="The same, of the worst class.")
    max_size_mb: float | None = Field(default=None, gt=0, description="Of the recommended file.")
    price_per_hour: float | None = Field(default=None, gt=0, description="Of the machine, for the cost of inference.")


class Recipe(Section):
    data: Data
    teacher: Teacher
    student: Model
    supervision: Supervision = Supervision()
    train: Train = Train()
    export: Export = Export()
    benchmark: Benchmark = Benchmark()

    @model_validator(mode="after")
    def _warmups_are_parts_of_training(self) -> Self:
        train = self.train
        if train.warmup_epochs and train.schedule == "constant":
            raise ValueError("train.warmup_epochs needs train.schedule: cosine or step")
        trained = {"train.epochs": train.epochs}
        for number, member in enumerate(self.teacher.members):
            if member.source == "train" and member.epochs is not None:
                trained[f"teacher.ensemble.{number - 1}.epochs" if number else "teacher.epochs"] = member.epochs
        for key, epochs in trained.items():
            if train.warmup_epochs >= epochs:
                raise ValueError(f"train.warmup_epochs {train.warmup_epochs:g} must be less than {key}, {epochs}")
        epochs, key = train.epochs, "train.epochs"
        if train.quantize is not None:
            epochs, key = epochs + train.quantize_epochs, "train.epochs and train.quantize_epochs together"
        for number, (start, risen) in enumerate((t.schedule.start, t.schedule.risen) for t in self.supervision.terms):
            term = f"supervision.terms.{number}.schedule"
            if start >= epochs:
                raise ValueError(f"{term}.start {start:g} must be less than {key}, {epochs}")
            if risen > epochs:
                raise ValueError(f"{term}.warmup ends at epoch {risen:g}, which must not be after {key}, {epochs}")
        return self

    @model_validator(mode="after")
    def _features_need_the_teacher_itself(self) -> Self:
        if features := [term.name for term in self.supervision.terms if isinstance(term, FeatureTerm)]:
            looks = f"{features[0]} of supervision.terms looks inside"
            if self.teacher.cache is not None:
                raise ValueError(f"{looks} the teacher, of which teacher.cache keeps the logits alone: leave one out")
            if self.teacher.ensemble:
                raise ValueError(f"{looks} one teacher, and teacher.ensemble has several: leave one out")
        return self

    def dump(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @property
    def sha256(self) -> str:
        """Hash of what the recipe says; where the data lies is not part of it."""
        content = self.dump()
        content["data"].pop("root")
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_recipe(path: str | Path, *, method: str | None = None, overrides: Iterable[str] = ()) -> Recipe:
    """Reads and validates a recipe file.

    method replaces supervision.method. overrides are "section.key=value" with a YAML value, as with --set.
    Raises UsageError (exit 2) for anything wrong with it, InputError (exit 3) where the file cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw_bytes = file.read(MAX_RECIPE_BYTES + 1)
        if len(raw_bytes) > MAX_RECIPE_BYTES:
            raise UsageError(f"recipe {path} is larger than {MAX_RECIPE_BYTES // 1024} KiB", "Is it a recipe?")
        content = raw_bytes.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"recipe {path} is not UTF-8 text (byte {error.start})") from None
    except FileNotFoundError:
        raise UsageError(f"no recipe at {path}", "Recipes that come with compress are in recipes/.") from None
    except OSError as error:
        raise InputError(f"cannot read recipe {path}: {error.strerror}") from None
    raw = parse_yaml(content, str(path))
    if not isinstance(raw, dict):
        raise UsageError(f"recipe {path} is not a mapping of sections", f"Sections: {', '.join(Recipe.model_fields)}.")
    for override in overrides:
        apply_override(raw, override)
    if method is not None:
        assign(raw, ["supervision", "method"], method, "--method")
    return validate_recipe(raw, source=str(path))


def validate_recipe(raw: Mapping[str, Any], *, source: str = "recipe") -> Recipe:
    """A Recipe from plain data. Raises UsageError with the first wrong key, and how many more there are."""
    if is_deep(raw):
        raise UsageError(f"{source}: nested more than {MAX_DEPTH} levels deep")
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=True)
        message, hint = _explain(problems[0])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UsageError(f"{source}: {message}{more}", hint) from None


def changed_keys(old: Recipe, new: Recipe) -> list[str]:
    """Dotted keys whose values differ."""
    flat_old, flat_new = _flatten(old.dump()), _flatten(new.dump())
    return sorted(key for key in flat_old.keys() | flat_new.keys() if flat_old.get(key) != flat_new.get(key))


def recipe_yaml(recipe: Recipe) -> str:
    return yaml.safe_dump(recipe.dump(), sort_keys=False, allow_unicode=True)


def recipe_schema() -> dict[str, Any]:
    """The JSON schema, with which editors complete and check keys."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def _explain(problem: Any) -> tuple[str, str]:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(part for part in location if part not in TERMS)  # pydantic adds the name of a term to its place
    if problem["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(known)}."
        return f"unknown key {key}", hint
    if problem["type"] == "missing":
        return f"{key} is missing", ""
    text = problem["msg"].removeprefix("Value error, ")
    text = text[0].lower() + text[1:]
    if not key or (problem["type"] == "value_error" and (key in text or repr(problem["input"]) in text)):
        return text, ""
    return f"{key}: {text}, got {_shorten(problem['input'])}", ""


def _keys_at(location: list[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in location:
        if part == "terms" or part.isdecimal():
            continue
        if part in TERMS:
            model = TERMS[part]
            continue
        field = model.model_fields.get(part)
        kind = field.annotation if field is not None else None
        while get_origin(kind) in (list, Annotated):
            kind = get_args(kind)[0]
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        model = kind
    return list(model.model_fields)


def _shorten(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
