"""Teachers with weights that somebody else trained: what they compute, what they see, and what is refused."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models._hub import save_for_hf
from torch import nn

from compress import models, recipe
from compress.data import Dataset, load_data
from compress.data.preprocessing import Preprocessing
from compress.models.published import published_model
from compress.models.weights import teacher_preprocessing
from compress.models.wrappers import unwrapped
from compress.recipe import Data
from compress.system.errors import InputError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(Data(name="digits", image_size=16))


def make(name: str = "resnet10t", stem: str = "auto", classes: int = 10, **args: object) -> nn.Module:
    torch.manual_seed(0)
    settings = recipe.Model.model_validate({"model": name, "stem": stem, "args": args})
    return models.create_model(settings, num_classes=classes, image_size=16)


def teacher_settings(checkpoint: Path, name: str = "resnet10t") -> recipe.Teacher:
    return recipe.Teacher.model_validate({"model": name, "source": "checkpoint", "checkpoint": str(checkpoint)})


@pytest.mark.parametrize("kind", ["folder", "safetensors", "state_dict"])
def test_a_teacher_is_loaded_from_a_checkpoint(tmp_path: Path, digits: Dataset, kind: str) -> None:
    model = make().eval()
    models.save_model(model, tmp_path / "saved", digits)
    path = {"folder": tmp_path / "saved", "safetensors": tmp_path / "saved" / "model.safetensors"}.get(kind)
    if path is None:
        path = tmp_path / "teacher.pth"
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    teacher = models.checkpoint_teacher(teacher_settings(path), digits).eval()
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(teacher(image), model(image))


def test_a_teacher_of_other_normalisation_sees_its_own(tmp_path: Path, digits: Dataset) -> None:
    model = make().eval()
    models.save_model(model, tmp_path / "saved", digits)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    teacher = models.checkpoint_teacher(teacher_settings(tmp_path / "saved"), digits).eval()
    pixels = torch.rand(2, 3, 16, 16)
    own, data = (
        (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
        for mean, std in (([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]), (digits.mean, digits.std))
    )
    torch.testing.assert_close(teacher(data), model(own), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", ["by hand", "timm's folder", "timm's file"])
def test_the_normalisation_of_a_teacher_is_that_of_its_config_and_else_is_assumed_aloud(
    tmp_path: Path, digits: Dataset, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    model = make().eval()
    pixels = torch.rand(2, 3, 16, 16)
    own, data = (
        (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
        for mean, std in ((IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD), (digits.mean, digits.std))
    )
    path = tmp_path / "teacher.pth"
    torch.save(model.state_dict(), path)
    teacher = models.checkpoint_teacher(teacher_settings(path), digits).eval()
    torch.testing.assert_close(teacher(data), model(data))
    said = caplog.text
    caplog.clear()
    for part in ("WARNING", str([round(value, 4) for value in digits.mean]), "of digits", f"{tmp_path}/config.json"):
        assert part in said
    if way == "by hand":  # as the warning says
        normalisation = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": normalisation}))
    else:
        assert model.pretrained_cfg["mean"] == IMAGENET_DEFAULT_MEAN
        timm.models.save_for_hf(model, tmp_path / "saved", safe_serialization=True)
        path = tmp_path / "saved" / ("model.safetensors" if way == "timm's file" else "")
    teacher = models.checkpoint_teacher(teacher_settings(path), digits).eval()
    torch.testing.assert_close(teacher(data), model(own), atol=1e-4, rtol=1e-4)
    assert caplog.text == ""


@pytest.mark.parametrize("normalisation", [{"mean": 0.5}, {"std": [0.5, 0.5]}, {"std": [0.5, 0.0, 0.5]}, "x"])
def test_a_normalisation_that_is_none_is_an_input_error(tmp_path: Path, digits: Dataset, normalisation: object) -> None:
    torch.save(make().state_dict(), tmp_path / "teacher.pth")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": normalisation}))
    with pytest.raises(InputError, match=r"config\.json: pretrained_cfg.*three numbers each"):
        models.checkpoint_teacher(teacher_settings(tmp_path / "teacher.pth"), digits)


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path, digits: Dataset) -> None:
    torch.save(make(classes=7).state_dict(), tmp_path / "seven.pth")
    with pytest.raises(InputError, match="7 classes and digits has 10"):
        models.checkpoint_teacher(teacher_settings(tmp_path / "seven.pth"), digits)
    models.save_model(make(), tmp_path / "saved", digits)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    config["label_names"][3] = "drei"
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="other classes"):
        models.checkpoint_teacher(teacher_settings(tmp_path / "saved"), digits)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (list(range(10)), ""),
        ({str(number): number for number in range(10)}, ""),
        ([str(number) for number in range(9)], "has 10 classes, and its label_names are 9: 0, 1, 2, and 6 more"),
        (list(range(11)), "has 10 classes, and its label_names are 11"),
        (list(range(1, 11)), "class 0 is '1' there, '0' here"),
        ({"0": "cat"}, "has 10 classes, and its label_names are 1: cat"),
        ({"1": "cat"}, 'not names of classes.*{"0": "cat"}'),
        ([0.5] * 10, "not names of classes"),
        ([True] * 10, "not names of classes"),
    ],
)
def test_the_names_of_a_teacher_s_classes_are_compared_as_words(
    tmp_path: Path, digits: Dataset, labels: object, words: str
) -> None:
    models.save_model(make(), tmp_path / "saved", digits)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config | {"label_names": labels}))
    settings = teacher_settings(tmp_path / "saved")
    if words:
        with pytest.raises(InputError, match=words):
            models.checkpoint_teacher(settings, digits)
    else:
        assert unwrapped(models.checkpoint_teacher(settings, digits)).pretrained_cfg["label_names"] == list(
            "0123456789"
        )


def test_names_of_classes_may_be_in_either_form_of_unicode(tmp_path: Path, digits: Dataset) -> None:
    data = dataclasses.replace(digits, class_names=["caf\u00e9", *digits.class_names[1:]])
    models.save_model(make(), tmp_path / "saved", data)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    config["label_names"][0] = "cafe\u0301"
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    models.checkpoint_teacher(teacher_settings(tmp_path / "saved"), data)
    published = recipe.Teacher.model_validate({"model": f"local-dir:{tmp_path / 'saved'}", "source": "pretrained"})
    models.pretrained_teacher(published, data)


def test_a_pretrained_teacher_of_other_classes_is_refused(tmp_path: Path, digits: Dataset) -> None:
    models.save_model(make(), tmp_path / "saved", digits)
    settings = recipe.Teacher.model_validate({"model": f"local-dir:{tmp_path / 'saved'}", "source": "pretrained"})
    assert models.pretrained_teacher(settings, digits)(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
    fewer = load_data(Data(name="digits", image_size=16))
    object.__setattr__(fewer, "class_names", fewer.class_names[:9])
    with pytest.raises(InputError, match="10 classes and digits has 9"):
        models.pretrained_teacher(settings, fewer)


def test_weights_of_another_architecture_are_refused(tmp_path: Path, digits: Dataset) -> None:
    torch.save(make("mobilenetv3_small_100").state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError, match="does not fit resnet10t"):
        models.checkpoint_teacher(teacher_settings(tmp_path / "other.pth"), digits)


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Behind two prefixes, of which none fits all names."""
    return {("classifier." + k[3:] if k.startswith("fc.") else "backbone." + k): v for k, v in weights.items()}


