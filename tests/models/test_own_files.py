"""A file of weights alone: how its model sees pictures, and the names that authors give to their last layers."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from compress.models.published import find_published, published_model
from compress.recipe import Student

SIZE = 64


@pytest.mark.parametrize("name", ["tf_efficientnet_b0.ap_in1k", "resnet34.ra4_e3600_r224_in1k", "resnet34"])
def test_a_file_alone_is_seen_as_the_weights_that_the_name_stands_for(name: str, tmp_path: Path) -> None:
    """Weights of one architecture differ in their mean, say, by what follows the dot."""
    (tmp_path / "weights.pth").touch()
    found = find_published(Student(model=name, pretrained=str(tmp_path / "weights.pth")))
    expected = timm.get_pretrained_cfg(name)
    assert expected is not None
    seen = found.preprocessing
    assert (seen.mean, seen.std, seen.crop_pct) == (expected.mean, expected.std, expected.crop_pct)


def test_a_file_with_its_authors_names_is_read_as_timm_reads_it(tmp_path: Path) -> None:
    original: Any = timm.create_model("convnext_atto", num_classes=7).eval()
    changes = {
        r"^stem\.": "downsample_layers.0.",
        r"^stages\.(\d+)\.downsample\.": r"downsample_layers.\1.",
        r"^stages\.(\d+)\.blocks\.": r"stages.\1.",
        r"conv_dw": "dwconv",
        r"mlp\.fc(\d)": r"pwconv\1",
        r"^head\.norm": "norm",
        r"^head\.fc": "head",
    }
    theirs = {}
    for name, value in original.state_dict().items():
        for ours, authors in changes.items():
            name = re.sub(ours, authors, name)
        theirs[name] = value.flatten(1) if "pwconv" in name and name.endswith("weight") else value
    torch.save({"model": theirs}, tmp_path / "atto.pth")
    settings = Student(model="convnext_atto", pretrained=str(tmp_path / "atto.pth"))
    same: Any = published_model(settings, SIZE, class_names=list("abcdefg"))
    images = torch.randn(2, 3, SIZE, SIZE)
    torch.testing.assert_close(same.eval()(images), original(images))
    other: Any = published_model(settings, SIZE, class_names=list("abc"))
    torch.testing.assert_close(other.eval().forward_features(images), original.forward_features(images))


def test_the_classes_of_a_head_that_is_a_convolution_are_counted(tmp_path: Path) -> None:
    original: Any = timm.create_model("dpn48b", num_classes=7).eval()
    save_file(original.state_dict(), tmp_path / "dpn.safetensors")
    settings = Student(model="dpn48b", pretrained=str(tmp_path / "dpn.safetensors"))
    same: Any = published_model(settings, SIZE, class_names=list("abcdefg"))
    assert torch.equal(same.classifier.weight, original.classifier.weight)
    assert published_model(settings, SIZE, class_names=list("abc")).get_classifier().out_channels == 3  # type: ignore[operator]
