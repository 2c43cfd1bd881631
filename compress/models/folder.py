"""What lies in the folder of a saved model: the weights, config.json as timm reads it, and a card.

save_model writes such a folder whole, load_model reads it without running code that lies there.
"""

import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from compress.data import Dataset
from compress.models import small_stem
from compress.models.wrappers import Ensemble, Renormalized
from compress.system import files
from compress.system.errors import InputError, first_line

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
ENSEMBLE = "ensemble"
"""The architecture, in config.json, of several models as one."""


def _write_model(model: Any, folder: Path, dataset: Dataset, *, own_normalization: bool) -> None:
    """Into an empty folder. own_normalization: the model's mean and std, not those of the data set, go with it."""
    if getattr(model, "pretrained_cfg", None) is None:
        save_file(model.state_dict(), folder / WEIGHTS)
        files.write_json(folder / CONFIG, {"architecture": None, "module": type(model).__qualname__})
        return
    if isinstance(model, Ensemble):
        _write_ensemble(model, folder, dataset)
        return
    _write_timm_model(model, folder, dataset, own_normalization=own_normalization)
    size = dataset.image_size
    name = model.pretrained_cfg["architecture"]
    card = (
        f"---\nlibrary_name: timm\ntags: [image-classification, timm, knowledge-distillation]\n---\n"
        f"# {name}, {dataset.num_classes} classes of {dataset.name}, {size} x {size} pixels\n\n"
        f"```python\n{small_stem.import_line(name)}import timm\n\n"
        f'model = timm.create_model("local-dir:PATH", pretrained=True)  # the folder of this file\n```\n'
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_timm_model(model: nn.Module, folder: Path, dataset: Dataset, *, own_normalization: bool) -> None:
    """config.json and model.safetensors, as the Hugging Face Hub and timm expect."""
    size = dataset.image_size
    data_config = {"input_size": (3, size, size), "crop_pct": 1.0, "interpolation": "bicubic"}
    if not own_normalization:
        data_config |= {"mean": dataset.mean, "std": dataset.std}
    timm.models.save_for_hf(
        model,
        str(folder),
        model_config={"label_names": dataset.class_names},
        data_config=data_config,
        safe_serialization=True,
    )


def _write_ensemble(model: Ensemble, folder: Path, dataset: Dataset) -> None:
    """One file of weights, and a folder with timm's config.json for each member."""
    members = []
    for number, member in enumerate(model.members):
        inner = folder / f"member-{number}"
        renormalized = isinstance(member, Renormalized)
        _write_timm_model(member.model if renormalized else member, inner, dataset, own_normalization=renormalized)
        (inner / WEIGHTS).unlink()
        members.append({"config": inner.name, "renormalized": renormalized})
    save_file(model.state_dict(), folder / WEIGHTS)
    content = {
        "architecture": ENSEMBLE,
        "num_classes": dataset.num_classes,
        "label_names": dataset.class_names,
        "pretrained_cfg": {
            "architecture": ENSEMBLE,
            "num_classes": dataset.num_classes,
            "input_size": [3, dataset.image_size, dataset.image_size],
            "mean": list(dataset.mean),
            "std": list(dataset.std),
        },
        "members": members,
    }
    files.write_json(folder / CONFIG, content)


def _empty_ensemble(folder: Path, config: dict[str, Any]) -> Ensemble:
    """An ensemble of the members that config.json lists, without their weights."""
    members = []
    for entry in config["members"]:
        member = timm.create_model(f"local-dir:{(folder / entry['config']).resolve()}", pretrained=False)
        members.append(Renormalized(member, torch.ones(3), torch.zeros(3)) if entry["renormalized"] else member)
    return Ensemble(members, {**config["pretrained_cfg"], "label_names": config["label_names"]})


def save_model(model: nn.Module, folder: Path, dataset: Dataset) -> str:
    """Writes config.json and model.safetensors, replacing the folder whole; returns the SHA-256 of the weights.

    A module that timm did not make is saved with its weights only; load_student then needs the module itself.
    """
    own_normalization = isinstance(model, Renormalized)
    plain: Any = copy.deepcopy(model.model if own_normalization else model).cpu()
    plain = plain.to(memory_format=torch.contiguous_format)
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent, ignore_cleanup_errors=True
        ) as scratch:
            _write_model(plain, Path(scratch), dataset, own_normalization=own_normalization)
            for path in Path(scratch).rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            sha256 = files.sha256_file(Path(scratch) / WEIGHTS)
            shutil.rmtree(folder, ignore_errors=True)
            Path(scratch).rename(folder)
            folder.chmod(0o755)
            files.sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        size = sum(value.numel() * value.element_size() for value in plain.state_dict().values())
        reason = OSError(f"{first_line(error)}; {size:,} bytes needed")
        raise files.cannot_write(folder, reason) from error
    return sha256


def load_model(folder: Path) -> nn.Module:
    """The timm model, or the ensemble, that save_model wrote, in eval mode. Raises InputError where it is not whole."""
    config = read_config(folder)
    if not config.get("architecture"):
        raise InputError(f"{folder} was not made by timm ({config.get('module')})", "Hand the module to load_student.")
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS} is missing")
    try:
        if config["architecture"] == ENSEMBLE:
            return load_weights(_empty_ensemble(folder, config), folder)
        return timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True).eval()
    except Exception as error:
        raise InputError(f"{folder} does not hold a whole model ({first_line(error)})") from error


def load_weights(model: nn.Module, folder: Path) -> nn.Module:
    """The module with the weights that save_model wrote, in eval mode. Raises InputError where they do not fit."""
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError:
        raise InputError(f"no weights at {folder / WEIGHTS}") from None
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS} is not whole ({first_line(error)})") from None
    except RuntimeError as error:
        raise InputError(f"{folder / WEIGHTS} does not fit the module ({first_line(error)})") from None
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        inside = [str(folder / role) for role in ("teacher", "student") if (folder / role / CONFIG).exists()]
        hint = f"That is a run, and its models are {' and '.join(inside)}." if inside else ""
        raise InputError(f"cannot read {folder / CONFIG} ({first_line(error)})", hint) from None
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG} is not a model's configuration")
    return config
