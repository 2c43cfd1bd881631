"""This loop beside those of RepDistiller, KD_Lib and torchdistill: images a second of whole epochs on the same work.

The user names a checkout of each peer (KD_Lib: or the folder that an installed package lies in); those that are not
named are reported as not run. The work is a recipe's teacher and student (timm modules, the same for all), batch size
and SGD, plain KD, and CIFAR-100's images with random crops and flips: the first of the real ones where $COMPRESS_DATA
holds them, else noise in the same files. All take turns in rounds; medians over rounds are compared. This loop reads
its cache of decoded images, the peers their data loaders (peer_loops.py); decoding into the cache, filling the
teacher's views and the first epoch of everyone are not timed. Weights are random: time does not depend on them.

    python tools/bench/peers.py --repdistiller ../RepDistiller --kd-lib ../KD_Lib --torchdistill ../torchdistill
    python tools/bench/peers.py --recipe recipes/cifar100_r34_to_r18.yaml --images 512 --json
"""

import functools
import hashlib
import os
import pickle
import statistics
import tempfile
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import torch
from harness import json_option, rounds_option, run, show, take_turns
from peer_loops import PEERS, Epoch, NotHere, Work, quiet
from torch import nn
from torchvision import datasets
from workload import run_whole_epoch, training

from compress import models
from compress.data import load_data, resolve_augment
from compress.data.augment import Images
from compress.data.sources import find, read_cifar100
from compress.data.splits import on_device
from compress.losses.objective import distillation_settings
from compress.recipe import Recipe, load_recipe
from compress.runs.precision import fast_precision
from compress.system.interrupts import Flag
from compress.training.evaluate import images_of_a_pass
from compress.training.teacher_cache import TeacherViews
from export.onnx.session import default_threads

Precision = Literal["bf16", "fp32"]
VIEWS = 2
CLASSES, SIZE = 100, 32
CPU = torch.device("cpu")


def write_cifar100(folder: Path, count: int) -> str:
    """`count` training images and 64 test images in CIFAR-100's files; says whose they are."""
    real = find("cifar100", None)
    generator = np.random.default_rng(0)
    if real is not None:
        source = read_cifar100(real)
        assert source.evaluation is not None
        splits = {"train": source.train, "test": source.evaluation}
        parts = {name: (np.asarray(split.images), split.labels) for name, split in splits.items()}
    else:
        parts = {
            name: (
                generator.integers(0, 256, (size, SIZE, SIZE, 3), dtype=np.uint8),
                generator.integers(0, CLASSES, size).tolist(),
            )
            for name, size in (("train", count), ("test", 64))
        }
    contents: dict[str, dict[str, Any]] = {"meta": {"fine_label_names": [f"class {n}" for n in range(CLASSES)]}}
    for name, (pixels, labels) in parts.items():
        size = count if name == "train" else 64
        rows = pixels[:size].transpose(0, 3, 1, 2).reshape(-1, 3 * SIZE * SIZE)
        contents[name] = {"data": np.ascontiguousarray(rows), "fine_labels": labels[:size]}
    folder.mkdir(parents=True)
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    datasets.CIFAR100.train_list = [["train", sums["train"]]]
    datasets.CIFAR100.test_list = [["test", sums["test"]]]
    datasets.CIFAR100.meta = {**datasets.CIFAR100.meta, "md5": sums["meta"]}
    return "real" if real is not None else "noise"


def our_epoch(recipe: Recipe, teacher: nn.Module, student: nn.Module, precision: Precision, *, cached: bool) -> Epoch:
    """run_epoch as `compress distill` runs it; cached: with the teacher's logits from its views."""
    settings = recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": precision})})
    images = on_device(load_data(recipe.data), CPU).train
    assert isinstance(images, Images)
    kept = {"samples": len(images.labels), "of_a_pass": images_of_a_pass(images.image_size**2)}
    views = TeacherViews(count=VIEWS, **kept, device=CPU, determined_by={"precision": precision})
    augment = resolve_augment(recipe.data)
    state = training(settings, images, teacher, student, augment, views=views if cached else None)
    if cached:
        for view in range(VIEWS):
            state.batches.get(view, 0, Flag())
    return lambda: run_whole_epoch(state)


