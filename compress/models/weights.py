"""Teachers with weights that somebody else trained.

In: a recipe's teacher. Out: a model behind the normalisation that its weights expect. A teacher that does not fit the
model or the data is an error that names the difference.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.data import Dataset
from compress.data.preprocessing import Preprocessing
from compress.models import small_stem
from compress.models.checkpoints import COUNTED, read_checkpoint, some_names, without_prefix
from compress.models.class_order import reorder_classes
from compress.models.create import architecture, create_model
from compress.models.folder import CONFIG, label_names, read_config, recorded_args
from compress.models.published import find_published, plain_architecture, published_model
from compress.models.weight_files import weights_in
from compress.models.wrappers import Adapted
from compress.recipe import Member
from compress.system.errors import InputError, listed
from compress.system.paths import user_path

logger = logging.getLogger(__name__)


def pretrained_teacher(settings: Member, dataset: Dataset, *, for_features: bool = False) -> nn.Module:
    """A teacher with published weights as they are.

    Args:
        dataset: as the teacher sees it.
        for_features: nobody needs its logits. A last layer for other classes is then taken off.

    Raises:
        MachineError: the weights are neither in the cache nor on the network.
        UsageError: timm cannot make the model, or publishes no such weights.
        InputError: the weights do not fit, or its classes are not those of the data.
    """
    model: Any = published_model(settings, dataset.image_size)
    if for_features and model.num_classes != dataset.num_classes:
        model.reset_classifier(0)
        model.pretrained_cfg["num_classes"] = 0
    return as_teacher(model, dataset, settings.weights or settings.model)


def teacher_preprocessing(settings: Member) -> Preprocessing:
    """How a teacher sees pictures: as its weights expect, or as the data's own statistics say.

    Raises:
        InputError: its config.json is damaged.
        UsageError: timm publishes no such weights.
        MachineError: its configuration is on the Hub, which cannot be reached.
    """
    if settings.published:
        return find_published(settings).preprocessing
    if settings.checkpoint is None:
        return Preprocessing()
    path = user_path(settings.checkpoint)
    folder = path if path.is_dir() else path.parent
    return Preprocessing.of(_config_of(settings, path).get("pretrained_cfg") or {}, str(folder / CONFIG))


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
    path = user_path(settings.checkpoint)
    config = _config_of(settings, path)
    if path.is_dir():
        path = weights_in(path)
    settings = _as_recorded(settings, config)
    model: Any = create_model(settings, num_classes=dataset.num_classes, image_size=dataset.image_size)
    expected = model.state_dict()
    weights = without_prefix(read_checkpoint(path), expected, path)
    if differing := [key for key in expected if key in weights and expected[key].shape != weights[key].shape]:
        key = differing[-1]
        last = list(expected)[-1].rpartition(".")[0]
        if all(name.rpartition(".")[0] == last for name in differing):
            raise InputError(
                f"teacher {path} has {weights[key].shape[0]} classes and {dataset.name} has {dataset.num_classes}",
                "Fine-tune it on this data: teacher.source: finetune, with teacher.weights in place of "
                "teacher.checkpoint.",
            )
        raise InputError(
            f"{path} does not fit {settings.model}: "
            f"{key} is {list(weights[key].shape)}, not {list(expected[key].shape)}",
            "Check teacher.model, teacher.stem and teacher.args.",
        )
    missing = [key for key in expected if key not in weights and not key.endswith(COUNTED)]
    strange = [key for key in weights if key not in expected]
    if missing or strange:
        lacks = f"lacks {some_names(missing)}" if missing else ""
        has = f"has {some_names(strange)}, which the model has not" if strange else ""
        what = "; it ".join(filter(None, (lacks, has)))
        raise InputError(f"{path} does not fit {settings.model}: it {what}", "Check teacher.model and teacher.args.")
    model.load_state_dict(weights)
    own = Preprocessing.of(config.get("pretrained_cfg") or {}, str(path.parent / CONFIG))
    model.pretrained_cfg |= {
        "mean": own.mean or dataset.mean,
        "std": own.std or dataset.std,
        "label_names": label_names(config.get("label_names"), path.parent / CONFIG),
    }
    if not (own.mean and own.std):
        mean, std = ([round(value, 4) for value in model.pretrained_cfg[key]] for key in ("mean", "std"))
        logger.warning(
            f"teacher {path} does not say how its images were normalised: mean {mean} and std {std}, those of "
            f"{dataset.name}, are taken. {path.parent / CONFIG} sets others, as timm's save_for_hf writes it: "
            '{"pretrained_cfg": {"mean": [...], "std": [...]}}'
        )
    return as_teacher(model, dataset, str(path))


def _config_of(settings: Member, path: Path) -> dict[str, Any]:
    """What a config.json says of weights; nothing where there is none. Beside a single file it may be of another file.

    Raises:
        InputError: it is damaged, or that of a folder is of another architecture.
    """
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and not (folder / CONFIG).exists():
        return {}
    config = read_config(folder)
    recorded, asked = _recorded_architecture(settings, config), architecture(settings, image_size=1024)
    if recorded is None or plain_architecture(recorded) == plain_architecture(asked):
        return config
    if not path.is_dir():
        return {}
    raise InputError(
        f"{path} holds weights of {recorded}, and the recipe asks for {settings.model}",
        f"Set teacher.model: {recorded}, or give other weights.",
    )


def _recorded_architecture(settings: Member, config: Mapping[str, Any]) -> str | None:
    """None where config.json names none, as of a module that was handed over, or the model has a name of the Hub's."""
    recorded = config.get("architecture")
    return recorded if isinstance(recorded, str) and recorded and ":" not in settings.model else None


