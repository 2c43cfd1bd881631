"""Why a method gains or loses: what its targets teach, and which training images get its gradient.

    python tools/study/gradients.py runs/labels/wrong-kd-s0 runs/labels/wrong-kd-s1

In: finished runs, best of `kd`, so that every method is judged at the same student. Out: two tables in Markdown, means
over the runs. Images are grouped by whether their label is the true one (`data.label_noise` makes wrong ones), and by
what the teacher says. Beside the methods stand mends of them that were tried (ours), and that no recipe has.

Each method has its default alpha, `scale: sample`, and the temperature of the run's recipe. Runs with mixed pictures,
pictures without labels or kept logits are not for this tool.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import click
import torch
import torch.nn.functional as F
from measure import Seen, data_of, teacher_of, temperature
from torch import Tensor

from compress.cli.main import run_command
from compress.losses import adjust_targets
from compress.losses.objective import distillation_settings
from compress.models.inference import for_inference
from compress.recipe import Supervision
from compress.runs.folder import Run
from compress.runs.student import load_student
from compress.system.interrupts import Flag
from compress.system.modules import evaluating
from compress.system.seeds import stream
from compress.training.batches import Batches

PLAUSIBLE, UNSURE = 0.05, 0.5
GROUPS = (
    "label and teacher right",
    "label right, teacher wrong",
    "label wrong, teacher right",
    "label wrong, teacher says it",
    "label wrong, teacher says a third class",
)


@dataclass(frozen=True)
class Answers:
    """A batch: logits [B, C] of student and teacher, the labels [B] that were trained on, and the true ones [B]."""

    student: Tensor
    teacher: Tensor
    labels: Tensor
    truth: Tensor

    def groups(self) -> Tensor:
        """[B], the number of each image's group in GROUPS."""
        says = self.teacher.argmax(dim=1)
        wrong = torch.where(says == self.truth, 2, torch.where(says == self.labels, 3, 4))
        return torch.where(self.labels == self.truth, (says != self.truth).long(), wrong)


@dataclass(frozen=True)
class Lesson:
    """What a method teaches: targets [B, C] at temperatures [B], with the share alpha beside the labels."""

    targets: Tensor
    temperature: Tensor
    alpha: float

    def gradient(self, batch: Answers) -> Tensor:
        """[B, C], of each image's loss T^2 * alpha * KL + (1 - alpha) * CE with respect to the student's logits."""
        each = self.temperature.unsqueeze(1)
        soft = each * (F.softmax(batch.student / each, dim=1) - self.targets)
        return self.alpha * soft + (1 - self.alpha) * _of_cross_entropy(batch.student, batch.labels)


Method = Callable[[Answers], Lesson]


def methods(supervision: Supervision) -> dict[str, Method]:
    """Every method, with the temperature and the options of DTD of that recipe, and the mends."""

    def of(name: str, alpha: float | None = None) -> Method:
        settings = distillation_settings(
            supervision.model_copy(update={"method": name, "alpha": alpha, "scale": "sample"})
        )
        assert settings is not None

        def lesson(batch: Answers) -> Lesson:
            each = temperature(settings, batch.student, batch.teacher)
            targets = adjust_targets(
                batch.teacher, batch.labels, kind=settings.adjust, temperature=each, epsilon=settings.epsilon
            )
            return Lesson(targets, each, settings.alpha)

        return lesson

    def swapped_where(chosen: Callable[[Answers], Tensor]) -> Method:
        """KA leaves rows without a label as they are."""
        return lambda batch: of("ka-ps")(replace(batch, labels=batch.labels.where(chosen(batch), -1)))

    def half(batch: Answers) -> Lesson:
        swapped, plain = of("ka-ps")(batch), of("kd")(batch)
        return replace(swapped, targets=(swapped.targets + plain.targets) / 2)

    def by_rank(batch: Answers) -> Lesson:
        """From 1.5 T_0 for the image whose logits agree best to 0.5 T_0: the batch's spread does not matter."""
        apart = 1 - F.cosine_similarity(batch.student, batch.teacher)
        rank = apart.argsort().argsort() / max(1, len(apart) - 1)
        each = supervision.temperature * (1.5 - rank)
        targets = adjust_targets(batch.teacher, batch.labels, kind="none", temperature=each)
        return replace(of("kd")(batch), targets=targets, temperature=each)

    return {
        "`kd`": of("kd"),
        "`kd`, alpha 1": of("kd", 1.0),
        **{f"`{name}`": of(name) for name in ("ka-ps", "ka-lsr", "dtd-flsw", "dtd-cwsm", "ka-ps+dtd-flsw")},
        f"mend: `ka-ps` where the teacher gives the label {PLAUSIBLE:g} or more": swapped_where(
            lambda batch: _probability(batch.teacher, batch.labels) >= PLAUSIBLE
        ),
        f"mend: `ka-ps` where the teacher's top class has less than {UNSURE:g}": swapped_where(
            lambda batch: F.softmax(batch.teacher, dim=1).amax(dim=1) < UNSURE
        ),
        "mend: the mean of the rows of `kd` and `ka-ps`": half,
        "mend: `dtd-flsw` by rank": by_rank,
    }


