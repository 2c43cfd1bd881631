"""How the streaming loader grows with the number of files: the wait before the first batch, speed, and memory.

The files are links to the same photos, so that only their number differs. For each number a process of its own opens
the data as a run does, without its list of files (`first`) and with it (`again`), and decodes batches with
random crops. `own_mb`: the most memory of its own that the process has above what it had before.

    python tools/bench/files.py --photos ~/photos --plot recipes/results/files.png
    python tools/bench/files.py --data recipes/results/files.json --plot recipes/results/files.png
"""

import itertools
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from harness import in_own_process, json_option, machine, run, show
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scaling_points import Watch

from compress.data import StreamedImages, load_data, on_device
from compress.recipe import Augment, Data
from compress.system.files import write_json
from compress.system.platform import resident_mb
from compress.training.batch_rows import epoch_order

BATCH, SIZE = 32, 160


def linked(photos: Path, folder: Path, files: int) -> Path:
    """train/ with so many links to the photos, in turns, and the photos' own validation/."""
    paths = sorted(path for path in (photos / "train").rglob("*") if path.is_file())
    random.Random(0).shuffle(paths)
    for number, path in zip(range(files), itertools.cycle(paths), strict=False):
        link = folder / "train" / path.parent.name / f"{number}{path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    (folder / "validation").symlink_to(photos / "validation")
    return folder


def opened(root: str) -> StreamedImages:
    settings = Data(name="folder", root=root, image_size=SIZE, loader="stream")
    images = on_device(load_data(settings), torch.device("cpu")).train
    assert isinstance(images, StreamedImages)
    return images


def start(root: str) -> dict[str, float]:
    """Seconds until the first batch is there."""
    began = time.perf_counter()
    images = opened(root)
    next(batches(images, 1))
    return {"seconds": time.perf_counter() - began}


def batches(images: StreamedImages, number: int) -> Any:
    order = epoch_order(len(images.labels), seed=0, epoch=0)
    rows = [order[BATCH * place : BATCH * (place + 1)] for place in range(number)]
    return images.batches(rows, Augment(crop=0, flip=True, scale=0.35), seed=0, epoch=0)


def streams(root: str, number: int) -> dict[str, float]:
    """Images a second, and the most memory."""
    before = resident_mb("RssAnon")
    with Watch() as watch:
        images = opened(root)
        began = time.perf_counter()
        for _ in batches(images, number):
            pass
        seconds = time.perf_counter() - began
    return {"images_per_s": number * BATCH / seconds, "own_mb": watch.peak - before}


def measure(photos: Path, files: int, number: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="files-") as folder:
        os.environ["COMPRESS_CACHE"] = str(Path(folder) / "cache")
        root = str(linked(photos.resolve(), Path(folder) / "photos", files))
        first, again = in_own_process(start, root)["seconds"], in_own_process(start, root)["seconds"]
        return {"files": files, "first_s": first, "again_s": again, **in_own_process(streams, root, number)}


def plot(rows: list[dict[str, float]], picture: Path) -> None:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    files = [row["files"] for row in rows]
    for key, label in (("first_s", "the first time"), ("again_s", "again")):
        seconds.plot(files, [row[key] for row in rows], "o-", label=label)
    seconds.set_ylabel("seconds to the first batch")
    seconds.legend(frameon=False)
    memory.plot(files, [row["own_mb"] for row in rows], "o-", label="most memory, MB")
    memory.plot(files, [row["images_per_s"] for row in rows], "s--", label="images decoded a second")
    memory.legend(frameon=False)
    for axes in (seconds, memory):
        axes.set(xscale="log", xlabel="photos to train on")
        axes.set_ylim(bottom=0)
        axes.set_xticks(files)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=100)


@click.command()
@click.option("--photos", type=click.Path(path_type=Path, exists=True), help="train/CLASS/ and validation/CLASS/.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Plot these rows, and measure nothing.")
@click.option("--files", multiple=True, type=click.IntRange(100), default=(1_000, 30_000, 300_000), show_default=True)
@click.option("--batches", "number", type=click.IntRange(1), default=30, show_default=True, help="That are decoded.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path))
@json_option
def main(
    photos: Path | None, data: Path | None, files: tuple[int, ...], number: int, plot_file: Path | None, as_json: bool
) -> None:
    """How the streaming loader grows with the number of files."""
    if (photos is None) == (data is None):
        raise click.UsageError("Give --photos or --data.")
    if data is not None:
        found = json.loads(data.read_text(encoding="utf-8"))
    else:
        assert photos is not None
        rows = [measure(photos, count, number) for count in files]
        found = {"rows": [{key: round(value, 2) for key, value in row.items()} for row in rows], "machine": machine()}
    if plot_file is not None:
        plot(found["rows"], plot_file)
        if data is None:
            write_json(plot_file.with_suffix(".json"), found)
    lines = (
        f"{row['files']:>9,} files: first {row['first_s']:.1f} s, again {row['again_s']:.1f} s, "
        f"{row['images_per_s']:.0f} images/s, {row['own_mb']:.0f} MB"
        for row in found["rows"]
    )
    show({"rows": found["rows"]}, lines, as_json=as_json, facts=found["machine"])


if __name__ == "__main__":
    run(main)
