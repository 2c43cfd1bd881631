"""What lies in the folder of a saved model: the weights, config.json as timm reads it, and a card."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from compress import files, small_stem
from compress.data import Dataset
from compress.wrappers import Ensemble, Renormalized

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
ENSEMBLE = "ensemble"
"""The architecture, in config.json, of several models as one."""


def write_model(model: Any, folder: Path, dataset: Dataset, *, own_normalization: bool) -> None:
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


def empty_ensemble(folder: Path, config: dict[str, Any]) -> Ensemble:
    """An ensemble of the members that config.json lists, without their weights."""
    members = []
    for entry in config["members"]:
        member = timm.create_model(f"local-dir:{(folder / entry['config']).resolve()}", pretrained=False)
        members.append(Renormalized(member, torch.ones(3), torch.zeros(3)) if entry["renormalized"] else member)
    return Ensemble(members, {**config["pretrained_cfg"], "label_names": config["label_names"]})
