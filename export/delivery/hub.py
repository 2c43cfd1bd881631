"""`compress push`: a finished run as a model repository of the Hugging Face Hub, in timm's format.

In: a run. Out: RUN/hub, the repository's folder as it will be, and with a token the repository itself.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import timm
from huggingface_hub import EvalResult, HfApi, ModelCardData, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from compress import models
from compress.models import small_stem
from compress.recipe import Data, Model, Recipe, Student, recipe_yaml
from compress.runs.folder import Run
from compress.runs.locks import held
from compress.runs.student import load_student
from compress.system.errors import InputError, MachineError, UsageError
from compress.system.files import cannot_write
from export.benchmark import find_candidates
from export.folder import ExportFolder
from export.report import markdown

M = TypeVar("M", bound=Model)
_ON_THE_HUB = {"cifar100": ["uoft-cs/cifar100"], "tinyimagenet": ["zh-plus/tiny-imagenet"]}


def push_run(run: Run, repo: str, *, private: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Writes RUN/hub and, unless it is a dry run or there is no token, uploads it.

    The folder holds the student as timm reads it, the recipe, the export's ONNX files for ONNX Runtime and a model card
    with what `compress benchmark` measured. Where the run was not exported or benchmarked, that is left out.

    Args:
        run: a finished run.
        repo: the repository, "user/name".
        private: create it as private.
        dry_run: upload nothing.

    Returns:
        repo, folder, files, and url, which is None where nothing was uploaded.

    Raises:
        UsageError: the Hub does not take that name, or the repository is public and is to be private. Nothing is
            uploaded.
        InputError: weights or files are not those of the run's manifest, or timm did not make the student.
        MachineError: the Hub refuses or cannot be reached.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{repo!r} is no name for a repository: {reason}", "For example: you/cifar100.") from None
    if "/" not in repo:  # the Hub would create it below the user's name, and take no files for it without one
        raise UsageError(f"{repo!r} does not say whose repository it is", f"For example: you/{repo}.")
    with held(run.path):
        load_student(run)
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
            for name in (models.CONFIG, models.WEIGHTS):
                shutil.copyfile(run.student / name, made / name)
            (made / run.recipe_file.name).write_text(recipe_yaml(_public(run.recipe)), encoding="utf-8")
            for path in _onnx_files(run):
                (made / "onnx").mkdir(exist_ok=True)
                shutil.copyfile(path, made / "onnx" / path.name)
            (made / "README.md").write_text(_card(run, repo), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def _public(recipe: Recipe) -> Recipe:
    """Without the paths of this machine: of weights the name of their file or folder stays."""

    def named(model: M) -> M:
        paths: dict[str, Any] = {
            key: Path(value).name
            for key in ("checkpoint", "weights", "pretrained")
            if isinstance(value := getattr(model, key, None), str)
        }
        if model.model.startswith("local-dir:"):
            paths["model"] = f"local-dir:{Path(model.model).name}"
        return model.model_copy(update=paths)

    others = {
        "ensemble": [named(member) for member in recipe.teacher.ensemble],
        "assistants": [named(assistant) for assistant in recipe.teacher.assistants],
    }
    return recipe.model_copy(
        update={
            "data": recipe.data.anywhere,
            "teacher": named(recipe.teacher).model_copy(update=others),
            "student": named(recipe.student),
        }
    )


def _onnx_files(run: Run) -> Iterator[Path]:
    """The student's files for ONNX Runtime, each the one that its export recorded."""
    if ExportFolder(run.export).record_file.exists():
        candidates = find_candidates(run)
        yield from (each.path for each in candidates if each.role == "student" and each.runtime == "ort")


def _base_model(student: Student) -> str | None:
    """The repository of the Hub whose weights the student started with, if it did."""
    if student.pretrained is not True:
        return None
    scheme, _, place = student.model.partition(":")
    if scheme == "hf-hub":
        return place.partition("@")[0]
    cfg = None if place else timm.get_pretrained_cfg(student.model)
    return None if cfg is None else cfg.hf_hub_id


def _datasets(data: Data) -> list[str] | None:
    """The repositories of the Hub that hold the data, where it is there."""
    return [data.repo] if data.repo else _ON_THE_HUB.get(data.name)


def _card(run: Run, repo: str) -> str:
    manifest, config = run.result, models.read_config(run.student)
    architecture = config.get("architecture")
    if not architecture:
        raise InputError(f"the student of {run.path} was not made by timm, whose format the Hub is to have")
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
    head = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["timm", "image-classification", "knowledge-distillation"],
        metrics=["accuracy"],
        model_name=repo.rsplit("/")[-1],
        base_model=_base_model(run.recipe.student),
        datasets=_datasets(run.recipe.data),
        license=(config.get("pretrained_cfg") or {}).get("license"),
        eval_results=[result],
    )
    measured = markdown([run]) if run.benchmark_file.exists() else ""
    return f"""---
{head.to_yaml()}
---
# {architecture}, {data.num_classes} classes of {data.name}

Distilled with `{manifest.method}` from {models.read_config(run.teacher).get("architecture") or "a module"}: top-1
{top1:.2%} on {data.eval_split} ({data.eval_images:,} images), its teacher {manifest.teacher_accuracy}. How it
was trained stands in `recipe.yaml`, from which paths are left out; the hash of the recipe is
`{manifest.recipe_sha256}`.

```python
{small_stem.import_line(architecture)}import timm

model = timm.create_model("hf-hub:{repo}", pretrained=True).eval()
```

Images come as RGB in 0..1, resized and cropped as `crop_pct` and `interpolation` of `config.json` say, and normalised
with its `mean` and `std`: `timm.data.create_transform(**timm.data.resolve_model_data_config(model))` does it.

{measured}"""
