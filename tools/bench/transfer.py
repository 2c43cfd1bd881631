"""`compress distill` beside timm's train.py: images a second and accuracy of a student on the same photos.

The student is fine-tuned from published weights, with a teacher.

Both start as commands, take turns in rounds, and train the same student from the same file with the same teacher, image
size, batch size, epochs, AdamW, cosine schedule and augmentation (random resized crops and flips). The round is the
seed. Images a second are those that each program says of its own training, without evaluation; the data loading of
train.py is part of its steps, the decoding of compress is done before. The teacher is fine-tuned first, by compress.

    python tools/bench/transfer.py --timm ../pytorch-image-models --photos ~/photos --teacher FOLDER --student FOLDER
"""

import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from harness import json_option, rounds_option, run, show, spread

from compress.recipe import Recipe, load_recipe
from compress.runs.folder import Run
from compress.system.errors import MachineError
from compress.training.metrics import read_metrics

_RATE = re.compile(r"Train: (\d+) \[.*?\(\s*[\d.]+s,\s*([\d.]+)/s\)")
TOP1, RATE = "top1", "images_per_s"


def compress(recipe: str, overrides: list[str], out: Path) -> Run:
    options = [part for override in overrides for part in ("--set", override)]
    subprocess.run(
        [sys.executable, "-m", "compress", "distill", recipe, *options, "--out", str(out)],
        check=True,
        stderr=2,
        stdout=2,
    )
    return Run(out)


def ours(run_: Run) -> dict[str, float]:
    lines = [line for line in read_metrics(run_.metrics) if line["phase"] == "student"]
    top1 = run_.result.student_top1
    return {RATE: statistics.median(line[RATE] for line in lines), TOP1: top1}


def linked(photos: Path, folder: Path) -> Path:
    """The photos as train.py finds them: it knows files by three suffixes, whatever is inside."""
    for path in photos.rglob("*"):
        if path.is_file():
            link = (folder / path.relative_to(photos)).with_suffix(".jpg")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return folder


def timms(timm: Path, recipe: Recipe, photos: Path, teacher: Path, student: Path, seed: int, workers: int) -> Any:
    """What train.py says of itself: the mean rate of each epoch, and the top-1 of the last one."""
    settings, supervision, size = recipe.training, recipe.supervision, recipe.data.image_size
    alpha = 0.9 if supervision.alpha is None else supervision.alpha
    options: dict[str, Any] = {
        "data-dir": photos,
        "model": recipe.student.model,
        "pretrained-path": student / "model.safetensors",
        "num-classes": len(list((photos / "train").iterdir())),
        "kd-model-name": f"local-dir:{teacher}",
        "kd-temperature": supervision.temperature,
        "distill-loss-weight": alpha,
        "task-loss-weight": round(1 - alpha, 6),
        "epochs": settings.epochs,
        "batch-size": settings.batch_size,
        "opt": settings.optimizer,
        "lr": settings.lr,
        "weight-decay": settings.weight_decay,
        "sched": settings.schedule,
        "warmup-epochs": 0,
        "smoothing": settings.label_smoothing,
        "img-size": size,
        "hflip": 0.5,
        "color-jitter": 0,
        "train-interpolation": "bicubic",
        "seed": seed,
        "workers": workers,
        "device": "cpu",
        "log-interval": 1,
    }
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        command = [sys.executable, str(timm / "train.py"), *arguments, "--pretrained", "--sched-on-updates"]
        command += ["--scale", str(recipe.data.augment.scale), "1.0", "--channels-last", "--output", scratch]
        environment = {**os.environ, "PYTHONPATH": str(timm)}
        done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise MachineError(f"train.py ended with {done.returncode}", done.stderr.strip().splitlines()[-1])
        rates = dict(_RATE.findall(done.stdout + done.stderr))  # the last line of each epoch
        (summary,) = Path(scratch).rglob("summary.csv")
        with summary.open(newline="", encoding="utf-8") as file:
            last = list(csv.DictReader(file))[-1]
    return {RATE: statistics.median(map(float, rates.values())), TOP1: float(last["eval_top1"]) / 100}


@click.command()
@click.option("--timm", type=click.Path(path_type=Path, exists=True), required=True, help="A checkout of timm.")
@click.option(
    "--photos", type=click.Path(path_type=Path, exists=True), required=True, help="train/CLASS, validation/CLASS."
)
@click.option("--teacher", type=click.Path(path_type=Path, exists=True), required=True, help="Its published weights.")
@click.option("--student", type=click.Path(path_type=Path, exists=True), required=True, help="Its published weights.")
@click.option("--recipe", default="photos_lite2_to_lite0", show_default=True)
@click.option("--epochs", type=click.IntRange(1), help="Default: the recipe's.")
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Of train.py's data loader.")
@rounds_option(3)
@json_option
def main(
    timm: Path,
    photos: Path,
    teacher: Path,
    student: Path,
    recipe: str,
    epochs: int | None,
    workers: int,
    rounds: int,
    as_json: bool,
) -> None:
    overrides = [
        f"data.root={json.dumps(str(photos.resolve()))}",
        f"teacher.weights={json.dumps(str(teacher.resolve()))}",
        f"student.pretrained={json.dumps(str(student.resolve()))}",
        "train.warmup_epochs=0",
        *([] if epochs is None else [f"train.epochs={epochs}"]),
    ]
    loaded = load_recipe(recipe, method="kd", overrides=overrides)
    overrides.append(f"teacher.epochs={loaded.training.epochs}")
    found: dict[str, list[dict[str, float]]] = {"compress": [], "train.py": []}
    folder = Path(tempfile.mkdtemp(prefix="transfer-"))
    os.environ["COMPRESS_RUNS"] = str(folder / "runs")
    try:
        seen_by_timm = linked(photos.resolve(), folder / "photos")
        first = compress(recipe, [*overrides, "supervision.method=ce", "train.epochs=1"], folder / "teacher")
        for number in range(rounds):
            turns = ["compress", "train.py"] if number % 2 else ["train.py", "compress"]
            for name in turns:
                if name == "compress":
                    with_seed = [*overrides, "supervision.method=kd", f"train.seed={number}"]
                    found[name].append(ours(compress(recipe, with_seed, folder / f"ours-{number}")))
                else:
                    kept = first.teacher.resolve()
                    found[name].append(
                        timms(timm.resolve(), loaded, seen_by_timm, kept, student.resolve(), number, workers)
                    )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rates = [a[RATE] / b[RATE] for a, b in zip(found["compress"], found["train.py"], strict=True)]
    result = {
        **spread("speed_ratio", rates),
        **{
            f"{name} {key}": [round(one[key], 4) for one in each]
            for name, each in found.items()
            for key in (RATE, TOP1)
        },
        "setting": {"recipe": recipe, "epochs": loaded.training.epochs, "rounds": rounds, "workers": workers},
    }
    show(result, as_json=as_json)


if __name__ == "__main__":
    run(main)
