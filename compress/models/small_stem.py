"""timm's ResNets with a stem for small images, registered as NAME_smallstem.

The stock stem divides the image by 4 before the first block, so a map of a 32-pixel image is only 8 pixels wide. The
small stem has a 3 x 3 convolution of stride 1 and no max-pool (He et al. 2015, section 4.2), as is usual on CIFAR.
"""

from typing import Any

from timm.models import list_models as timm_models
from timm.models import load_pretrained, model_entrypoint, register_model
from torch import nn

from compress.system.distribution import DISTRIBUTION

__all__: list[str] = []

SUFFIX = "_smallstem"


def import_line(architecture: str) -> str:
    """The lines that the code of a model card needs before `import timm`.

    For a small stem they import compress, which registers it. For any other model there are none.
    """
    if not architecture.endswith(SUFFIX):
        return ""
    return (
        f"# compress is part of {DISTRIBUTION}; the package named compress on PyPI is another project.\n"
        "# Install it from its source checkout: pip install PATH\n"
        "import compress  # registers the architecture\n"
    )


def replace_stem(model: Any) -> None:
    """Gives a timm ResNet its small stem, in place. Deep stems keep their convolutions, with stride 1."""
    if isinstance(model.conv1, nn.Sequential):
        first: Any = model.conv1[0]
        first.stride = (1, 1)
    else:
        old = model.conv1
        model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    stem, *stages = model.feature_info
    stem["reduction"] = 1
    for stage in stages:
        stage["reduction"] //= 4


def _register(name: str) -> None:
    stock = model_entrypoint(name)

    def create(pretrained: bool = False, cache_dir: Any = None, **kwargs: Any) -> nn.Module:
        if kwargs.get("features_only"):
            raise RuntimeError(f"{name}{SUFFIX} has no features_only; use forward_intermediates")
        weights = kwargs.get("pretrained_cfg")
        model: Any = stock(pretrained=False, **kwargs)
        replace_stem(model)
        model.pretrained_cfg["architecture"] = name + SUFFIX
        if not weights:  # the published weights of the stock model do not fit
            for source in ("url", "hf_hub_id", "file", "tag"):
                model.pretrained_cfg[source] = None
        if pretrained:
            load_pretrained(model, model.pretrained_cfg, model.num_classes, kwargs.get("in_chans", 3))
        return model

    create.__name__ = create.__qualname__ = name + SUFFIX
    create.__doc__ = f"{name} with a stem of stride 1 and no max-pool, for images of up to 64 pixels."
    create.__module__ = __name__
    register_model(create)


for _name in timm_models(module="resnet"):
    _register(_name)
