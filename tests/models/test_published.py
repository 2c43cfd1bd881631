"""Models that start with published weights. Random weights, saved as timm publishes them, stand for those."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from compress import models, recipe
from compress.data import Dataset, load_data, on_device
from compress.data.preprocessing import Preprocessing
from compress.losses import Objective
from compress.models.heads import classifier_names
from compress.models.published import find_published, published_model
from compress.recipe import Augment, Data, Member, Student
from compress.system.errors import InputError, UsageError
from export.onnx import export_onnx, open_session
from tests.helpers.published import publish
from tests.helpers.training import trained

SIZE = 64
EDGE = (
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_050",
    "tf_efficientnet_lite0",
    "tf_efficientnetv2_b0",
    "mobileone_s0",
    "repvit_m0_9",
    "fastvit_t8",
    "ghostnet_100",
    "mobilevit_xxs",
    "edgenext_xx_small",
    "convnext_atto",
    "convnextv2_femto",
    "tiny_vit_5m_224",
    "efficientformerv2_s0",
    "levit_128s",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
)
TEACHERS = (
    "resnet18",
    "convnext_pico",
    "vit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch14_dinov2",
    "eva02_tiny_patch14_224",
)
UNLIKE = {
    *("mobilenetv3_small_050", "tf_efficientnet_lite0", "repvit_m0_9", "mobilevit_xxs", "convnext_atto", "levit_128s"),
    *("deit_tiny_distilled_patch16_224", "vit_small_patch14_dinov2"),
}
"""One of each kind of head, position and size. The others are like these, or slow (Swin): for `make faults`."""
ONE_SIZE = {"efficientformerv2_s0", "levit_128s", "swin_tiny_patch4_window7_224"}
"""timm cannot adapt their weights to another image size, or to one that is not a multiple of their windows."""


def digits(seen: Preprocessing, size: int = SIZE, count: int = 16) -> Dataset:
    data = load_data(Data(name="digits", image_size=size), seen)
    return replace(
        data,
        train_images=data.train_images[:count],
        train_labels=data.train_labels[:count],
        eval_images=data.eval_images[:count],
        eval_labels=data.eval_labels[:count],
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in UNLIKE else pytest.param(name, marks=pytest.mark.faults) for name in (*EDGE, *TEACHERS)]
)
def test_a_family_gets_a_new_head_is_trained_saved_opened_and_exported(name: str, tmp_path: Path) -> None:
    size = 70 if "dinov2" in name or "eva02" in name else 224 if name in ONE_SIZE else SIZE
    publish(name, tmp_path / "published", args={} if "dinov2" in name else {"num_classes": 7})
    settings = Student(model=name, pretrained=str(tmp_path / "published"))
    data = digits(find_published(settings).preprocessing, size)
    model: Any = published_model(settings, size, class_names=data.class_names)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    published = load_file(tmp_path / "published" / "model.safetensors")
    body = [key for key in before if not key.startswith(classifier_names(model))]
    same = [key for key in body if key in published and torch.equal(before[key], published[key])]
    assert len(same) >= 0.9 * len(body)  # timm resamples position embeddings to another size
    assert model.num_classes == 10

    result = trained(
        model,
        splits=on_device(data, torch.device("cpu")),
        teacher=None,
        objective=Objective(0.0),
        settings=recipe.TrainSettings.model_validate(
            {"epochs": 1, "batch_size": 16, "optimizer": "adamw", "lr": 1e-3, "precision": "fp32"}
        ),
        augment=Augment(),
        epochs=1,
        folder=tmp_path,
        provenance={},
    )
    moved = [key for key, value in result.state_dict().items() if not torch.equal(value, before[key])]
    assert any(key.startswith(classifier_names(result)) for key in moved)

    models.save_model(result, tmp_path / "saved", data)
    opened: Any = models.load_model(tmp_path / "saved")
    images = on_device(data, torch.device("cpu")).evaluation.normalized(slice(0, 3)).contiguous()
    with torch.inference_mode():
        expected = result.eval()(images)
        torch.testing.assert_close(opened(images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    cfg = opened.pretrained_cfg
    assert (tuple(cfg["mean"]), cfg["interpolation"], cfg["crop_pct"]) == ((0.5, 0.4, 0.3), "bilinear", 0.9)
    export_onnx(opened, tmp_path / "model.onnx", image_size=size, metadata={})
    (found,) = open_session(tmp_path / "model.onnx").run(["logits"], {"input": images.numpy()})
    np.testing.assert_allclose(np.asarray(found), expected.numpy(), atol=1e-4 * float(expected.abs().max()))


def test_the_body_is_as_published_and_the_head_as_a_new_model_has_it(tmp_path: Path) -> None:
    publish("resnet10t", tmp_path)
    torch.manual_seed(3)
    model = published_model(Student(model="resnet10t", pretrained=str(tmp_path)), SIZE, class_names=list("abc"))
    torch.manual_seed(3)
    fresh = timm.create_model("resnet10t", num_classes=3)
    published = load_file(tmp_path / "model.safetensors")
    for key, value in model.state_dict().items():
        expected = fresh.state_dict()[key] if key.startswith("fc.") else published[key]
        assert torch.equal(value, expected), key


def test_the_head_stays_where_the_classes_are_the_same(tmp_path: Path) -> None:
    original = publish("resnet10t", tmp_path, args={"num_classes": 3})
    settings = Student(model="resnet10t", pretrained=str(tmp_path))
    model: Any = published_model(settings, SIZE, class_names=list("abc"))
    assert torch.equal(model.fc.weight, original.fc.weight)  # type: ignore[attr-defined]


def test_the_head_is_new_where_as_many_classes_have_other_names(tmp_path: Path) -> None:
    original = publish("resnet10t", tmp_path, args={"num_classes": 3})
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"num_classes"', '"label_names": ["x", "y", "z"], "num_classes"', 1))
    settings = Student(model="resnet10t", pretrained=str(tmp_path))
    other: Any = published_model(settings, SIZE, class_names=list("abc"))
    same: Any = published_model(settings, SIZE, class_names=list("xyz"))
    assert not torch.equal(other.fc.weight, original.fc.weight)  # type: ignore[attr-defined]
    assert torch.equal(same.fc.weight, original.fc.weight)  # type: ignore[attr-defined]
    assert "label_names" not in other.pretrained_cfg


def test_half_precision_and_a_wrapper_s_prefix_are_no_matter(tmp_path: Path) -> None:
    original = publish("resnet10t", tmp_path / "published")
    half = {f"module.{key}": value.half() for key, value in original.state_dict().items() if value.is_floating_point()}
    rest = {f"module.{key}": value for key, value in original.state_dict().items() if not value.is_floating_point()}
    torch.save({"state_dict": {**half, **rest}, "epoch": 3}, tmp_path / "checkpoint.pth.tar")
    settings = Student(model="resnet10t", pretrained=str(tmp_path / "checkpoint.pth.tar"))
    model = published_model(settings, SIZE, class_names=list("abc"))
    torch.testing.assert_close(model.layer1.state_dict(), original.layer1.half().float().state_dict())  # type: ignore[union-attr]


@pytest.mark.parametrize("damage", ["lacks", "strange", "shape"])
def test_weights_that_fit_in_part_are_refused(tmp_path: Path, damage: str) -> None:
    publish("resnet10t", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if damage == "lacks":
        del weights["layer3.0.conv1.weight"]
    elif damage == "strange":
        weights["layer9.weight"] = torch.zeros(3)
    else:
        weights["layer3.0.conv1.weight"] = torch.zeros(3)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"does not fit resnet10t: .*layer") as caught:
        published_model(Student(model="resnet10t", pretrained=str(tmp_path)), SIZE, class_names=list("abc"))
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_refused_by_name(tmp_path: Path) -> None:
    publish("resnet10t", tmp_path)
    with pytest.raises(InputError, match=r"weights of resnet10t, and the recipe asks for resnet14t"):
        find_published(Student(model="resnet14t", pretrained=str(tmp_path)))
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "alone.pth")
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="does not fit resnet14t"):
        published_model(
            Student(model="resnet14t", pretrained=str(tmp_path / "alone.pth")), SIZE, class_names=list("abc")
        )


def test_weights_of_one_image_size_say_which(tmp_path: Path) -> None:
    publish("levit_128s", tmp_path)
    with pytest.raises(InputError, match=r"for images of 224 pixels.*data\.image_size=224"):
        published_model(Student(model="levit_128s", pretrained=str(tmp_path)), 128, class_names=list("abc"))


def test_published_weights_have_timm_s_own_stem_also_for_small_images(tmp_path: Path) -> None:
    publish("resnet18", tmp_path)
    model: Any = published_model(Student(model="resnet18", pretrained=str(tmp_path)), 32, class_names=list("abc"))
    assert model.conv1.stride == (2, 2)
    for pretrained in (True, str(tmp_path), str(tmp_path / "model.safetensors")):
        with pytest.raises(UsageError, match="has its stock stem"):
            find_published(Student(model="resnet18", pretrained=pretrained, stem="small"))


def test_what_the_published_weights_say_is_kept_and_where_they_were_is_not(tmp_path: Path) -> None:
    publish("resnet10t", tmp_path, license="apache-2.0")
    model: Any = published_model(Student(model="resnet10t", pretrained=str(tmp_path)), 96, class_names=list("abc"))
    cfg = model.pretrained_cfg
    assert cfg["input_size"] == (3, 96, 96)
    assert cfg["license"] == "apache-2.0"
    assert not {"url", "file", "hf_hub_id", "state_dict", "tag"} & cfg.keys()


def test_a_name_that_timm_publishes_is_found_without_a_network() -> None:
    found = find_published(Student(model="tf_efficientnet_lite0.in1k", pretrained=True))
    assert found.place == ("timm/tf_efficientnet_lite0.in1k", ("model.safetensors", "pytorch_model.bin"))
    assert found.preprocessing == Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.875)
    with pytest.raises(UsageError, match=r"Did you mean tf_efficientnet_lite0\.in1k"):
        find_published(Student(model="tf_efficientnet_lite0.in1kk", pretrained=True))
    member = Member(model="vit_small_patch14_dinov2.lvd142m", source="pretrained")
    assert find_published(member).headless


def test_evaluation_images_are_those_of_timm_s_own_transform(tmp_path: Path) -> None:
    from PIL import Image

    from compress.data.decode import Square

    pixels = np.random.default_rng(0).integers(0, 256, (300, 411, 3), dtype=np.uint8)
    for (height, width), kernel, crop in (((300, 411), "bicubic", 0.875), ((411, 300), "bilinear", 0.9)):
        image = Image.fromarray(pixels.reshape(height, width, 3))
        transform: Any = timm.data.create_transform(
            (3, 160, 160), interpolation=kernel, crop_pct=crop, mean=(0, 0, 0), std=(1, 1, 1)
        )
        expected = (transform(image) * 255).round().permute(1, 2, 0).to(torch.uint8).numpy()
        assert np.array_equal(Square(160, kernel, crop)(image), expected)  # type: ignore[arg-type]


def test_a_family_that_timm_loads_loosely_must_be_whole_too(tmp_path: Path) -> None:
    """timm loads DLA with strict=False."""
    publish("dla46_c", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({key: value for key, value in weights.items() if "level4" not in key}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"does not fit dla46_c: level4\."):
        published_model(Student(model="dla46_c", pretrained=str(tmp_path)), SIZE, class_names=list("abc"))


@pytest.mark.parametrize("name", ["levit_128s", "volo_d1_224", "deit_tiny_distilled_patch16_224"])
def test_a_file_of_one_s_own_keeps_or_replaces_heads_of_any_kind(name: str, tmp_path: Path) -> None:
    original: Any = publish(name, tmp_path, args={"num_classes": 3})
    (tmp_path / "config.json").unlink()
    settings = Student(model=name, pretrained=str(tmp_path / "model.safetensors"))
    same: Any = published_model(settings, 224, class_names=list("abc"))
    weights = original.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in same.state_dict().items())
    other: Any = published_model(settings, 224, class_names=list("abcd"))
    assert other.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 4)