def loops(recipe: Recipe, work: Work, paths: dict[str, Path | None]) -> tuple[dict[str, Epoch], dict[str, str]]:
    """Every loop that can be run, by name, and why the others cannot."""
    found: dict[str, Epoch] = {}
    absent: dict[str, str] = {}
    default = fast_precision(recipe.student, SIZE, CPU)
    for precision in dict.fromkeys(("fp32", default)):
        for cached in (False, True):
            name = f"compress, {precision}{', cached teacher' if cached else ''}"
            found[name] = our_epoch(recipe, work.teacher(), work.student(), precision, cached=cached)
    for name, make in PEERS.items():
        path = paths[name]
        if path is None:
            absent[name] = f"not named: --{name.lower().replace('_', '-')} PATH"
            continue
        try:
            found[f"{name}, fp32"] = quiet(make(path.resolve(), work))
        except NotHere as reason:
            absent[name] = str(reason)
    return found, absent


def table(seconds: dict[str, list[float]], images: int) -> list[dict[str, Any]]:
    """A row for each loop; times_the_best: its images a second over those of the fastest peer."""
    speed = {name: images / statistics.median(times) for name, times in seconds.items()}
    best = max((value for name, value in speed.items() if not name.startswith("compress")), default=None)
    return [
        {
            "loop": name,
            "images_per_s": round(speed[name], 1),
            "slowest_round": round(images / max(times), 1),
            "fastest_round": round(images / min(times), 1),
            "times_the_best_peer": None if best is None else round(speed[name] / best, 3),
        }
        for name, times in seconds.items()
    ]


@click.command()
@click.option("--repdistiller", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--kd-lib", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--torchdistill", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--recipe", "recipe_", default="cifar100_cpu", show_default=True)
@click.option("--images", type=click.IntRange(1), default=4096, show_default=True, help="In an epoch.")
@rounds_option(3)
@click.option("--workers", type=click.IntRange(0), help="Of the peers' data loaders, instead of each one's own number.")
@json_option
def main(
    repdistiller: Path | None,
    kd_lib: Path | None,
    torchdistill: Path | None,
    recipe_: str,
    images: int,
    rounds: int,
    workers: int | None,
    as_json: bool,
) -> None:
    """This loop beside those of other projects."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        whose = write_cifar100(folder / "data" / "cifar-100-python", images)
        os.environ["COMPRESS_CACHE"] = str(folder / "cache")
        recipe = load_recipe(recipe_, method="kd", overrides=["data.name=cifar100", f"data.root={folder / 'data'}"])
        settings, distillation = recipe.training, distillation_settings(recipe.supervision)
        assert distillation is not None
        model = functools.partial(models.create_model, num_classes=CLASSES, image_size=SIZE)
        work = Work(
            folder=folder,
            teacher=lambda: model(recipe.teacher),
            student=lambda: model(recipe.student),
            batch_size=settings.batch_size,
            temperature=distillation.base,
            alpha=distillation.alpha,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            cores=default_threads(),
            workers=workers,
        )
        paths = {"RepDistiller": repdistiller, "KD_Lib": kd_lib, "torchdistill": torchdistill}
        found, absent = loops(recipe, work, paths)
        rows = table(take_turns(found, rounds), images)
    setting = f"{recipe.teacher.model} -> {recipe.student.model}, batch {settings.batch_size}, {images} {whose} images"
    lines = [
        setting,
        f"default precision of compress here: {fast_precision(recipe.student, SIZE, CPU)}; of the peers: fp32",
        *(_line(row) for row in rows),
        *(f"{name:<32}not run: {reason}" for name, reason in absent.items()),
    ]
    show({"setting": setting, "rows": rows, "not_run": absent}, lines, as_json=as_json)


def _line(row: dict[str, Any]) -> str:
    ratio = "" if row["times_the_best_peer"] is None else f"{row['times_the_best_peer']:.2f} x the best peer"
    spread = f"({row['slowest_round']:,.0f} to {row['fastest_round']:,.0f})"
    return f"{row['loop']:<32}{row['images_per_s']:>9,.0f} images/s  {spread:<20}{ratio}"


if __name__ == "__main__":
    run(main)
