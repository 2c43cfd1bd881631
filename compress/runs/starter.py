"""`compress init`: a commented recipe for a folder of pictures.

In: the folder, and the models that someone chose. Out: YAML text, in which every choice has its reason.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.findings import FEW_TO_EVALUATE, UNEQUAL
from compress.data.sources import every_nth, read_folder
from compress.data.split_checks import sizes_of_some
from compress.recipe import Data
from compress.system.errors import InputError
from compress.system.paths import user_path

HOLDOUT = 0.2
SIZES = (224, 192, 160, 128, 96, 64, 32)
MOST_ON_CPU = 160
SEEN = 30_000
"""Pictures that a training sees in all, within the limits of epochs."""
FEWEST_EPOCHS, MOST_EPOCHS = 3, 30
_NAMED = 8


@dataclass(frozen=True)
class Folder:
    """What is in a folder of pictures.

    Attributes:
        root: its absolute path.
        train: pictures to train on, by class. Those that are held out do not count.
        evaluation: pictures to evaluate on, by class.
        split: the folder to evaluate on. None where pictures are held out of those to train on.
        median: width and height of the median picture.
        warnings: of how the folder was read, a sentence each.
    """

    root: str
    train: dict[str, int]
    evaluation: dict[str, int]
    split: str | None
    median: tuple[int, int]
    warnings: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """To train on."""
        return sum(self.train.values())

    @property
    def imbalance(self) -> float:
        """Pictures of the largest class for each of the smallest."""
        return max(self.train.values()) / min(self.train.values())


@dataclass(frozen=True)
class Models:
    """The models of a recipe, each with the reason for it.

    Attributes:
        teacher_train: settings of the teacher's own training.
        formats: what `compress export` makes, and precisions of it, so that what the student was chosen for is there.
    """

    student: str
    student_why: str
    teacher: str
    teacher_why: str
    teacher_train: Mapping[str, Any] = field(default_factory=dict)
    formats: Sequence[str] = ("onnx",)
    formats_why: str = "for ONNX Runtime"
    precisions: Sequence[str] = ("fp32",)
    precisions_why: str = "the verdict takes the fastest that keeps within its limits"


def look_at(folder: Path) -> Folder:
    """Lists the pictures of a folder, and opens some for their size.

    Raises:
        InputError: it holds no pictures in class folders, or those of one class alone, or none that can be read; a
            class has none to train on; or it is not plain which folders are splits.
    """
    root = Path(os.path.abspath(user_path(folder)))
    if not root.is_dir():
        raise InputError(f"{folder} is no folder", "Give the folder that holds train/CLASS/*.jpg, or CLASS/*.jpg.")
    source = read_folder(root, Data(name="folder", root=str(root), image_size=SIZES[0], holdout=HOLDOUT))
    names = source.class_names
    if len(names) < 2:
        raise InputError(f"{root} has one class, {names[0]!r}", "A classifier needs two: CLASS/*.jpg for each.")
    labels = np.asarray(source.train.labels)
    held = np.zeros(len(labels), dtype=bool)
    if source.evaluation is None:
        held = every_nth(labels, 1 / HOLDOUT)
    judged = labels[held] if source.evaluation is None else np.asarray(source.evaluation.labels)
    train = _counts(labels[~held], names)
    if empty := [name for name, count in train.items() if not count]:
        more = f" ({len(empty):,} such classes)" if len(empty) > 1 else ""
        rest = "" if source.evaluation else f" once {HOLDOUT:.0%} of each class are held out to evaluate on"
        needed = "one to train on" if source.evaluation else "two"
        raise InputError(
            f"{root} has no picture of class {empty[0]!r} to train on{rest}{more}",
            f"A class needs {needed} at least: add some, or remove its folder.",
        )
    assert isinstance(source.train.images, list)
    return Folder(
        root=str(root),
        train=train,
        evaluation=_counts(judged, names),
        split=source.evaluation_name or None,
        median=_median_size(root, source.train.images),
        warnings=source.warnings,
    )


def image_size_for(found: Folder, *, gpu: bool) -> int:
    """The largest of SIZES that the median picture has, up to 224, or without a GPU up to 160."""
    most = min(*found.median, SIZES[0] if gpu else MOST_ON_CPU)
    return next((size for size in SIZES if size <= most), SIZES[-1])


def concerns(found: Folder) -> list[str]:
    """What a user should know before training on it, a sentence each."""
    few = [name for name, count in found.evaluation.items() if count < FEW_TO_EVALUATE]
    if not few:
        return [*found.warnings]
    return [
        *found.warnings,
        f"{len(few)} classes have fewer than {FEW_TO_EVALUATE} pictures to evaluate on, such as {few[0]!r}",
    ]


def starter_recipe(
    found: Folder, models: Models, *, image_size: int, p90_ms: float | None = None, gpu: bool = False
) -> str:
    """The recipe as YAML.

    Args:
        models: teacher and student.
        image_size: pixels a side.
        p90_ms: limit of the verdict; None for none.
        gpu: whether there is one to train on.
    """
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(SEEN / found.images)))
    batch = min(128 if gpu else 32, max(4, found.images // 4))
    order = sorted(found.train, key=lambda name: -found.train[name])
    shown = [f"{name} {found.train[name]:,}" for name in order[:_NAMED]]
    more = f", and {len(order) - _NAMED:,} more" if len(order) > _NAMED else ""
    width, height = found.median
    judged = sum(found.evaluation.values())
    lines = [
        "# compress data check recipe.yaml",
        "# compress distill recipe.yaml --out runs/first && compress export runs/first",
        "# compress benchmark runs/first && compress report runs/first",
        "#",
        f"# {found.images:,} pictures to train on, {judged:,} to evaluate on, {len(order)} classes.",
        f"# The median picture has {width} x {height} pixels.",
        f"# To train on, by class: {', '.join(shown)}{more}.",
        "data:",
        "  name: folder",
        f"  root: {json.dumps(found.root, ensure_ascii=False)}",
        *_entry(
            "image_size",
            image_size,
            f"of {', '.join(map(str, SIZES[::-1]))} the largest that the median picture has, up to "
            f"{SIZES[0] if gpu else MOST_ON_CPU}{'' if gpu else ' without a GPU'}",
        ),
    ]
    if found.split is None:
        lines += _entry("holdout", HOLDOUT, "a fifth of each class, since there is no folder such as val or test")
    lines += [
        "  augment: {scale: 0.35}  # random crops of at least 35 % of a picture, half of them mirrored",
        "teacher:",
        *_entry("model", models.teacher, models.teacher_why),
        "  source: finetune  # from published weights, with a new last layer. No network? weights: FOLDER",
    ]
    if models.teacher_train:
        lines.append(f"  train: {{{', '.join(f'{key}: {value}' for key, value in models.teacher_train.items())}}}")
    lines += [
        "student:",
        *_entry("model", models.student, models.student_why),
        "  pretrained: true  # from published weights. No network? pretrained: FOLDER",
        "supervision:",
        "  method: kd  # plain distillation. Would labels alone do? compress sweep recipe.yaml --method ce --method kd",
        "train:",
        *_entry("epochs", epochs, f"{epochs * found.images:,} pictures seen; more may help, and costs time"),
        f"  batch_size: {batch}",
        *_entry("lr", *_learning_rate(models)),
    ]
    if found.imbalance >= UNEQUAL:
        why = f"all classes weigh the same: {order[0]} has {found.imbalance:.1f} times the pictures of {order[-1]}"
        lines += _entry("class_weights", "auto", why)
    lines.append("export:")
    lines += _entry("formats", f"[{', '.join(models.formats)}]", models.formats_why)
    lines += _entry("precisions", f"[{', '.join(models.precisions)}]", models.precisions_why)
    if p90_ms is not None:
        lines += ["benchmark:", *_entry("p90_ms", f"{p90_ms:g}", "the verdict's limit at batch 1")]
    return "\n".join(lines) + "\n"


def _learning_rate(models: Models) -> tuple[float, str]:
    """With the reason. That of EfficientNet-Lite is measured: recipes/results/transfer.md."""
    family = "tf_efficientnet_lite"
    own = models.teacher_train.get("lr")
    if models.student.startswith(family) and (own is not None or models.teacher.startswith(family)):
        return 0.001, "on photos it gained EfficientNet-Lite 1 to 4 points over the default, 5e-4"
    return 0.0005, "the default. Try 0.001, too: it gained EfficientNet-Lite 1 to 4 points on photos"


def _entry(key: str, value: object, why: str) -> list[str]:
    return [f"  {key}: {value}  # {why}"]


def _counts(labels: np.ndarray, names: list[str]) -> dict[str, int]:
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


def _median_size(root: Path, paths: list[str]) -> tuple[int, int]:
    """Of some pictures, evenly over all. Raises InputError where none can be read."""
    sizes = sizes_of_some(paths)
    if not sizes:
        raise InputError(
            f"none of the pictures of {root} that were looked at can be read, such as {paths[0]}",
            "Replace them by JPEG, PNG or WebP files.",
        )
    width, height = np.median(sizes, axis=0)
    return int(width), int(height)