def test_weights_that_were_made_with_other_arguments_compute_what_they_did(tmp_path: Path, digits: Dataset) -> None:
    """The shapes are those of the default; config.json says what they were made with, as timm's save_for_hf does."""
    given = {"act_layer": "silu", "channels": [8, 8, 8, 8]}
    model = timm.create_model("resnet10t", num_classes=10, **given).eval()
    save_for_hf(model, tmp_path / "saved", model_args=given)
    settings = teacher_settings(tmp_path / "saved").model_copy(update={"args": {"channels": [8, 8, 8, 8]}})
    loaded = unwrapped(models.checkpoint_teacher(settings, digits)).eval()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), model(images))


@pytest.mark.parametrize(
    ("name", "asked"), [("tf_efficientnet_lite0", "efficientnet_lite0"), ("resnet18_smallstem", "resnet34")]
)
def test_a_folder_of_another_architecture_is_refused_though_its_weights_might_fit(
    tmp_path: Path, digits: Dataset, name: str, asked: str
) -> None:
    model = timm.create_model(name, num_classes=10)
    save_for_hf(model, tmp_path / "saved")
    settings = teacher_settings(tmp_path / "saved").model_copy(update={"model": asked, "args": {}})
    with pytest.raises(InputError, match=f"holds weights of {name}, and the recipe asks for {asked}"):
        models.checkpoint_teacher(settings, digits)
    other = teacher_settings(tmp_path / "saved" / "model.safetensors").model_copy(update={"model": asked, "args": {}})
    assert teacher_preprocessing(other) == Preprocessing(), "beside a single file it may be of another file"


