"""The architectures of the matrix (architectures.py), each at a small size that shows all of it, and their weights.

In: a name of timm. Out: its pixels a side, and a model whose random weights compute as trained ones do.
"""

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from compress.models.create import make_timm_model

CLASSES = 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Those of windows and of deep stems need more than 64 pixels; those of 224 take no other size, or lose a stage.
_NAMES = {
    64: """
        resnet10t mobilenetv3_small_050 mobilenetv2_050 lcnet_050 ghostnet_050 edgenext_xx_small mobilevit_xxs
        convnextv2_atto swiftformer_xs convnext_atto fastvit_t8 efficientvit_b0 efficientvit_m0 mobileone_s0 repvit_m0_9
        regnetx_002 regnety_002 starnet_s1 shvit_s1 xcit_nano_12_p8_224 pvt_v2_b0 mobilenetv4_conv_small mnasnet_small
        tinynet_e efficientnet_lite0 efficientnet_b0 mixnet_s rexnet_100 resnet18 hardcorenas_a fbnetc_100 spnasnet_100
        mobilenetv3_large_100 ghostnetv2_100 ghostnetv3_050 repghostnet_050 lcnetv2_base mobilenet_edgetpu_v2_xs
        mobilevitv2_050 fasternet_t0 inception_next_atto mambaout_femto vit_tiny_patch16_224 deit_tiny_patch16_224
        deit_tiny_distilled_patch16_224 eva02_tiny_patch14_224 gmlp_ti16_224 repvgg_a0 hrnet_w18_small dla34
        ese_vovnet19b_dw densenet121 efficientnetv2_rw_t tf_efficientnetv2_b0 regnetz_005 nf_regnet_b0 eca_nfnet_l0
        gernet_s vgg11_bn fastvit_sa12 csatv2 resnet50 resnet50d seresnet50 resnext26ts resnetv2_50 resnetblur18
        res2net50_26w_4s resnest14d skresnet18 botnet26t_256 cspresnet50 cspdarknet53 selecsls42b dpn48b
        poolformer_s12 convformer_s18 caformer_s18 vitamin_small_224 mixer_s32_224 resmlp_12_224 cait_xxs24_224
        flexivit_small vit_relpos_small_patch16_224 focalnet_tiny_srf davit_tiny rdnet_tiny sequencer2d_s
        convmixer_768_32 tresnet_m iformer_t lowformer_b0 efficientvim_m1 mobilenetv4_hybrid_medium
        beitv2_base_patch16_224
    """,
    96: "inception_v3 inception_v4 xception41 legacy_xception inception_resnet_v2",
    128: """
        tiny_vit_5m_224 levit_128s levit_conv_128s efficientformerv2_s0 coat_lite_tiny coat_tiny
        swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 hiera_tiny_224 maxvit_nano_rw_256 coatnet_nano_rw_224
        pit_ti_224 visformer_tiny nextvit_small nest_tiny
    """,
    224: """
        efficientformer_l1 convit_tiny mvitv2_tiny gcvit_xxtiny tnt_s_legacy_patch16_224 twins_pcpvt_small
        twins_svt_small volo_d1_224
    """,
    240: "crossvit_tiny_240",
    256: "halonet26t",
}
ZOO: dict[str, int] = {name: size for size, names in _NAMES.items() for name in names.split()}


def pictures(size: int, count: int) -> np.ndarray:
    """Squares of many sizes out of the two photos that scikit-learn ships, uint8 [count, size, size, 3]."""
    generator = np.random.default_rng(0)
    photos = [torch.from_numpy(photo.copy()).permute(2, 0, 1) for photo in load_sample_images().images]
    cut = []
    for number in range(count):
        photo = photos[number % len(photos)]
        side = int(generator.integers(32, min(photo.shape[1:])))
        top, left = (int(generator.integers(0, edge - side)) for edge in photo.shape[1:])
        square = photo[None, :, top : top + side, left : left + side].float()
        resized = nn.functional.interpolate(square, (size, size), mode="bilinear", antialias=True)
        cut.append(resized[0].round().to(torch.uint8).permute(1, 2, 0).numpy())
    return np.stack(cut)


def random_model(name: str, size: int, inputs: Tensor) -> nn.Module:
    """A model in eval mode whose random weights all take part, with the statistics of real pictures in its BatchNorms.

    Args:
        name: of timm.
        size: pixels a side.
        inputs: normalised pictures [N, 3, size, size] that the BatchNorms see.
    """
    torch.manual_seed(0)
    model: Any = make_timm_model(name, {}, size, num_classes=CLASSES)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            _awaken(path, parameter)
        for module in model.eval().modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None  # a cumulative average, complete after one pass
                module.train()
        model(inputs)
    return model.eval()


def _awaken(path: str, parameter: Tensor) -> None:
    """A gain that timm starts at 0, 1 or nearly 0 would leave its branch untested, or all its channels alike."""
    first = parameter.flatten()[0]
    if path.endswith("bias") or parameter.numel() < 2 or not (parameter == first).all():
        return
    low, high = (0.5, 1.5) if float(first) == 1 else (0.1, 0.5)
    nn.init.uniform_(parameter, low, high)
