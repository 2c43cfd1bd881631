"""Everything in a data set that would stop a training or spoil it, found before one starts.

In: a recipe's data section. Out: a Report of findings, each with its pictures and what to do.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data import findings
from compress.data.copies import copies
from compress.data.findings import Finding, Seen
from compress.data.inspection import inspect
from compress.data.sources import LAYOUTS, Source, Split, data_folder, every_nth
from compress.recipe import Data
from compress.system.errors import InputError

Progress = Callable[[int, int], None]
"""Is called with the number of pictures that are done, and with that of all."""


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        train_images: to train on.
        eval_images: to evaluate on.
        eval_split: its name, for people.
        classes: by name, the number of pictures to train on and to evaluate on.
        sizes: min, median and max of width and height, in pixels.
        findings: the worst first.
    """

    train_images: int
    eval_images: int
    eval_split: str
    classes: dict[str, tuple[int, int]]
    sizes: dict[str, tuple[int, int]]
    findings: list[Finding]

    @property
    def stops(self) -> list[Finding]:
        """What would stop a training."""
        return [finding for finding in self.findings if finding.level == "stops"]

    def dump(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        return {**asdict(self), "stops": bool(self.stops)}


def check_data(settings: Data, progress: Progress = lambda done, total: None) -> Report:
    """Looks at every picture of the data set.

    Args:
        settings: the recipe's.
        progress: shows how far it is.
    """
    try:
        source = read_source(settings)
    except InputError as error:
        return Report(0, 0, "", {}, {}, [Finding("unlisted", "stops", error.message, 1, [], error.hint)])
    seen = _look(source, settings, progress)
    folders = [
        Finding("folders", "warns", text, 1, [], "Change the folder if that is not as you mean it.")
        for text in source.warnings
    ]
    classes = {
        name: (train, evaluation)
        for name, train, evaluation in zip(
            source.class_names, seen.counts(seen.train).tolist(), seen.counts(seen.evaluation).tolist(), strict=True
        )
    }
    return Report(
        train_images=int(seen.train.sum()),
        eval_images=int(seen.evaluation.sum()),
        eval_split=source.evaluation_name,
        classes=classes,
        sizes=_sizes(seen),
        findings=findings.ordered([*findings.of(seen), *folders]),
    )


def read_source(settings: Data) -> Source:
    """The pictures of both splits as training and evaluation get them.

    Raises:
        InputError: the data set is missing, or is not in its layout.
    """
    source = LAYOUTS[settings.name].read(data_folder(settings), settings)
    if not settings.holdout:
        return source
    held = every_nth(np.asarray(source.train.labels), 1 / settings.holdout)
    name = f"{settings.holdout:g} of train, held out"
    return replace(
        source, train=_chosen(source.train, ~held), evaluation=_chosen(source.train, held), evaluation_name=name
    )


def _chosen(split: Split, rows: NDArray[np.bool_]) -> Split:
    chosen = np.flatnonzero(rows).tolist()
    images = [split.images[row] for row in chosen] if isinstance(split.images, list) else split.images[chosen]
    return Split(images, [split.labels[row] for row in chosen])


def _look(source: Source, settings: Data, progress: Progress) -> Seen:
    """What there is to see of both splits. Those to train on come first."""
    splits = [source.train] + ([source.evaluation] if source.evaluation else [])
    total = sum(len(split.labels) for split in splits)
    looked, names, problems, done = [], [], {}, 0
    for split, kind in zip(splits, ("train", "evaluation"), strict=False):
        before = done
        inspected = inspect(split.images, lambda now, before=before: progress(before + now, total))
        looked.append(inspected.facts)
        problems |= {before + row: problem for row, problem in inspected.problems.items()}
        files = split.images if isinstance(split.images, list) else None
        names += files or [f"{kind}[{row}]" for row in range(len(split.labels))]
        done += len(split.labels)
    facts = np.concatenate(looked)
    return Seen(
        facts=facts,
        problems=problems,
        names=names,
        labels=np.concatenate([np.asarray(split.labels, dtype=np.int64) for split in splits]),
        train_images=len(source.train.labels),
        class_names=source.class_names,
        groups=copies(facts),
        image_size=settings.image_size or LAYOUTS[settings.name].image_size,
        skip=settings.on_bad_image == "skip",
    )


def _sizes(seen: Seen) -> dict[str, tuple[int, int]]:
    sides = np.stack([seen.facts[key][seen.readable] for key in ("width", "height")], axis=1)
    if not len(sides):
        return {}
    found = {"min": sides.min(axis=0), "median": np.median(sides, axis=0), "max": sides.max(axis=0)}
    return {name: (int(size[0]), int(size[1])) for name, size in found.items()}
