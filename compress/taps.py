"""Feature maps by module name, kept by forward hooks while a model computes its logits.

Hooks reach every module of any nn.Module, timm's stages and what lies inside them alike, in the one forward pass of a
step, through DDP and torch.compile. timm's forward_intermediates reaches the stages alone, and goes around forward(),
where both wrappers act.
"""

import difflib
import functools
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import UsageError
from compress.frozen import Frozen
from compress.wrappers import Renormalized


class Tap:
    """The maps [N, C, H, W] that named modules of a model put out in its last forward pass within `recording`.

    names: as torch and timm spell them (layer3, blocks.11, layer2.0.conv1); None is the last map before pooling, which
    timm's feature_info names. Tokens [N, L, D] become [N, D, H, W] without class and register tokens, channels last
    become channels first, and vectors [N, D] become [N, D, 1, 1].
    images: a batch that is run once, in eval mode, to see that each name is a map. role: "student" or "teacher".

    Raises UsageError for a name that does not exist, with the nearest ones, and for a module that does not put out one
    map for each image, or whose map is changed in place by what follows it.
    """

    def __init__(self, model: nn.Module, names: Iterable[str | None], images: Tensor, *, role: str) -> None:
        self._whole = model
        self._model: Any = _inner(model)
        self._role = role
        self._outputs: dict[str, Any] = {}
        self.paths = {name: self._path(name) for name in names}
        """The modules by the names that were given."""
        self._hooks = {path: functools.partial(self._keep, path) for path in self.paths.values()}
        self.shapes = self._probe(images)
        """[C, H, W] by path."""

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Forward passes within are recorded; afterwards the model carries no hooks."""
        with ExitStack() as hooks:
            for path, keep in self._hooks.items():
                hooks.enter_context(self._model.get_submodule(path).register_forward_hook(keep))
            yield

    def features(self) -> dict[str, Tensor]:
        """The maps of the last recorded pass by path. They are handed over: a second call finds none."""
        outputs, self._outputs = self._outputs, {}
        return {path: self._as_map(path, outputs.get(path)) for path in self._hooks}

    def _keep(self, path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._outputs[path] = output

    def _path(self, name: str | None) -> str:
        modules = [path for path, _ in self._model.named_modules() if path]
        maps = [stage["module"] for stage in self._stages()]
        if name is None and not maps:
            raise UsageError(
                f"the {self._role} does not say which is its last feature map",
                f"Name a module as {self._role}: of the term, such as {', '.join(modules[-3:])}.",
            )
        path = maps[-1] if name is None else name
        if path not in modules:
            nearest = difflib.get_close_matches(path, modules, n=4, cutoff=0.0)
            stages = f" Its stages: {', '.join(maps)}." if set(maps) <= set(modules) and maps else ""
            raise UsageError(f"the {self._role} has no feature {path!r}", f"Nearest: {', '.join(nearest)}.{stages}")
        return path

    def _stages(self) -> list[dict[str, Any]]:
        info = getattr(self._model, "feature_info", [])
        return list(getattr(info, "info", info))

    def _probe(self, images: Tensor) -> dict[str, torch.Size]:
        if not self._hooks:
            return {}
        versions: dict[str, int] = {}

        def note(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
            versions[path] = getattr(output, "_version", 0)

        was_training = self._whole.training
        with ExitStack() as hooks, torch.no_grad(), self.recording():
            for path in self._hooks:
                module = self._model.get_submodule(path)
                hooks.enter_context(module.register_forward_hook(functools.partial(note, path)))
            self._whole.eval().forward(images)  # past torch.compile, whose first call is to see the hooks
        self._whole.train(was_training)
        now = {path: getattr(output, "_version", 0) for path, output in self._outputs.items()}
        features = self.features()
        for path, feature in features.items():
            if len(feature) != len(images):
                raise self._refused(path, f"is {list(feature.shape)} for {len(images)} images, not one map for each")
            if now[path] != versions[path]:
                raise self._refused(path, "is changed in place by what follows it", "Name the module after it.")
        return {path: feature.shape[1:] for path, feature in features.items()}

    def _as_map(self, path: str, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            what = "puts out nothing" if output is None else f"puts out a {type(output).__name__}"
            raise self._refused(path, f"{what}, not a tensor")
        if output.dim() == 4:
            return output.permute(0, 3, 1, 2) if self._has_channels_last(path, output) else output
        if output.dim() == 3:
            return self._grid(path, output)
        if output.dim() == 2:
            return output[:, :, None, None]
        raise self._refused(path, f"is {list(output.shape)}, not a feature map")

    def _has_channels_last(self, path: str, output: Tensor) -> bool:
        if getattr(self._model, "output_fmt", "NCHW") == "NHWC":
            return True
        channels = next((stage.get("num_chs") for stage in self._stages() if stage["module"] == path), None)
        return output.shape[1] != channels == output.shape[3]

    def _grid(self, path: str, tokens: Tensor) -> Tensor:
        """[N, D, H, W] of the patch tokens [N, L, D], which come after class and register tokens and form a square."""
        for prefix in (getattr(self._model, "num_prefix_tokens", 0), 0):
            side = math.isqrt(max(0, tokens.shape[1] - prefix))
            if side and side**2 == tokens.shape[1] - prefix:
                return tokens[:, prefix:].mT.unflatten(2, (side, side))
        raise self._refused(path, f"is {list(tokens.shape)}, whose tokens are not a square of patches")

    def _refused(self, path: str, why: str, hint: str = "Name another module.") -> UsageError:
        return UsageError(f"feature {path!r} of the {self._role} {why}", hint)


def _inner(model: nn.Module) -> nn.Module:
    """The model whose modules have the names that users know."""
    if isinstance(model, Frozen):
        return _inner(model.module)
    return model.model if isinstance(model, Renormalized) else model