def _as_recorded(settings: Member, config: Mapping[str, Any]) -> Member:
    """The settings with arguments and stem of config.json: with others the same weights compute something else."""
    if (recorded := _recorded_architecture(settings, config)) is None:
        return settings
    stem = "small" if recorded.split(".")[0].endswith(small_stem.SUFFIX) else "stock"
    model, args = plain_architecture(settings.model), {**recorded_args(config), **settings.args}
    return settings.model_copy(update={"model": model, "stem": stem, "args": args})


def as_teacher(model: Any, dataset: Dataset, name: str) -> nn.Module:
    """The teacher behind what makes the images of a data set those that its weights expect.

    Args:
        model: a timm model or an Ensemble. One without a last layer (num_classes 0) is for feature terms alone.
        dataset: as another model sees it.
        name: for error messages.

    Returns:
        The model itself where its mean, std and image size are the data set's, else an Adapted model.

    Raises:
        InputError: the model's classes are not those of the data.
    """
    classes, cfg = model.num_classes, model.pretrained_cfg
    if classes not in (0, dataset.num_classes):
        raise InputError(
            f"teacher {name} has {classes} classes and {dataset.name} has {dataset.num_classes}",
            "Fine-tune it on this data: teacher.source: finetune.",
        )
    labels = list(cfg.get("label_names") or dataset.class_names)
    if classes and len(labels) != classes:
        raise InputError(
            f"teacher {name} has {classes} classes, and its label_names are {len(labels)}: {listed(labels, most=3)}",
            f"Name each class of its {CONFIG}, in order.",
        )
    same = sorted(labels) == sorted(dataset.class_names) and labels != dataset.class_names
    if same and reorder_classes(model, [labels.index(label) for label in dataset.class_names]):
        cfg["label_names"] = labels = dataset.class_names
        logger.info(f"teacher {name}: its classes are put into the order of {dataset.name}, by their names")
    if labels != dataset.class_names:
        pairs = zip_longest(labels, dataset.class_names)
        number, (theirs, ours) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        raise InputError(
            f"teacher {name} has other classes than {dataset.name}: class {number} is {theirs!r} there, {ours!r} here",
            "Order counts, too.",
        )
    return adapted(model, dataset, cfg.get("mean"), cfg.get("std"), (cfg.get("input_size") or [None])[-1])


def adapted(
    model: nn.Module,
    dataset: Dataset,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    image_size: int | None = None,
) -> nn.Module:
    """The model for the images of a data set, where it expects others.

    Args:
        mean: that the model expects, of channels in 0..1; None for the data set's.
        std: the same.
        image_size: that the model expects, in pixels a side; None for any.
    """
    own_mean, own_std = torch.tensor(mean or dataset.mean), torch.tensor(std or dataset.std)
    data_mean, data_std = torch.tensor(dataset.mean), torch.tensor(dataset.std)
    size = image_size if image_size not in (None, dataset.image_size) else None
    same = torch.allclose(own_mean, data_mean, atol=1e-3) and torch.allclose(own_std, data_std, atol=1e-3)
    if same and size is None:
        return model
    return Adapted(model, data_std / own_std, (data_mean - own_mean) / own_std, size)
