"""What people should know of their pictures, from what was seen of each.

In: what was seen of all pictures. Out: findings, the worst first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.data.bad_images import too_many

Level = Literal["stops", "warns", "notes"]
FEW_TO_TRAIN = 20
FEW_TO_EVALUATE = 5
UNEQUAL = 3.0
"""Times as many pictures in the largest class as in the smallest from which accuracy alone misleads (ours)."""


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        kind: for programs.
        level: stops: no training starts. warns: results would mislead. notes: it is handled, and said.
        what: for people.
        count: of pictures, groups or classes.
        files: of the pictures, all of them.
        do: what to do about it.
        groups: for copies, the pictures of each group.
    """

    kind: str
    level: Level
    what: str
    count: int
    files: list[str]
    do: str
    groups: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Seen:
    """What was seen of both splits.

    Attributes:
        facts: `compress.data.inspection.FACTS` [N].
        problems: why, by the row of each picture that cannot be read.
        names: of the pictures.
        labels: int64 [N].
        train_images: number of those to train on, which come first.
        groups: int64 [N], the smallest row of the copies of each picture.
        image_size: of the recipe, in pixels a side.
        skip: whether a training leaves out what cannot be read.
    """

    facts: NDArray[Any]
    problems: dict[int, str]
    names: list[str]
    labels: NDArray[np.int64]
    train_images: int
    class_names: list[str]
    groups: NDArray[np.int64]
    image_size: int
    skip: bool

    @property
    def readable(self) -> NDArray[np.bool_]:
        return self.facts["readable"]

    @property
    def train(self) -> NDArray[np.bool_]:
        """Which rows are to train on."""
        return np.arange(len(self.facts)) < self.train_images

    @property
    def evaluation(self) -> NDArray[np.bool_]:
        """Which rows are to evaluate on."""
        return ~self.train

    def counts(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Pictures of each class among the chosen rows."""
        return np.bincount(self.labels[chosen], minlength=len(self.class_names))

    def files(self, chosen: NDArray[np.bool_]) -> list[str]:
        return [self.names[row] for row in np.flatnonzero(chosen)]


def of(seen: Seen) -> list[Finding]:
    """All findings, the worst first."""
    return ordered([finding for kind in (_splits, _unreadable, _copies, _classes, _pictures) for finding in kind(seen)])


def ordered(found: list[Finding]) -> list[Finding]:
    """The worst first."""
    order = ("stops", "warns", "notes")
    return sorted(found, key=lambda finding: order.index(finding.level))


def _splits(seen: Seen) -> Iterator[Finding]:
    if not seen.evaluation.any():
        what = "there is no val, valid or test folder"
        yield Finding("no evaluation split", "stops", what, 1, [], "Add one, or set data.holdout to keep back a part.")
    if len(seen.class_names) < 2:
        what = "there is one class, and nothing to tell apart"
        yield Finding("one class", "stops", what, 1, [], "Add a folder for another class.")
    if not seen.train.any():
        yield Finding("nothing to train on", "stops", "all pictures are held out", 1, [], "Lower data.holdout.")


def _unreadable(seen: Seen) -> Iterator[Finding]:
    if not seen.problems:
        return
    files = [f"{seen.names[row]}: {problem}" for row, problem in sorted(seen.problems.items())]
    do, level = "Replace or remove them, or set data.on_bad_image: skip.", "stops"
    if seen.skip and not too_many(len(files), len(seen.names)):
        do, level = "They are left out.", "warns"
    yield Finding("unreadable", level, "pictures that cannot be read", len(files), files, do)


def _copies(seen: Seen) -> Iterator[Finding]:
    rows, leaks, classes, within = _members(seen), [], [], []
    for members in rows:
        leak = members[0] < seen.train_images <= members[-1]
        mixed = len(set(seen.labels[members].tolist())) > 1
        if leak:
            leaks.append(members)
        if mixed:
            classes.append(members)
        if not leak and not mixed:
            within.append(members)
    leaked = sum(int(seen.evaluation[members].sum()) for members in leaks)
    share = leaked / max(1, int(seen.evaluation.sum()))
    kinds: tuple[tuple[str, Level, list[NDArray[np.int64]], str, str], ...] = (
        (
            *("leak", "warns", leaks),
            f"pictures in both splits: {leaked:,} to evaluate on ({share:.1%}) are trained on, so accuracy is too high",
            "Remove them from the training folder.",
        ),
        ("two classes", "warns", classes, "pictures that are in two classes", "Keep each in the right class."),
        (
            *("copies", "notes", within, "pictures that are there more than once in a split"),
            "Remove the copies: they count more than others.",
        ),
    )
    for kind, level, groups, what, do in kinds:
        if groups:
            named = [[seen.names[row] for row in members] for members in groups]
            exact = sum(len(set(seen.facts["content"][members].tolist())) == 1 for members in groups)
            how = f"{exact:,} byte for byte" if exact else "none byte for byte"
            files = [name for group in named for name in group]
            yield Finding(kind, level, f"{what} ({how})", len(groups), files, do, named)


def _members(seen: Seen) -> list[NDArray[np.int64]]:
    """The rows of each group of copies."""
    order = np.argsort(seen.groups, kind="stable")
    starts = np.flatnonzero(np.diff(seen.groups[order])) + 1
    return [members for members in np.split(order, starts) if len(members) > 1]


def _classes(seen: Seen) -> Iterator[Finding]:
    usable = seen.readable
    train, evaluation = seen.counts(seen.train & usable), seen.counts(seen.evaluation & usable)

    def named(chosen: NDArray[np.bool_], counts: NDArray[np.int64]) -> list[str]:
        return [f"{seen.class_names[row]}: {counts[row]:,}" for row in np.flatnonzero(chosen)]

    kinds: list[tuple[str, NDArray[np.bool_], NDArray[np.int64], str, str]] = [
        (
            *("untrained class", train == 0, train, "classes without a picture to train on"),
            "Add pictures, lower data.holdout, or remove the class.",
        ),
        (
            *("few to train on", (train > 0) & (train < FEW_TO_TRAIN), train),
            *(
                f"classes with fewer than {FEW_TO_TRAIN} pictures to train on",
                "Add pictures, or expect little of them.",
            ),
        ),
    ]
    if seen.evaluation.any():
        kinds += [
            (
                *("unevaluated class", evaluation == 0, evaluation, "classes without a picture to evaluate on"),
                "Add some: nothing will be known of these classes.",
            ),
            (
                *("few to evaluate on", (evaluation > 0) & (evaluation < FEW_TO_EVALUATE), evaluation),
                f"classes with fewer than {FEW_TO_EVALUATE} pictures to evaluate on",
                "Add some: their accuracy is a guess.",
            ),
        ]
    for split, count, use in ((seen.train, train, "to train on"), (seen.evaluation, evaluation, "to evaluate on")):
        empty = (count > 0) & (seen.counts(split & usable & ~seen.facts["constant"]) == 0)
        what = f"classes whose pictures {use} are all of a single colour"
        kinds.append(("nothing seen", empty, count, what, "Look at them: decoding may have lost what they show."))
    for kind, chosen, counts, what, do in kinds:
        if chosen.any():
            yield Finding(kind, "warns", what, int(chosen.sum()), named(chosen, counts), do)
    if train.any() and (ratio := train.max() / max(1, train.min())) >= UNEQUAL:
        ends = [seen.class_names[row] for row in (train.argmax(), train.argmin())]
        what = f"unequal classes: {ends[0]} has {ratio:.1f} times the pictures of {ends[1]}"
        do = "Judge by balanced accuracy, and try train.class_weights: auto."
        yield Finding("unequal classes", "warns", what, len(train), named(train >= 0, train), do)


def _pictures(seen: Seen) -> Iterator[Finding]:
    facts, modes = seen.facts, seen.facts["mode"]
    shorter = np.minimum(facts["width"], facts["height"])
    deep = np.char.startswith(modes, "I") | (modes == "F")
    kinds: tuple[tuple[str, Level, NDArray[np.bool_], str, str], ...] = (
        (
            *("one colour", "warns", facts["constant"]),
            *("pictures of a single colour", "Look at them: they show nothing."),
        ),
        (
            *("small", "notes", shorter < seen.image_size),
            f"pictures with a side below data.image_size, {seen.image_size}",
            "They are enlarged. Lower data.image_size if most are small.",
        ),
        (
            *("several frames", "notes", facts["frames"], "pictures with several frames or pages"),
            "The first one is used.",
        ),
        ("CMYK", "notes", modes == "CMYK", "pictures in CMYK", "They are converted to RGB without a colour profile."),
        (
            *("deep", "notes", deep, "pictures with more than 8 bits a channel"),
            "They become 8 bits. Check that they are not too dark.",
        ),
        (
            *("transparent", "notes", facts["transparent"], "pictures with transparent parts"),
            "Check what these parts become: `--preview FILE.png` shows it.",
        ),
        ("grey", "notes", np.isin(modes, ("1", "L", "LA")), "grey pictures", "They become RGB."),
        ("turned", "notes", facts["turned"], "pictures that EXIF turns", "They are turned as people see them."),
    )
    for kind, level, chosen, what, do in kinds:
        chosen = chosen & seen.readable
        mostly = kind == "grey" and chosen.sum() > seen.readable.sum() / 2  # a data set that is grey is not odd
        if chosen.any() and not mostly:
            yield Finding(kind, level, what, int(chosen.sum()), seen.files(chosen), do)
