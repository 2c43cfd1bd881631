"""Models that start with published weights: those that timm names, those of a folder, or those of a file.

In: a recipe's student or teacher. Out: what the weights say of themselves, then the model with them. Weights fit whole
or are refused. Only the last layer may be new.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg
from torch import Tensor, nn

from compress.data.preprocessing import Preprocessing
from compress.models import small_stem
from compress.models.checkpoints import read_checkpoint, some_names, without_prefix
from compress.models.create import architecture, make_timm_model, without_origin
from compress.models.folder import CONFIG, WEIGHTS, label_names, read_config, recorded_args
from compress.models.heads import classes_of, classifier_names
from compress.models.hub import hub_file
from compress.models.registry import check_published
from compress.models.weight_files import weights_in
from compress.recipe import Member, Student
from compress.system import files
from compress.system.errors import CompressError, InputError, UsageError, first_line
from compress.system.paths import user_path

logger = logging.getLogger(__name__)

_TORCH_WEIGHTS = "pytorch_model.bin"
_SOURCES = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "custom_load", "state_dict")
_MISFIT_HINT = "Check model, stem and args, or give other weights."
_CFG_KEYS = {field.name for field in fields(PretrainedCfg)}


@dataclass(frozen=True)
class Published:
    """Weights that are published, or that a user has, before they are loaded.

    Attributes:
        name: for messages: timm's name with the tag, or a path.
        architecture: timm's name without a tag.
        args: arguments that the model was made with.
        cfg: timm's pretrained_cfg: how its images are normalised, and the names of its classes.
        place: a file, or a repository of the Hugging Face Hub and the names that the file may have.
        setting: the recipe's key that names a place of other weights, for messages.
        revision: of the repository.
        assumed: the published model that cfg is of, where nothing beside the weights says it.
    """

    name: str
    architecture: str
    args: dict[str, Any]
    cfg: dict[str, Any]
    place: Path | tuple[str, tuple[str, ...]]
    setting: str = "student.pretrained"
    revision: str | None = None
    assumed: str = ""

    @property
    def preprocessing(self) -> Preprocessing:
        """How the model sees pictures. Raises InputError where its config.json is damaged."""
        return Preprocessing.of(self.cfg, self.name)

    @property
    def headless(self) -> bool:
        """Whether the weights have no last layer for classes, as those of DINOv2."""
        return self.cfg.get("num_classes") == 0

    @cached_property
    def file(self) -> Path:
        """The file of the weights, downloaded where the Hub's cache does not have it.

        Raises:
            MachineError: it cannot be downloaded.
            InputError: the repository or the file does not exist.
        """
        if isinstance(self.place, Path):
            return self.place
        return hub_file(*self.place, revision=self.revision, setting=self.setting)

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return files.sha256_file(self.file)


def find_published(settings: Student | Member) -> Published:
    """What the published weights of a recipe's student or teacher say of themselves. They are not downloaded yet.

    Raises:
        UsageError: timm has no such model, or publishes no such weights.
        InputError: the weights are of another architecture, or their config.json cannot be read.
        MachineError: the configuration is on the Hub, which cannot be reached.
    """
    found = _found(settings)
    own = "small" if found.architecture.endswith(small_stem.SUFFIX) else "stock"
    if settings.stem not in ("auto", own):
        raise UsageError(
            f"{found.name} has its {own} stem, and stem: {settings.stem} is asked for", f"Use stem: {own}."
        )
    return found


def _found(settings: Student | Member) -> Published:
    of_teacher = isinstance(settings, Member)
    given = settings.weights if isinstance(settings, Member) else settings.pretrained
    setting = "teacher.weights" if of_teacher else "student.pretrained"
    if isinstance(given, str):
        return replace(_of_path(settings, user_path(given)), setting=setting)
    scheme, _, place = settings.model.partition(":")
    if scheme == "local-dir" and place:
        return replace(_of_folder(user_path(place), settings.args), setting=setting)
    if scheme == "hf-hub" and place:
        repo, _, revision = place.partition("@")
        config = hub_file(repo, (CONFIG,), revision=revision or None, setting=setting)
        found = _of_folder(config.parent, settings.args)
        place = (repo, (WEIGHTS, _TORCH_WEIGHTS))
        return replace(found, name=settings.model, place=place, setting=setting, revision=revision or None)
    check_published(settings.model)
    name, cfg = settings.model, timm.get_pretrained_cfg(settings.model)
    assert cfg is not None
    if not cfg.hf_hub_id:
        raise UsageError(
            f"the weights of {name} are not on the Hugging Face Hub",
            f"Download {cfg.url} and set {setting} to the file.",
        )
    names = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else (WEIGHTS, _TORCH_WEIGHTS)
    return Published(name, name.split(".")[0], dict(settings.args), cfg.to_dict(), (cfg.hf_hub_id, names), setting)


def published_model(settings: Student | Member, image_size: int, *, class_names: list[str] | None = None) -> nn.Module:
    """A model with published weights.

    Args:
        settings: the recipe's student or teacher.
        image_size: pixels a side.
        class_names: of the data. The last layer is new, from torch's random stream, where its classes are others. None
            keeps the last layer as it is.

    Raises:
        UsageError: timm has no such model, publishes no such weights, or refuses the arguments.
        InputError: the weights cannot be read or do not fit the model.
        MachineError: they cannot be downloaded.
    """
    found = find_published(settings)
    if found.assumed:
        mean, std = ([round(value, 4) for value in found.cfg.get(key) or ()] for key in ("mean", "std"))
        logger.warning(
            f"{found.name} does not say how its images were normalised: mean {mean} and std {std}, those of timm's "
            f"{found.assumed}, are taken. A {CONFIG} beside it sets others."
        )
    classes = None if class_names is None else len(class_names)
    cfg = {key: value for key, value in found.cfg.items() if key in _CFG_KEYS and key not in _SOURCES}
    target: Any = make_timm_model(
        found.architecture, found.args, image_size, pretrained_cfg=cfg, num_classes=classes or 1
    )
    head = classifier_names(target)
    weights = without_prefix(read_checkpoint(found.file), target.state_dict(), found.file)
    kept_classes = classes_of(weights, head, found.cfg)
    loaded = _loaded(found, cfg, weights, kept_classes, image_size)
    if classes is None:
        model = loaded
    elif kept_classes == classes and _may_be(found.cfg.get("label_names"), class_names):
        model = loaded
        logger.info(f"{found.name}: weights of {found.file}, with their last layer of {classes} classes")
    else:
        body = {key: value for key, value in loaded.state_dict().items() if not key.startswith(head)}
        missing = target.load_state_dict(body, strict=False).missing_keys
        if strange := [key for key in missing if not key.startswith(head)]:
            raise _misfit(found, f"{strange[0]} is missing")
        model = target
        logger.info(f"{found.name}: weights of {found.file}, with a new last layer for {classes} classes")
    own = {
        **cfg,
        "num_classes": kept_classes if classes is None else classes,
        "architecture": found.architecture,
        "input_size": (3, image_size, image_size),
    }
    if model is target:
        own.pop("label_names", None)
    model.pretrained_cfg = without_origin(own)
    return model


def _of_path(settings: Student | Member, path: Path) -> Published:
    if not path.exists():
        raise InputError(f"no weights at {path}")
    name = architecture(settings, image_size=1024)
    if path.is_dir():
        found = _of_folder(path, settings.args)
        if plain_architecture(found.architecture) != plain_architecture(name):
            raise InputError(
                f"{path} holds weights of {found.architecture}, and the recipe asks for {settings.model}",
                f"Set model: {found.architecture}, or give other weights.",
            )
        return found
    if (path.parent / CONFIG).is_file():
        beside = _of_folder(path.parent, settings.args)
        if plain_architecture(beside.architecture) == plain_architecture(name):
            return replace(beside, name=str(path), place=path)
    plain = name.split(".")[0]
    asked = settings.model if settings.model.startswith(f"{plain}.") else plain  # tags differ in their mean, say
    published = timm.get_pretrained_cfg(asked)
    cfg = {} if published is None else {**published.to_dict(), "label_names": None, "num_classes": None}
    return Published(str(path), plain, dict(settings.args), cfg, path, assumed=asked)


def _of_folder(folder: Path, args: Mapping[str, Any]) -> Published:
    """Weights beside a config.json."""
    config = read_config(folder)
    if not config.get("architecture"):
        raise InputError(f"{folder / CONFIG} names no architecture of timm", "timm's save_for_hf writes one.")
    cfg = dict(config.get("pretrained_cfg") or {})
    cfg["label_names"] = label_names(config.get("label_names"), folder / CONFIG)
    if isinstance(config.get("num_classes"), int):
        cfg["num_classes"] = config["num_classes"]
    return Published(str(folder), config["architecture"], {**recorded_args(config), **args}, cfg, weights_in(folder))


def plain_architecture(name: str) -> str:
    """An architecture without tag and stem."""
    return name.split(".")[0].removesuffix(small_stem.SUFFIX)


def _loaded(found: Published, cfg: dict[str, Any], weights: dict[str, Tensor], classes: int, image_size: int) -> Any:
    """The model as published. timm adapts names and position embeddings, and every weight must fit."""
    try:
        with _noting_missing() as missing:
            model = make_timm_model(
                found.architecture,
                found.args,
                image_size,
                num_classes=classes,
                pretrained=True,
                pretrained_cfg={**cfg, "num_classes": classes, "state_dict": weights},
            )
    except CompressError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        hint, made_for = _MISFIT_HINT, (found.cfg.get("input_size") or [image_size])[-1]
        default = timm.get_pretrained_cfg(found.architecture)
        if made_for != image_size and default is not None and default.fixed_input_size:
            key = "teacher.image_size" if found.setting.startswith("teacher") else "data.image_size"
            hint = f"They are for images of {made_for} pixels, which timm cannot change: set {key}={made_for}."
        raise _misfit(found, lines[1] if len(lines) > 1 else first_line(error), hint, weights) from error
    if missing:
        raise _misfit(found, f"{missing[0]} is missing", names=weights)
    return model


@contextmanager
def _noting_missing() -> Iterator[list[str]]:
    """Collects what the file lacks. timm loads some families loosely, and only logs it."""
    load, missing = nn.Module.load_state_dict, []

    def noting(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = load(self, *args, **kwargs)
        missing.extend(result.missing_keys)
        return result

    nn.Module.load_state_dict = noting  # type: ignore[method-assign]
    try:
        yield missing
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]


def _misfit(found: Published, why: str, hint: str = _MISFIT_HINT, names: Collection[str] = ()) -> InputError:
    short = why if len(why) <= 160 else why[:157] + "..."
    has = f" It has {some_names(names)}" if names and ("key(s)" in why or "missing" in why) else ""
    return InputError(f"{found.file} does not fit {found.architecture}: {short}{has}", hint)


def _may_be(known: list[str] | None, class_names: list[str] | None) -> bool:
    """Whether the classes of a last layer can be those of the data."""
    return not known or known == class_names