def answers(run: Run, device: torch.device) -> Iterator[Answers]:
    """The batches of the last epoch, as the student of the run saw them, by the finished student in eval mode."""
    recipe = run.recipe
    seen = Seen.by_student(run)
    clean = recipe.data.model_copy(update={"label_noise": 0.0})
    true = data_of(replace(seen, settings=clean.model_dump_json()), device)[0].train_labels
    truth = torch.from_numpy(true).to(device)
    dataset, splits = data_of(seen, device)
    labels = torch.from_numpy(dataset.train_labels).to(device)
    teacher = teacher_of(seen, run.teacher, device)
    student = load_student(run).to(device)
    batches = Batches(
        replace(splits.train, labels=torch.arange(len(labels), device=device)),  # which image is which
        recipe.data.augment,
        batch_size=recipe.train.batch_size,
        seed=stream(recipe.train.seed, "student"),
        teacher=for_inference(teacher, splits.train.normalized(slice(0, 8)), precision=torch.float32),
    )
    with evaluating(student), torch.inference_mode():
        for step in range(batches.steps_per_epoch):
            batch = batches.get(recipe.training.epochs - 1, step, Flag())
            assert batch.teacher_logits is not None
            yield Answers(student(batch.images), batch.teacher_logits, labels[batch.labels], truth[batch.labels])


@dataclass
class Found:
    """Of a method, means over all images. gradient: its norm, by group. right: of the targets' top classes.

    probability: of the true class in the targets. pull: the part of the gradient that points towards the true class.
    """

    gradient: Tensor
    right: float
    probability: float
    pull: float


def examine(run: Run, device: torch.device) -> tuple[Tensor, dict[str, Found]]:
    """The images of each group, and what was found of each method."""
    images, sums = torch.zeros(len(GROUPS)), {}
    for batch in answers(run, device):
        group = batch.groups().cpu()
        images += torch.bincount(group, minlength=len(GROUPS))
        uphill = -F.normalize(_of_cross_entropy(batch.student, batch.truth), dim=1)
        for name, method in methods(run.recipe.supervision).items():
            lesson = method(batch)
            gradient = lesson.gradient(batch)
            found = sums.setdefault(name, Found(torch.zeros(len(GROUPS)), 0.0, 0.0, 0.0))
            found.gradient.index_add_(0, group, gradient.norm(dim=1).cpu())
            found.right += float((lesson.targets.argmax(dim=1) == batch.truth).sum())
            found.probability += float(lesson.targets.gather(1, batch.truth.unsqueeze(1)).sum())
            found.pull += float((-gradient * uphill).sum())
    total = float(images.sum())
    return images / total, {
        name: Found(each.gradient / total, each.right / total, each.probability / total, each.pull / total)
        for name, each in sums.items()
    }


def table(examined: list[tuple[Tensor, dict[str, Found]]]) -> str:
    """Two tables, means over the runs."""
    kept = [number for number in range(len(GROUPS)) if any(images[number] for images, _ in examined)]
    head = ["", *(GROUPS[number] for number in kept)]
    rows = [["images", *(f"{mean(float(images[number]) for images, _ in examined):.1%}" for number in kept)]]
    taught = [["", "targets right", "probability of the true class", "norm of the gradient", "of it towards the truth"]]
    for name in examined[0][1]:
        each = [found[name] for _, found in examined]
        rows.append(
            [
                name,
                *(f"{mean(float(one.gradient[number] / one.gradient.sum()) for one in each):.1%}" for number in kept),
            ]
        )
        whole = mean(float(one.gradient.sum()) for one in each)
        pull = mean(one.pull / float(one.gradient.sum()) for one in each)
        right, probability = mean(one.right for one in each), mean(one.probability for one in each)
        taught.append([name, f"{right:.1%}", f"{probability:.2f}", f"{whole:.2f}", f"{pull:+.1%}"])
    lines = [_lines([head, *rows]), _lines(taught)]
    return "\n\n".join(lines)


def _lines(rows: list[list[str]]) -> str:
    ruled = [rows[0], ["---", *itertools.repeat("---:", len(rows[0]) - 1)], *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def _of_cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    return F.softmax(student, dim=1) - F.one_hot(labels, student.shape[1])


def _probability(logits: Tensor, labels: Tensor) -> Tensor:
    return F.softmax(logits, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)


@click.command(help=__doc__)
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(runs: tuple[Path, ...]) -> None:
    click.echo(table([examine(Run(path), torch.device("cpu")) for path in runs]))


if __name__ == "__main__":
    run_command(main, "gradients.py")
