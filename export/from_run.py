"""`compress export`: the student of a finished run, and its teacher where asked for, to the files of RUN/export."""

import contextlib
import dataclasses
import json
import logging
import shutil
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from compress import models
from compress.data import Dataset, load_data
from compress.recipe import Export
from compress.runs.folder import Run
from compress.runs.locks import held
from compress.runs.records import FinishedManifest
from compress.runs.student import load_student
from compress.system import console
from compress.system.errors import InputError, UsageError
from compress.system.files import sha256_file
from export.delivery.bundle import make_bundle
from export.gates.stage import record_file
from export.pipeline import Format, export_student
from export.tensorrt.build import Precision

logger = logging.getLogger(__name__)


def export_run(
    run: Run,
    *,
    formats: Collection[Format],
    precisions: Collection[Precision],
    preprocess: bool = False,
    teacher: bool = False,
    bundle: str | None = None,
    threads: int | None = None,
    compute_capabilities: Collection[str] = (),
) -> dict[str, Any]:
    """Writes RUN/export and returns what its export.json holds.

    bundle: "folder" or "zip" also makes RUN/export/bundle[.zip]. compute_capabilities replace the recipe's.
    Raises InputError where the run's weights or data are not those of its manifest, and what export_student raises.
    """
    if compute_capabilities and "trt" not in formats:
        raise UsageError("--capability is of engines, and none are built", "Add --format trt.")
    folder = run.export
    with held(run.path), _warning_of_bundles(folder), console.phases() as progress:
        student = load_student(run)
        recipe, manifest = run.recipe, run.result
        dataset = load_data(recipe.data)
        if dataset.sha256 != manifest.data.sha256:
            raise InputError(
                f"the {dataset.name} data here is not what {run.path} was trained on", "Point data.root to that data."
            )
        settings = recipe.export
        if compute_capabilities:
            settings = _with_capabilities(settings, compute_capabilities)
        shared: dict[str, Any] = {
            "settings": settings,
            "formats": formats,
            "precisions": precisions,
            "threads": threads,
            "log": console.say,
            "progress": progress,
        }
        source = {"run": run.path.name, "recipe_sha256": recipe.sha256, "data_sha256": dataset.sha256}
        record = export_student(
            student,
            out_dir=folder,
            data=dataset,
            preprocess=preprocess,
            provenance={**source, "weights_sha256": manifest.student_sha256},
            input_ranges=manifest.int8_input_ranges,
            **shared,
        )
        if teacher:
            weights = run.teacher / models.WEIGHTS
            if not weights.is_file() or sha256_file(weights) != manifest.teacher.sha256:
                raise InputError(f"{weights} is missing or was altered: its hash is not the manifest's")
            model = models.load_model(run.teacher)
            export_student(
                model,
                out_dir=folder,
                data=_as_the_model_sees(dataset, model),
                name="teacher",
                provenance={**source, "weights_sha256": manifest.teacher.sha256},
                **shared,
            )
        if bundle:
            record["bundle"] = str(_bundle(folder, record, dataset, manifest, bundle, threads))
    return record


@contextlib.contextmanager
def _warning_of_bundles(folder: Path) -> Iterator[None]:
    """Also where a gate fails: a bundle of other files than the export now has passes `compress verify` as ever."""
    try:
        yield
    finally:
        for path in (folder / "bundle", folder / "bundle.zip"):
            if path.exists() and not _onnx_files(path) <= _recorded(folder):
                logger.warning(f"{path} is of an earlier export: --bundle makes it anew")


def _onnx_files(bundle: Path) -> set[str]:
    """Their hashes; of a bundle that cannot be read that of no file."""
    try:
        if bundle.is_dir():
            content = (bundle / "manifest.json").read_bytes()
        else:
            with zipfile.ZipFile(bundle) as archive:
                content = archive.read("manifest.json")
        return {sha256 for name, sha256 in json.loads(content)["files"].items() if name.endswith(".onnx")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return {""}


def _recorded(folder: Path) -> set[str]:
    try:
        files = json.loads((folder / record_file("student")).read_bytes())["files"]
    except (OSError, ValueError, KeyError):
        return set()
    return {entry["sha256"] for entry in files.values()}


def _with_capabilities(settings: Export, capabilities: Collection[str]) -> Export:
    try:
        return Export.model_validate({**settings.model_dump(), "compute_capabilities": list(capabilities)})
    except ValidationError as error:
        strange = error.errors()[0]["input"]
        raise UsageError(f"--capability {strange!r} names no GPU", "For example: --capability 89.") from None


def _as_the_model_sees(dataset: Dataset, model: nn.Module) -> Dataset:
    mean, std = models.normalization(model, dataset)
    return dataclasses.replace(dataset, mean=mean, std=std)


def _bundle(
    folder: Path, record: dict[str, Any], dataset: Dataset, manifest: FinishedManifest, kind: str, threads: int | None
) -> Path:
    """The smallest precision first: it is what a deployer gets who does not choose."""
    names = ("student.int8.onnx", "student.fp16.onnx", "student.onnx")
    files = [folder / name for name in names if name in record["files"]]
    data = manifest.data
    card = (
        f"Distilled by {manifest.method}: top-1 {manifest.student_top1:.2%} on {data.eval_split} of "
        f"{dataset.name} ({data.eval_images:,} images), its teacher {manifest.teacher_top1:.2%}.\n"
    )
    target = folder / ("bundle.zip" if kind == "zip" else "bundle")
    fresh = target if kind == "zip" else folder / ".bundle.new"
    if kind != "zip":
        shutil.rmtree(fresh, ignore_errors=True)
    make_bundle(
        fresh,
        files,
        images=dataset.eval_images,
        class_names=dataset.class_names,
        mean=dataset.mean,
        std=dataset.std,
        card=card,
        threads=threads,
    )
    if fresh != target:
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    return target
