"""timm models: made from a recipe, saved as the Hugging Face Hub and timm expect, loaded without running code."""

import copy
import difflib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compress import console, files, recipe, small_stem
from compress.data import Dataset
from compress.errors import InputError, MachineError, UsageError
from compress.model_folder import CONFIG, ENSEMBLE, WEIGHTS, empty_ensemble, write_model
from compress.wrappers import Renormalized

_RESERVED = ("num_classes", "in_chans", "pretrained", "pretrained_cfg", "checkpoint_path", "features_only")
_OF_OTHER_WEIGHTS = ("url", "file", "hf_hub_id", "tag", "license", "origin_url", "paper_ids", "notes")


class _Normalization(BaseModel):
    """What timm's pretrained_cfg says of the images' RGB values, which are in 0..1 before."""

    model_config = ConfigDict(allow_inf_nan=False)

    mean: tuple[float, float, float] | None = None
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None


def architecture(settings: recipe.Model, image_size: int) -> str:
    """The timm name that a recipe's model and stem stand for. Raises UsageError for one that does not exist."""
    if timm.is_model(settings.model.split(".")[0]):
        small = settings.model.split(".")[0] + small_stem.SUFFIX
        if settings.stem == "small" and not timm.is_model(small):
            raise UsageError(f"stem: small is for timm's ResNets, and {settings.model} is none", "Use stem: stock.")
        wants_small = settings.stem == "small" or (settings.stem == "auto" and image_size <= 64)
        return small if wants_small and timm.is_model(small) else settings.model
    if ":" in settings.model:  # local-dir:PATH, hf-hub:REPO
        return settings.model
    close = difflib.get_close_matches(settings.model, timm.list_models(), n=1)
    raise UsageError(
        f"timm has no model {settings.model!r}",
        f"Did you mean {close[0]}?" if close else "timm.list_models() names them all.",
    )


def create_model(settings: recipe.Model, *, num_classes: int, image_size: int) -> nn.Module:
    """A model with fresh weights from torch's random stream. Raises UsageError where timm refuses the arguments."""
    name = architecture(settings, image_size)
    if reserved := [key for key in settings.args if key in _RESERVED]:
        raise UsageError(f"args cannot set {reserved[0]}", "It follows from the data and the recipe.")
    model: Any = _create(name, settings.args, image_size, num_classes=num_classes)
    model.pretrained_cfg = {key: value for key, value in model.pretrained_cfg.items() if key not in _OF_OTHER_WEIGHTS}
    return model


def pretrained_teacher(settings: recipe.Member, dataset: Dataset) -> nn.Module:
    """A teacher with its published weights, from the timm hub or a local-dir:PATH."""
    name = architecture(settings, dataset.image_size)
    if name.endswith(small_stem.SUFFIX) and settings.stem == "auto":
        name = settings.model  # published weights are for the stock stem
    try:
        model = _create(name, settings.args, dataset.image_size, pretrained=True)
    except UsageError:
        raise
    except Exception as error:
        raise MachineError(
            f"the pretrained weights of {name} cannot be had ({_first_line(error)})",
            "It needs the network once, or weights that the Hugging Face cache already holds.",
        ) from error
    return fit_teacher(model, dataset, name)


def checkpoint_teacher(settings: recipe.Member, dataset: Dataset) -> nn.Module:
    """A teacher from a weights file, or from a folder that holds config.json and model.safetensors.

    A config.json beside the file says the mean and std that its images were normalised with, as timm's save_for_hf
    writes it; where it does not, a warning says that those of the data set are taken.
    Raises InputError where the weights cannot be read or do not fit the model or the data, or config.json is damaged.
    """
    assert settings.checkpoint
    path = Path(settings.checkpoint).expanduser()
    if path.is_dir():
        path = path / WEIGHTS
        config = read_config(path.parent)
    else:
        config = read_config(path.parent) if (path.parent / CONFIG).exists() else {}
    weights = read_weights(path)
    model: Any = create_model(settings, num_classes=dataset.num_classes, image_size=dataset.image_size)
    expected = model.state_dict()
    if differing := [key for key in expected if key in weights and expected[key].shape != weights[key].shape]:
        key = differing[-1]
        last = list(expected)[-1].rpartition(".")[0]
        if all(name.rpartition(".")[0] == last for name in differing):
            raise InputError(
                f"teacher {path} has {weights[key].shape[0]} classes and {dataset.name} has {dataset.num_classes}",
                "Fine-tune it on this data first.",
            )
        raise InputError(
            f"{path} does not fit {settings.model}: "
            f"{key} is {list(weights[key].shape)}, not {list(expected[key].shape)}",
            "Check teacher.model, teacher.stem and teacher.args.",
        )
    missing, strange = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or strange:
        what = f"lacks {min(missing)}" if missing else f"has a strange {min(strange)}"
        raise InputError(f"{path} does not fit {settings.model}: it {what}", "Check teacher.model and teacher.args.")
    model.load_state_dict(weights)
    try:
        own = _Normalization.model_validate(config.get("pretrained_cfg", {}))
    except ValidationError as error:
        key = ".".join(map(str, ("pretrained_cfg", *error.errors()[0]["loc"])))
        raise InputError(
            f"{path.parent / CONFIG}: {key} is not as timm writes it",
            "mean and std are three numbers each, std above 0.",
        ) from None
    model.pretrained_cfg |= {
        "mean": own.mean or dataset.mean,
        "std": own.std or dataset.std,
        "label_names": config.get("label_names"),
    }
    if not (own.mean and own.std):
        mean, std = ([round(value, 4) for value in model.pretrained_cfg[key]] for key in ("mean", "std"))
        console.warn(
            f"teacher {path} does not say how its images were normalised: mean {mean} and std {std}, those of "
            f"{dataset.name}, are taken. {path.parent / CONFIG} sets others, as timm's save_for_hf writes it: "
            '{"pretrained_cfg": {"mean": [...], "std": [...]}}'
        )
    return fit_teacher(model, dataset, str(path))