@pytest.mark.parametrize("stem", ["auto", "stock", "small"])
@pytest.mark.parametrize("name", ["resnet18d_smallstem", "resnet18d"])
def test_weights_keep_the_stem_that_they_were_made_with(tmp_path: Path, digits: Dataset, name: str, stem: str) -> None:
    """Deep stems have the same shapes: with the other one the same weights compute something else."""
    model = timm.create_model(name, num_classes=10).eval()
    save_for_hf(model, tmp_path / "saved")
    update = {"model": "resnet18d", "args": {}, "stem": stem}
    settings = teacher_settings(tmp_path / "saved").model_copy(update=update)
    loaded = unwrapped(models.checkpoint_teacher(settings, digits)).eval()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), model(images))


@pytest.mark.parametrize("odd", [{"architecture": 5}, {"model_args": [1]}, {"architecture": "", "model_args": None}])
def test_a_config_with_odd_entries_says_nothing(tmp_path: Path, digits: Dataset, odd: dict[str, object]) -> None:
    model = make().eval()
    models.save_model(model, tmp_path / "saved", digits)
    path = tmp_path / "saved" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **odd}))
    loaded = unwrapped(models.checkpoint_teacher(teacher_settings(tmp_path / "saved"), digits)).eval()
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded(image), model(image))


def test_a_model_of_a_folder_takes_a_checkpoint_as_any(tmp_path: Path, digits: Dataset) -> None:
    model = make().eval()
    models.save_model(model, tmp_path / "saved", digits)
    settings = teacher_settings(tmp_path / "saved").model_copy(update={"model": f"local-dir:{tmp_path / 'saved'}"})
    loaded = unwrapped(models.checkpoint_teacher(settings, digits)).eval()
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded(image), model(image))


def test_of_weights_whose_names_do_not_fit_some_that_were_found_are_listed(tmp_path: Path, digits: Dataset) -> None:
    weights = make().state_dict()
    torch.save(renamed(weights), tmp_path / "other.pth")
    first = next(iter(weights))
    found = f"it has backbone.{first}, classifier.weight, .*, and {len(weights) - 4} more"
    with pytest.raises(InputError, match=rf"it lacks {first}, .*; {found}"):
        models.checkpoint_teacher(teacher_settings(tmp_path / "other.pth"), digits)
    settings = recipe.Student.model_validate({"model": "resnet10t", "pretrained": str(tmp_path / "other.pth")})
    with pytest.raises(InputError, match=rf"It has backbone\.{first}, classifier\.weight"):
        published_model(settings, 16, class_names=digits.class_names)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_without_the_counters_of_batchnorm_fit(tmp_path: Path, digits: Dataset, prefix: str) -> None:
    weights = make().state_dict()
    torch.save({prefix + k: v for k, v in weights.items() if "num_batches" not in k}, tmp_path / "old.pth")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    settings = teacher_settings(tmp_path / "old.pth")
    loaded = unwrapped(models.checkpoint_teacher(settings, digits)).state_dict()
    student = recipe.Student.model_validate(
        {"model": "resnet10t", "args": settings.args, "pretrained": str(tmp_path / "old.pth"), "stem": settings.stem}
    )
    (tmp_path / "config.json").unlink()
    published = published_model(student, 16, class_names=digits.class_names).state_dict()
    for found in (loaded, published):
        assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path, digits: Dataset) -> None:
    sentinel = tmp_path / "sentinel"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(sentinel), "w")

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"state_dict": Evil()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(InputError, match="plain weights"):
            models.checkpoint_teacher(teacher_settings(tmp_path / name), digits)
    assert not sentinel.exists()
