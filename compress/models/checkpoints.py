"""Finds a model's weights in checkpoints of many tools.

In: a file. Out: tensors by the names that the model has. It finds which entries are the weights, and which prefix is
before their names. Where there is a moving average (EMA) of the weights, that is taken.
"""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.models.weight_files import file_content
from compress.system.errors import InputError, listed

logger = logging.getLogger(__name__)

EMA_KEYS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema_model_state_dict", "model_ema_state_dict"),
    *("model_state_dict_ema", "ema_weights", "ema_params", "averaged_model", "ema"),
)
"""Where timm, DeiT and others keep the moving average. Their published accuracy is that of the moving average."""
STATE_KEYS = ("state_dict", "model", "model_state_dict", "net", "weights", "params")
_INNER_KEYS = ("shadow", "module", *EMA_KEYS, *STATE_KEYS)
"""Below one of the keys above, where it holds more than weights, such as the decay."""
_AVERAGE = re.compile(r"(^|[._])(ema|averaged)([._]|$)")
"""In a prefix of names."""
COUNTED = "num_batches_tracked"
"""A buffer of BatchNorm that torch had not before 0.4.1, and that it fills where it is missing."""
_FEW = 4


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights in a file, by the names that the file uses.

    Args:
        path: safetensors, a torch file of tensors, or the index of shards of either. A torch file may hold more than
            weights, as training checkpoints of timm and Lightning do. Where it has several sets of weights, the moving
            average (EMA) is taken, and a log line says so.

    Raises:
        InputError: the file is missing or not whole, holds code or no weights, or a weight is not finite.
    """
    weights = _chosen(file_content(path), path)
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"{path}: {name} is not finite", "Take a checkpoint from before training diverged.")
    return weights


def without_prefix(weights: Mapping[str, Tensor], expected: Collection[str], path: Path) -> dict[str, Tensor]:
    """The weights without the prefix of a wrapper, such as `module.`, `_orig_mod.` or `model.`.

    Nothing changes unless one prefix gives all expected names; those of BatchNorm's counters may be missing. Where the
    names fit twice, and once as a moving average, as in `model.` and `ema_model.`, the moving average is taken. Weights
    without that prefix are left out.

    Args:
        weights: tensors by the names in the file.
        expected: the names in the model.
        path: for messages.

    Raises:
        InputError: several prefixes fit, so the file holds several models.
    """
    needed = [name for name in expected if not name.endswith(COUNTED)]
    if not needed:
        return dict(weights)
    longest = max(needed, key=len)
    candidates = {name.removesuffix(longest) for name in weights if name == longest or name.endswith(f".{longest}")}
    fitting = sorted(prefix for prefix in candidates if all(prefix + name in weights for name in needed))
    averages = [prefix for prefix in fitting if _AVERAGE.search(prefix)]
    of_averages = ""
    if len(fitting) == 2 and len(averages) == 1:
        other = next(prefix for prefix in fitting if prefix not in averages)
        of_averages = f"; it is the moving average of {other.rstrip('.') or 'the other weights'!r}"
        fitting = averages
    elif "" in fitting:
        fitting = [""]
    if len(fitting) > 1:
        raise InputError(
            f"{path} holds several models: {', '.join(prefix.rstrip('.') for prefix in fitting)}",
            "Save the one that is meant in a file of its own.",
        )
    if fitting in ([], [""]):
        return dict(weights)
    (prefix,) = fitting
    kept = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    rest = [name for name in weights if not name.startswith(prefix)]
    left_out = f", and {len(rest)} others are left out" if rest else ""
    logger.info(f"weights: {path}: {prefix!r} before the names is taken off{left_out}{of_averages}")
    if not _AVERAGE.search(prefix) and (average := next((name for name in rest if _AVERAGE.search(name)), None)):
        logger.warning(
            f"{path} has a moving average of the weights whose names do not fit, such as {average}: the weights "
            f"themselves are taken, those of {prefix.rstrip('.')!r}"
        )
    return kept


def some_names(names: Collection[str]) -> str:
    """A few of these names for a message, of different modules where there are several; the others are counted."""
    by_module: dict[str, str] = {}
    for name in names:
        by_module.setdefault(name.partition(".")[0], name)
    first = list(by_module.values())
    return listed([*first, *(name for name in names if name not in first)], most=_FEW)


def _chosen(content: Any, path: Path) -> dict[str, Tensor]:
    if _are_weights(content):
        return dict(content)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not weights by name", "A state_dict is expected.")
    found = {key: inner for key, value in content.items() if (inner := _weights_of(key, value)) is not None}
    known = [key for key in (*EMA_KEYS, *STATE_KEYS) if key in found]
    if not known and len(found) != 1:
        keys = ", ".join(repr(key) for key in content) or "nothing"
        raise InputError(f"{path} does not hold weights by name: it has {keys}", "A state_dict is expected.")
    key, *others = known or found
    inner, weights = found[key]
    if others or inner or key not in STATE_KEYS[:2]:
        beside = f", of {' and '.join(map(repr, [key, *others]))}" if others else ""
        logger.info(f"weights: {path}: {f'{key}.{inner}' if inner else key!r} is taken{beside}")
    if key in EMA_KEYS:
        return dict(_with_buffers(weights, [found[other][1] for other in others], path))
    for average in EMA_KEYS:
        if isinstance(content.get(average), Mapping) and content[average]:
            logger.warning(f"{path}: {average!r} holds no weights by name, and so {key!r} is taken, no moving average")
    return dict(weights)


def _weights_of(key: Any, value: Any) -> tuple[str, Mapping[str, Tensor]] | None:
    """The weights of an entry, and the key below it that holds them, if it is no set of weights itself."""
    if _are_weights(value):
        return "", value
    if key not in (*EMA_KEYS, *STATE_KEYS) or not isinstance(value, Mapping):
        return None
    return next(((inner, value[inner]) for inner in _INNER_KEYS if _are_weights(value.get(inner))), None)


def _with_buffers(
    average: Mapping[str, Tensor], others: list[Mapping[str, Tensor]], path: Path
) -> Mapping[str, Tensor]:
    """A moving average of the parameters alone has the statistics of BatchNorm from the weights that it is of."""
    whole = next((other for other in others if average.keys() < other.keys()), None)
    if whole is None:
        return average
    lacking = [name for name in whole if name not in average]
    logger.info(f"weights: {path}: what the moving average lacks is of the weights: {some_names(lacking)}")
    return {**whole, **average}


def _are_weights(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(v, Tensor) for v in content.values())
