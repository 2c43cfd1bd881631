"""Teachers with weights that somebody else trained.

In: a recipe's teacher. Out: a model behind the normalisation that its weights expect. A teacher that does not fit the
model or the data is an error that names the difference.
"""

import logging
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError
from torch import nn

from compress.data import Dataset
from compress.models import small_stem
from compress.models.checkpoints import read_checkpoint, weights_in, without_prefix
from compress.models.create import architecture, create_model, make_timm_model
from compress.models.folder import CONFIG, read_config
from compress.models.wrappers import Renormalized
from compress.recipe import Member
from compress.system.errors import InputError, MachineError, UsageError, first_line

logger = logging.getLogger(__name__)


class _Normalization(BaseModel):
    """How timm's pretrained_cfg normalises RGB values, which are in 0..1 before."""

    model_config = ConfigDict(allow_inf_nan=False)

    mean: tuple[float, float, float] | None = None
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None


def pretrained_teacher(settings: Member, dataset: Dataset) -> nn.Module:
    """A teacher with its published weights, from the timm hub or from local-dir:PATH.

    Raises:
        MachineError: the weights are neither in the cache nor on the network.
        UsageError: timm cannot make the model.
        InputError: its classes are not those of the data.
    """
    name = architecture(settings, dataset.image_size)
    if name.endswith(small_stem.SUFFIX) and settings.stem == "auto":
        name = settings.model  # there are published weights for the stock stem only
    try:
        model = make_timm_model(name, settings.args, dataset.image_size, pretrained=True)
    except UsageError:
        raise
    except Exception as error:
        raise MachineError(
            f"the pretrained weights of {name} cannot be had ({first_line(error)})",
            "It needs the network once, or weights that the Hugging Face cache already holds.",
        ) from error
    return as_teacher(model, dataset, name)


def checkpoint_teacher(settings: Member, dataset: Dataset) -> nn.Module:
    """A teacher from a file of weights, or from a folder with config.json and model.safetensors.

    A config.json beside the file gives the mean and std of its images, as timm's save_for_hf writes it. Without them
    the data set's are taken, with a warning.

    Raises:
        InputError: for one of these reasons:

            - The weights cannot be read.
            - They do not fit the model, or the classes of the data.
            - config.json is damaged.
        UsageError: timm cannot make the model.
    """
    assert settings.checkpoint
    path = Path(settings.checkpoint).expanduser()
    if path.is_dir():
        config = read_config(path)
        path = weights_in(path)
    else:
        config = read_config(path.parent) if (path.parent / CONFIG).exists() else {}
    model: Any = create_model(settings, num_classes=dataset.num_classes, image_size=dataset.image_size)
    expected = model.state_dict()
    weights = without_prefix(read_checkpoint(path), expected, path)
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
        own = _Normalization.model_validate(config.get("pretrained_cfg") or {})
    except ValidationError as error:
        key = ".".join(map(str, ("pretrained_cfg", *error.errors()[0]["loc"])))
        raise InputError(
            f"{path.parent / CONFIG}: {key} is not as timm writes it",
            "mean and std are three numbers each, std above 0.",
        ) from None
    model.pretrained_cfg |= {
        "mean": own.mean or dataset.mean,
        "std": own.std or dataset.std,
        "label_names": _label_names(config.get("label_names"), path.parent / CONFIG),
    }
    if not (own.mean and own.std):
        mean, std = ([round(value, 4) for value in model.pretrained_cfg[key]] for key in ("mean", "std"))
        logger.warning(
            f"teacher {path} does not say how its images were normalised: mean {mean} and std {std}, those of "
            f"{dataset.name}, are taken. {path.parent / CONFIG} sets others, as timm's save_for_hf writes it: "
            '{"pretrained_cfg": {"mean": [...], "std": [...]}}'
        )
    return as_teacher(model, dataset, str(path))


def as_teacher(model: Any, dataset: Dataset, name: str) -> nn.Module:
    """The teacher behind the normalisation that its weights expect.

    Args:
        model: a timm model or an Ensemble.
        dataset: its images are normalised with its own mean and std.
        name: for error messages.

    Returns:
        The model itself where its mean and std are the data set's, else a Renormalized model.

    Raises:
        InputError: the model's classes are not those of the data.
    """
    classes, cfg = model.num_classes, model.pretrained_cfg
    if classes != dataset.num_classes:
        raise InputError(
            f"teacher {name} has {classes} classes and {dataset.name} has {dataset.num_classes}",
            "Fine-tune it on this data first, or set teacher.source: train.",
        )
    labels = cfg.get("label_names")
    if labels and list(labels) != dataset.class_names:
        pairs = zip_longest(labels, dataset.class_names)
        number, (theirs, ours) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        raise InputError(
            f"teacher {name} has other classes than {dataset.name}: class {number} is {theirs!r} there, {ours!r} here",
            "Order counts, too.",
        )
    mean, std = (torch.tensor(cfg.get(key) or getattr(dataset, key), dtype=torch.float32) for key in ("mean", "std"))
    data_mean, data_std = torch.tensor(dataset.mean), torch.tensor(dataset.std)
    if torch.allclose(mean, data_mean, atol=1e-3) and torch.allclose(std, data_std, atol=1e-3):
        return model
    return Renormalized(model, data_std / std, (data_mean - mean) / std)


def _label_names(content: Any, path: Path) -> list[str] | None:
    """Class names as a list, as timm writes them, or as a mapping from the number of the class."""
    if content is None:
        return None
    if isinstance(content, Mapping) and all(str(number) in content for number in range(len(content))):
        content = [content[str(number)] for number in range(len(content))]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise InputError(f"{path}: label_names are not names of classes", "A list of texts is expected, one a class.")
    return content


def normalization(model: nn.Module, dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation with which the model's input is normalised, for RGB values in 0..1.

    A model that does not say takes the data set's.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    return tuple(cfg.get("mean", dataset.mean)), tuple(cfg.get("std", dataset.std))
