"""The folder of a saved model: its weights, config.json as timm reads it, and a model card.

In: a module. Out: the folder, and the module again. Loading never runs code from the folder.
"""

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from compress.data import Dataset
from compress.data.preprocessing import CROP_MODES
from compress.data.source import class_name
from compress.models import small_stem
from compress.models.create import RESERVED
from compress.models.wrappers import Adapted, Ensemble
from compress.system import files
from compress.system.errors import InputError, first_line
from compress.system.modules import unshared
from compress.system.platform import sync_folder

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
ENSEMBLE = "ensemble"
"""The architecture that config.json names for an ensemble."""


def _write_model(model: Any, folder: Path, dataset: Dataset) -> None:
    """Fills an empty folder."""
    inner: Any = model.model if isinstance(model, Adapted) else model
    if getattr(inner, "pretrained_cfg", None) is None:
        _write_weights(inner, folder)
        seen = pictures_cfg(dataset)
        if isinstance(model, Adapted):  # a teacher that was handed over, for which the data is normalised by its own
            seen |= {"mean": list(dataset.own_mean), "std": list(dataset.own_std)}
        content = {"architecture": None, "module": type(inner).__qualname__, "pretrained_cfg": seen}
        files.write_json(folder / CONFIG, content)
        return
    if isinstance(model, Ensemble):
        _write_ensemble(model, folder, dataset)
        return
    _write_config(model, folder, dataset)
    _write_weights(inner, folder)
    size = dataset.image_size
    name = inner.pretrained_cfg["architecture"]
    card = (
        f"---\nlibrary_name: timm\ntags: [image-classification, timm, knowledge-distillation]\n---\n"
        f"# {name}, {dataset.num_classes} classes of {dataset.name}, {size} x {size} pixels\n\n"
        f"```python\n{small_stem.import_line(name)}import timm\n\n"
        f'model = timm.create_model("local-dir:PATH", pretrained=True)  # the folder of this file\n```\n'
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_weights(model: nn.Module, folder: Path) -> None:
    save_file(unshared(model.state_dict()), folder / WEIGHTS)


def _write_config(model: nn.Module, folder: Path, dataset: Dataset) -> None:
    """config.json, as the Hugging Face Hub and timm expect it. An Adapted model has its own mean and std there, and the
    size that it expects.
    """
    data_config: dict[str, Any] = {"interpolation": dataset.interpolation, "crop_pct": dataset.crop_pct}
    data_config["crop_mode"] = CROP_MODES[dataset.fit]
    size = dataset.image_size
    if isinstance(model, Adapted):
        size = model.image_size or size
    else:
        data_config |= {"mean": dataset.mean, "std": dataset.std}
    save_config_for_hf(
        model.model if isinstance(model, Adapted) else model,
        str(folder / CONFIG),
        model_config={"label_names": dataset.class_names},
        data_config={**data_config, "input_size": (3, size, size)},
    )


def pictures_cfg(dataset: Dataset) -> dict[str, Any]:
    """How the pictures of the data set are made ready for a model, by the names of timm's pretrained_cfg."""
    return {
        "input_size": [3, dataset.image_size, dataset.image_size],
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "interpolation": dataset.interpolation,
        "crop_pct": dataset.crop_pct,
        "crop_mode": CROP_MODES[dataset.fit],
    }


def _write_ensemble(model: Ensemble, folder: Path, dataset: Dataset) -> None:
    """Writes one file of weights, and for each member a folder with timm's config.json."""
    members = []
    for number, member in enumerate(model.members):
        inner = folder / f"member-{number}"
        inner.mkdir()
        _write_config(member, inner, dataset)
        adapted = isinstance(member, Adapted)
        size = member.image_size if adapted else None
        members.append({"config": inner.name, "renormalized": adapted, "image_size": size})
    _write_weights(model, folder)
    content = {
        "architecture": ENSEMBLE,
        "num_classes": dataset.num_classes,
        "label_names": dataset.class_names,
        "pretrained_cfg": {
            "architecture": ENSEMBLE,
            "num_classes": dataset.num_classes,
            **pictures_cfg(dataset),
        },
        "members": members,
    }
    files.write_json(folder / CONFIG, content)


def _empty_ensemble(folder: Path, config: dict[str, Any]) -> Ensemble:
    """An ensemble of the members in config.json, without their weights."""
    members = []
    for entry in config["members"]:
        member = timm.create_model(f"local-dir:{(folder / entry['config']).resolve()}", pretrained=False)
        if entry["renormalized"]:
            member = Adapted(member, torch.ones(3), torch.zeros(3), entry.get("image_size"))
        members.append(member)
    return Ensemble(members, {**config["pretrained_cfg"], "label_names": config["label_names"]})


def save_model(model: nn.Module, folder: Path, dataset: Dataset) -> str:
    """Writes config.json and model.safetensors. They replace the whole folder.

    Of a module that timm did not make the weights are saved, and how it sees pictures. `load_student` then needs the
    module itself.

    Returns:
        The SHA-256 of model.safetensors.

    Raises:
        MachineError: the disk is full or the folder cannot be written.
    """
    plain: Any = copy.deepcopy(model).cpu()
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent, ignore_cleanup_errors=True
        ) as scratch:
            _write_model(plain, Path(scratch), dataset)
            for path in Path(scratch).rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            sha256 = files.sha256_file(Path(scratch) / WEIGHTS)
            shutil.rmtree(folder, ignore_errors=True)
            Path(scratch).rename(folder)
            folder.chmod(0o755)
            sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        size = sum(value.numel() * value.element_size() for value in plain.state_dict().values())
        reason = OSError(f"{first_line(error)}; {size:,} bytes needed")
        raise files.cannot_write(folder, reason) from error
    return sha256


def load_model(folder: Path) -> nn.Module:
    """The model that `save_model` wrote, in eval mode: a timm model or an ensemble.

    Raises:
        InputError: the folder is damaged, or timm did not make the model.
    """
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
    """The module with the weights that `save_model` wrote, in eval mode.

    Raises:
        InputError: the weights are missing or damaged, or do not fit the module.
    """
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
    """The content of config.json.

    Raises:
        InputError: it is missing or damaged. The hint names the models of the folder if that is a run.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        inside = [str(folder / role) for role in ("teacher", "student") if (folder / role / CONFIG).exists()]
        hint = f"That is a run, and its models are {' and '.join(inside)}." if inside else ""
        raise InputError(f"cannot read {folder / CONFIG} ({first_line(error)})", hint) from None
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG} is not a model's configuration")
    return config


def label_names(content: Any, path: Path) -> list[str] | None:
    """Class names of a config.json, as those of a data set are written.

    They are a list, as timm writes them, or a mapping from the number of the class. A number is a name, too.

    Raises:
        InputError: they are something else, or a name is not plain text.
    """
    if content is None:
        return None
    if isinstance(content, Mapping) and all(str(number) in content for number in range(len(content))):
        content = [content[str(number)] for number in range(len(content))]
    if not isinstance(content, list) or not all(type(name) in (str, int) for name in content):
        raise InputError(
            f"{path}: label_names are not names of classes",
            'A list of names is expected, one a class, or a mapping from their numbers, as {"0": "cat"}.',
        )
    return [class_name(str(name), str(path)) for name in content]


def recorded_args(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json says that its model was made with, without what the data decides."""
    args = config.get("model_args")
    if not isinstance(args, Mapping):
        return {}
    return {key: value for key, value in args.items() if key not in (*RESERVED, "img_size")}
