"""Records feature maps by module name while a model computes its logits.

In: a model and names of its modules. Out: their maps, [N, C, H, W]. Forward hooks do it, in the one forward pass of a
step. They reach every module of any nn.Module, also through DDP and torch.compile. timm's forward_intermediates reaches
only the stages, and it bypasses forward(), which both wrappers need.
"""

import difflib
import functools
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.losses.layouts import layout_of, own_layout, owner_of, stages_of
from compress.models.inference import InferenceTeacher
from compress.models.wrappers import unwrapped
from compress.system.errors import UsageError
from compress.system.modules import evaluating


class Tap:
    """The maps [N, C, H, W] of named modules of a model, from its last forward pass within `recording`.

    The outputs of modules become maps:

    - Tokens [N, L, D] become [N, D, H, W], without class and register tokens.
    - [N, H, W, C] becomes [N, C, H, W].
    - Vectors [N, D] become [N, D, 1, 1].
    - A tuple that holds exactly one tensor stands for that tensor.

    Attributes:
        paths: the module's path for each name that was given.
        shapes: [C, H, W] for each path.

    Args:
        names: as torch and timm spell them (layer3, blocks.11, layer2.0.conv1). None is the last stage of timm's
            feature_info.
        images: float32 [N, 3, S, S]. The model runs on them once, in eval mode, to check the names and find the
            channels.
        role: "student" or "teacher", for error messages.

    Raises:
        UsageError: for one of these reasons:

            - A name does not exist. The hint lists the nearest ones.
            - A module does not put out one map for each image.
            - The position of its channels cannot be told.
            - A later module changes its output in place.
    """

    def __init__(self, model: nn.Module, names: Iterable[str | None], images: Tensor, *, role: str) -> None:
        self._whole = model
        self._model: Any = _inner(model)
        self._role = role
        self._outputs: dict[str, Any] = {}
        self._layouts: dict[str, str] = {}
        self._modules = {
            path: module
            for path, module in self._model.named_modules()
            if path and type(module) not in (nn.ModuleList, nn.ModuleDict)  # torch never calls these
        }
        self.paths = {name: self._last_stage() if name is None else self._path(name) for name in names}
        self._hooks = {path: functools.partial(self._keep, path) for path in self.paths.values()}
        self.shapes = self._probe(images)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records the forward passes within the block. After it the model has no hooks."""
        self._outputs = {}
        with ExitStack() as hooks:
            for path, keep in self._hooks.items():
                hooks.enter_context(self._modules[path].register_forward_hook(keep))
            yield

    def features(self) -> dict[str, Tensor]:
        """The maps [N, C, H, W] of the last recorded pass, by path. The Tap then forgets them.

        Raises:
            UsageError: a module put out no map, or did not run since the last call.
        """
        outputs, self._outputs = self._outputs, {}
        return {path: self._as_map(path, outputs.get(path)) for path in self._hooks}

    def _keep(self, path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._outputs[path] = _only_tensor(output)

    def _path(self, name: str) -> str:
        if name in self._modules:
            return name
        stages = f" Its stages: {', '.join(found)}." if (found := self._stages()) else ""
        raise UsageError(f"the {self._role} has no feature {name!r}", f"Nearest: {self._nearest(name)}.{stages}")

    def _last_stage(self) -> str:
        if not (stages := stages_of(self._model)):
            near = ", ".join((self._stages() or [*self._modules])[-3:])
            why = f"the {self._role} does not say which is its last stage"
        elif (last := stages[-1]["module"]) in self._modules:
            return last
        else:
            near = self._nearest(last)
            why = f"the last stage of the {self._role} by its feature_info, {last!r}, is no module"
        raise UsageError(why, f"Name a module as {self._role}: of the term, such as {near}.")

    def _nearest(self, name: str) -> str:
        return ", ".join(difflib.get_close_matches(name, self._modules, n=4, cutoff=0.0))

    def _stages(self) -> list[str]:
        """The stages that are modules, also of timm models inside another model."""
        named = [
            f"{path}.{stage['module']}".removeprefix(".")
            for path, module in self._model.named_modules()
            for stage in stages_of(module)
        ]
        return [path for path in named if path in self._modules]

    def _beside(self, path: str) -> str:
        """The stage around the module, else every stage, else the module around it."""
        stages = self._stages()
        around = [stage for stage in stages if path.startswith(f"{stage}.")]
        return ", ".join(around or stages) or path.rpartition(".")[0]

    def _probe(self, images: Tensor) -> dict[str, torch.Size]:
        if not self._hooks:
            return {}
        versions: dict[str, int] = {}
        layers: dict[str, str | None] = {}

        def note(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
            versions[path] = getattr(_only_tensor(output), "_version", 0)

        def note_layout(path: str, layout: str, module: nn.Module, inputs: Any, output: Any) -> None:
            is_map = isinstance(output, Tensor) and output.dim() == 4 and len(output) == len(images)
            layers[path] = layout if is_map else None

        with ExitStack() as hooks, evaluating(self._whole), torch.no_grad(), self.recording():
            for path in self._hooks:
                hooks.enter_context(self._modules[path].register_forward_hook(functools.partial(note, path)))
            for path, module in self._modules.items():
                if layout := own_layout(module):
                    look = functools.partial(note_layout, path, layout)
                    hooks.enter_context(module.register_forward_hook(look))
            self._whole.forward(images)  # not compiled: the first compiled call must see the hooks of training
        for path, output in self._outputs.items():
            if getattr(output, "_version", 0) != versions[path]:
                raise self._refused(path, "is changed in place by what follows it", "Name the module after it.")
            if isinstance(output, Tensor) and output.dim() > 1 and len(output) != len(images):
                raise self._refused(path, f"is {list(output.shape)} for {len(images)} images, not one map for each")
            if isinstance(output, Tensor) and output.dim() == 4:
                layout = layout_of(self._model, path, output.shape, layers)
                if layout is None:
                    raise self._refused(
                        path,
                        f"is {list(output.shape)}, of which nothing says where its channels are",
                        f"Name a module beside it, such as {self._beside(path)}.",
                    )
                self._layouts[path] = layout
        return {path: feature.shape[1:] for path, feature in self.features().items()}

    def _as_map(self, path: str, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            what = "puts out nothing" if output is None else f"puts out a {type(output).__name__}"
            raise self._refused(path, f"{what}, not a tensor")
        if output.dim() == 4:
            return output.permute(0, 3, 1, 2) if self._layouts[path] == "NHWC" else output
        if output.dim() == 3:
            return self._grid(path, output)
        if output.dim() == 2:
            return output[:, :, None, None]
        raise self._refused(path, f"is {list(output.shape)}, not a feature map")

    def _grid(self, path: str, tokens: Tensor) -> Tensor:
        """[N, D, H, W] from the square of patch tokens in [N, L, D], behind class and register tokens."""
        owner: Any = self._model.get_submodule(owner_of(self._model, path))
        for prefix in (getattr(owner, "num_prefix_tokens", 0), 0):
            side = math.isqrt(max(0, tokens.shape[1] - prefix))
            if side and side**2 == tokens.shape[1] - prefix:
                return tokens[:, prefix:].mT.unflatten(2, (side, side))
        raise self._refused(path, f"is {list(tokens.shape)}, whose tokens are not a square of patches")

    def _refused(self, path: str, why: str, hint: str = "Name another module.") -> UsageError:
        return UsageError(f"feature {path!r} of the {self._role} {why}", hint)


def _only_tensor(output: Any) -> Any:
    """The only tensor of a tuple, such as tokens beside the size of their grid. Any other output as it is."""
    tensors = [part for part in output if isinstance(part, Tensor)] if isinstance(output, tuple | list) else []
    return tensors[0] if len(tensors) == 1 else output


def _inner(model: nn.Module) -> nn.Module:
    """The model inside our wrappers, whose module names the user knows."""
    if isinstance(model, InferenceTeacher):
        return _inner(model.module)
    return unwrapped(model)