def fit_teacher(model: Any, dataset: Dataset, name: str) -> nn.Module:
    """The teacher behind the normalisation that its weights expect. Raises InputError where its classes differ."""
    classes, cfg = model.num_classes, model.pretrained_cfg
    if classes != dataset.num_classes:
        raise InputError(
            f"teacher {name} has {classes} classes and {dataset.name} has {dataset.num_classes}",
            "Fine-tune it on this data first, or set teacher.source: train.",
        )
    labels = cfg.get("label_names")
    if labels and list(labels) != dataset.class_names:
        first = next(a for a, b in zip(labels, dataset.class_names, strict=False) if a != b)
        raise InputError(f"teacher {name} has other classes than {dataset.name}, first {first!r}", "Order counts, too.")
    mean, std = (torch.tensor(cfg.get(key) or getattr(dataset, key), dtype=torch.float32) for key in ("mean", "std"))
    data_mean, data_std = torch.tensor(dataset.mean), torch.tensor(dataset.std)
    if torch.allclose(mean, data_mean, atol=1e-3) and torch.allclose(std, data_std, atol=1e-3):
        return model
    return Renormalized(model, data_std / std, (data_mean - mean) / std)


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
            write_model(plain, Path(scratch), dataset, own_normalization=own_normalization)
            for path in Path(scratch).rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            sha256 = files.sha256_file(Path(scratch) / WEIGHTS)
            shutil.rmtree(folder, ignore_errors=True)
            Path(scratch).rename(folder)
            folder.chmod(0o755)
            files.sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        size = sum(value.numel() * value.element_size() for value in plain.state_dict().values())
        reason = OSError(f"{_first_line(error)}; {size:,} bytes needed")
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
            return load_weights(empty_ensemble(folder, config), folder)
        return timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True).eval()
    except Exception as error:
        raise InputError(f"{folder} does not hold a whole model ({_first_line(error)})") from error


def load_weights(model: nn.Module, folder: Path) -> nn.Module:
    """The given module with the weights that save_model wrote, in eval mode."""
    try:
        model.load_state_dict(read_weights(folder / WEIGHTS))
    except RuntimeError as error:
        raise InputError(f"{folder / WEIGHTS} does not fit the module ({_first_line(error)})") from None
    return model.eval()


def normalization(model: nn.Module, dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that the model's input is normalised with."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    return tuple(cfg.get("mean", dataset.mean)), tuple(cfg.get("std", dataset.std))


def read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        inside = [str(folder / role) for role in ("teacher", "student") if (folder / role / CONFIG).exists()]
        hint = f"That is a run, and its models are {' and '.join(inside)}." if inside else ""
        raise InputError(f"cannot read {folder / CONFIG} ({_first_line(error)})", hint) from None
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG} is not a model's configuration")
    return config


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from safetensors or a torch file of plain tensors; any other pickle is refused."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"no weights at {path}") from None
    except Exception as error:
        raise InputError(
            f"{path} does not hold plain weights ({_first_line(error)})",
            "Convert it to safetensors where you trust it.",
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} does not hold weights by name", "A state_dict is expected.")
    return dict(content)


def _create(name: str, args: dict[str, Any], image_size: int, **kwargs: Any) -> nn.Module:
    merged = {**args, **kwargs}
    published = None if ":" in name else timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        merged.setdefault("img_size", image_size)
    try:
        return timm.create_model(name, **merged)
    except Exception as error:
        if kwargs.get("pretrained") and not isinstance(error, TypeError):
            raise  # weights that cannot be had, which the caller explains
        # A wrong argument surfaces as anything in timm.
        raise UsageError(
            f"timm cannot make {name} with {args} ({_first_line(error)})", "Check model and args."
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
