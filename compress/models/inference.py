"""Makes a teacher cheap, since it only computes logits.

In: a module in any state. Out: a copy in eval mode. Its BatchNorms are folded into the convolutions before them, and
its weights have the precision in which it runs. The logits equal the module's up to rounding in that precision.
"""

import copy

import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval

from compress.system.modules import evaluating, in_channels_last

_TOLERANCE = 1e-3  # of the largest logit, in float32: folding reorders sums; a wrong fold differs far more


class InferenceTeacher(nn.Module):
    """Maps float32 images [N, 3, H, W] to logits [N, C]. It has no gradients and ignores the autocast around it.

    The images stay as they are, also where the module changes its input in place.

    Args:
        precision: in which it multiplies, by an autocast of its own. What follows from positions, such as rotary
            embeddings, and what is added up, such as the tokens of a transformer, stays in float32.
        centred: the mean over the classes is taken off each row. Its softmax stays the same.
    """

    def __init__(self, module: nn.Module, precision: torch.dtype, *, centred: bool = False) -> None:
        super().__init__()
        self.module, self.precision, self.centred = module.requires_grad_(False), precision, centred
        super().train(False)

    def train(self, mode: bool = True) -> "InferenceTeacher":
        """Does nothing: a teacher stays in eval mode."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        lower = self.precision != torch.float32
        with torch.no_grad(), torch.autocast(images.device.type, self.precision if lower else None, enabled=lower):
            logits = self.module(images.clone())
            return logits - logits.mean(dim=1, keepdim=True) if self.centred else logits


def for_inference(
    teacher: nn.Module, example: Tensor, *, precision: torch.dtype, fold: bool = True
) -> InferenceTeacher:
    """A copy of the teacher for inference, on the device of `example`.

    Args:
        example: normalised float32 images [N, 3, H, W].
        precision: of weights and arithmetic.
        fold: whether to fold BatchNorms. Not for a teacher whose single layers are looked at.

    Returns:
        The teacher.

        - It stays unfolded where folding would change its logits, for example with a BatchNorm that is used twice.
        - Log-probabilities, as an ensemble has them, are centred over the classes (ours). The cosine of DTD and the
          discriminator of the adversarial term would otherwise see what all rows have in common.
    """
    chosen = in_channels_last(copy.deepcopy(teacher), example.device)
    with torch.no_grad():
        with evaluating(chosen):
            expected = chosen(example.clone())
        if fold:
            folded = reparameterize_model(chosen)
            with evaluating(folded):
                for conv, norm in _pairs(folded, example.clone()):
                    _fold(folded, conv, norm)
                found = folded(example.clone())
            if bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max()):
                chosen = folded
    centred = bool((expected.logsumexp(dim=1).abs() <= _TOLERANCE).all())
    return InferenceTeacher(_in_precision(chosen, precision), precision, centred=centred)


def _in_precision(model: nn.Module, precision: torch.dtype) -> nn.Module:
    """The model in eval mode with its convolutions and linear layers in that precision. All else stays in float32."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, _ConvNd)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(precision)
    return model.eval()


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and BatchNorms where the output of the first is the input of the second only."""
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # keeps the tensors alive, because Python reuses the id of a dead one
    pairs: list[tuple[str, str]] = []

    def remember(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            made[id(output)] = name
            kept.append(output)

        return hook

    def look(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])], name))

        return hook

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(remember(name)))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(look(name)))
    try:
        model(example)
    finally:
        for handle in handles:
            handle.remove()
    once = [conv for conv, _ in pairs], [norm for _, norm in pairs]
    return [(conv, norm) for conv, norm in pairs if once[0].count(conv) == 1 and once[1].count(norm) == 1]


def _fold(model: nn.Module, conv: str, norm: str) -> None:
    old = model.get_submodule(norm)
    model.set_submodule(conv, fuse_conv_bn_eval(model.get_submodule(conv), old))  # type: ignore[type-var]
    # timm's BatchNormAct2d also contains the activation, which must stay.
    rest = (
        nn.Sequential(old.get_submodule("drop"), old.get_submodule("act"))
        if isinstance(old, BatchNormAct2d)
        else nn.Identity()
    )
    model.set_submodule(norm, rest)
