"""`compress push`: a finished run as a model repository of the Hugging Face Hub, in timm's format where timm made it.

In: a run. Out: RUN/hub, the repository's folder as it will be, and with a token the repository itself.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, HfApi, ModelCardData, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn

from compress import models
from compress.recipe import Student, recipe_yaml
from compress.runs.folder import Run, finished_run
from compress.runs.locks import held
from compress.runs.student import load_student
from compress.system.arguments import require_type
from compress.system.errors import InputError, MachineError, UsageError
from compress.system.files import cannot_write, write_json
from export.delivery.opening import how_to_open, hub_config, made_by_timm, student_name
from export.delivery.public import hub_repository, public_recipe, without_places
from export.folder import ExportFolder, check_intact, given_run, read_export
from export.records import PRECISIONS
from export.report import markdown
from export.report.formats import md

_ON_THE_HUB = {"cifar100": ["uoft-cs/cifar100"], "tinyimagenet": ["zh-plus/tiny-imagenet"]}


def push_run(
    run: Run | str | Path,
    repo: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    model: nn.Module | None = None,
) -> dict[str, Any]:
    """Writes RUN/hub and, unless it is a dry run or there is no token, uploads it.

    The folder holds the student, the recipe, the export's ONNX files for ONNX Runtime and a model card with what
    `compress benchmark` measured. Where the run was not exported or benchmarked, that is left out. timm reads the
    student, unless it is a module of the caller's own: the card then says what is needed to open it.

    Args:
        run: a finished run, or its folder.
        repo: the repository, "user/name".
        private: create it as private.
        dry_run: upload nothing.
        model: a module to fill with the student's weights, where `distill` was given one.

    Returns:
        repo, folder, files, and url, which is None where nothing was uploaded.

    Raises:
        UsageError: an argument is of a wrong type, the Hub does not take that name, or the repository is public and is
            to be private. Nothing is uploaded.
        InputError: the run is not finished, or weights or files are not those of its manifest; or timm did not make the
            student, and `model` is missing or another.
        MachineError: the Hub refuses or cannot be reached.
    """
    require_type(repo, str, "push_run: repo", "For example: you/cifar100.")
    for name, value in (("private", private), ("dry_run", dry_run)):
        require_type(value, bool, f"push_run: {name}")
    require_type(model, (nn.Module, type(None)), "push_run: model")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{repo!r} is no name for a repository: {reason}", "For example: you/cifar100.") from None
    if "/" not in repo:  # the Hub would create it below the user's name, and take no files for it without one
        raise UsageError(f"{repo!r} does not say whose repository it is", f"For example: you/{repo}.")
    run = finished_run(given_run(run).path)
    config = models.read_config(run.student)
    if model is None and not made_by_timm(config):
        raise InputError(
            f"the student of {run.path} is a module that was handed over ({config.get('module')}), not one of timm's",
            "Push it from Python: export.push_run(run, repo, model=...).",
        )
    with held(run.path):
        load_student(run, model=model)
        folder = _write_folder(run, repo)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    outcome: dict[str, Any] = {"repo": repo, "folder": str(folder), "files": names, "url": None}
    if dry_run or get_token() is None:
        return outcome
    api = HfApi(library_name="compress")
    try:
        outcome["url"] = str(api.create_repo(repo, private=private, exist_ok=True))
        if private and not api.repo_info(repo).private:  # one that exists keeps its visibility
            raise UsageError(
                f"{repo} exists and is public, and nothing was uploaded",
                "Make it private in its settings on the Hub, or choose another name.",
            )
        api.upload_folder(
            folder_path=folder,
            repo_id=repo,
            commit_message=f"compress push {run.path.resolve().name}",
            delete_patterns="onnx/*",  # of an earlier push, whose weights were others
        )
    except UsageError:
        raise
    except Exception as error:  # which HTTP library huggingface_hub fails with depends on its version
        raise MachineError(
            f"the Hub did not take {repo}: {' '.join(str(error).split())}",
            f"What was to be pushed is in {folder}. Check the token with `hf auth whoami`.",
        ) from error
    return outcome


def _write_folder(run: Run, repo: str) -> Path:
    folder = run.hub
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=run.path) as scratch:
            made = Path(scratch) / folder.name
            made.mkdir()
            config = hub_config(run)
            write_json(made / models.CONFIG, config)
            shutil.copyfile(run.student / models.WEIGHTS, made / models.WEIGHTS)
            (made / run.recipe_file.name).write_text(recipe_yaml(public_recipe(run)), encoding="utf-8")
            onnx = list(_onnx_files(run))
            for path in onnx:
                (made / "onnx").mkdir(exist_ok=True)
                shutil.copyfile(path, made / "onnx" / path.name)
            (made / "README.md").write_text(_card(run, repo, config, onnx), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def _onnx_files(run: Run) -> Iterator[Path]:
    """The student's files for ONNX Runtime, each the one that its export recorded."""
    folder = ExportFolder(run.export)
    if not folder.record_file.exists():
        return
    recorded = read_export(run).files
    for path in map(folder.onnx, PRECISIONS):
        if path.name in recorded:
            check_intact(path, recorded[path.name].sha256)
            yield path


def _base_model(student: Student) -> str | None:
    """The repository of the Hub whose weights the student started with, if it did."""
    if student.pretrained is not True:
        return None
    scheme, _, place = student.model.partition(":")
    if scheme == "hf-hub":
        return place.partition("@")[0]
    cfg = None if place else timm.get_pretrained_cfg(student.model)
    return None if cfg is None else cfg.hf_hub_id


def _datasets(run: Run) -> list[str] | None:
    """The repositories of the Hub that hold the data, where it is there."""
    data = run.recipe.data
    own = hub_repository(run, data)
    return [own] if own else _ON_THE_HUB.get(data.name)


def _card(run: Run, repo: str, config: dict[str, Any], onnx: Sequence[Path]) -> str:
    """config: of the student, as `hub_config` has it."""
    manifest, of_timm = run.result, made_by_timm(config)
    data, top1 = manifest.data, manifest.student_top1
    result = EvalResult(
        task_type="image-classification",
        dataset_type=data.name,
        dataset_name=data.name,
        dataset_split=data.eval_split,
        metric_type="accuracy",
        metric_name="top-1",
        metric_value=round(top1, 6),
    )
    library = "timm" if of_timm else "pytorch"
    head = ModelCardData(
        library_name=library,
        pipeline_tag="image-classification",
        tags=[library, "image-classification", "knowledge-distillation"],
        metrics=["accuracy"],
        model_name=repo.rsplit("/")[-1],
        base_model=_base_model(run.recipe.student) if of_timm else None,
        datasets=_datasets(run),
        license=(config.get("pretrained_cfg") or {}).get("license"),
        eval_results=[result],
    )
    measured = markdown([run], without_places(run)) if run.benchmark_file.exists() else ""
    return f"""---
{head.to_yaml()}
---
# {md(student_name(config))}, {data.num_classes} classes of {md(data.name)}

Distilled with `{manifest.method}` from {md(models.read_config(run.teacher).get("architecture") or "a module")}: top-1
{top1:.2%} on {md(data.eval_split)} ({data.eval_images:,} images), its teacher has {manifest.teacher_accuracy}. How it
was trained stands in `recipe.yaml`, from which paths are left out; the hash of the recipe is
`{manifest.recipe_sha256}`.

{how_to_open(config, repo, [path.name for path in onnx])}
{measured}"""
