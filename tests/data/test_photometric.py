"""One picture's changes: those of timm's create_transform and torchvision's own, and they depend on the key alone."""

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from timm.data import auto_augment
from timm.data.transforms_factory import transforms_imagenet_train
from torchvision.transforms import InterpolationMode, TrivialAugmentWide

from compress.data.photometric import Photometric
from compress.recipe import Augment
from compress.system.errors import MachineError

SIZE, MEAN = 48, (0.5, 0.4, 0.3)
CONFIGS = [
    "rand-m9-mstd0.5-inc1",
    "rand-m7-n3-p0.9-tweights",
    "rand-m5-t3a",
    "augmix-m5-w4-d2",
    "original",
    "v0r",
    "3a",
]


def picture(seed: int = 0) -> Image.Image:
    smooth = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(smooth).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def settings(**options: Any) -> Photometric:
    return Photometric(Augment.model_validate(options), SIZE, MEAN, "bilinear")


def by_timm(key: int, *, auto: str | None, color_jitter: float | None) -> np.ndarray:
    """The second of the three parts of timm's transforms for training, with the same seeds."""
    made: Any = transforms_imagenet_train(
        SIZE,
        auto_augment=auto,
        color_jitter=color_jitter,
        force_color_jitter=True,
        interpolation="bilinear",
        mean=MEAN,
        separate=True,
    )
    random.seed(key)
    np.random.seed(key % 2**32)
    torch.manual_seed(key)
    return np.asarray(made[1](picture()))


@pytest.mark.parametrize("color_jitter", [None, 0.4])
@pytest.mark.parametrize("auto", [None, *CONFIGS])
def test_the_picture_is_that_of_timms_create_transform(auto: str | None, color_jitter: float | None) -> None:
    view = settings(auto=auto, color_jitter=color_jitter or 0.0)
    found = [np.asarray(view(picture(), key)) for key in range(12)]
    expected = [by_timm(key, auto=auto, color_jitter=color_jitter) for key in range(12)]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert len({one.tobytes() for one in found}) > 3 or (auto, color_jitter) == (None, None)


@pytest.mark.parametrize("auto", ["rand-m10-n4-p1.0", "rand-m10-n4-p1.0-inc1", "rand-m0-n4-p1.0", "augmix-m10-w6-d6"])
def test_no_draw_is_refused_by_pillow(auto: str) -> None:
    """At the end of its scale timm keeps no bit of a colour, which Pillow 13 refuses."""
    view = settings(auto=auto)
    assert all(view(picture(), key).size == (SIZE, SIZE) for key in range(100))


def test_no_bits_leave_a_black_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Posterize", "PosterizeIncreasing"):  # whose scales run in opposite directions
        monkeypatch.setattr(auto_augment, "_RAND_INCREASING_TRANSFORMS", [name])
        monkeypatch.setattr(auto_augment, "_RAND_TRANSFORMS", [name])
        config = "rand-m0-n1-p1.0" if name == "Posterize" else "rand-m10-n1-p1.0-inc1"
        assert not np.asarray(settings(auto=config)(picture(), 0)).any()


def test_a_transform_that_fails_blames_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise ValueError("bits must be between 1 and 8")

    monkeypatch.setattr("compress.data.photometric._transforms", lambda _: [refused])
    with pytest.raises(MachineError, match=r"data\.augment failed in a library \(ValueError: bits must be"):
        settings(auto="3a")(picture(), 0)


def test_trivial_is_torchvisions() -> None:
    transform, changed = TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR), set()
    for key in range(30):
        found = settings(auto="trivial")(picture(), key)
        torch.manual_seed(key)
        assert np.array_equal(np.asarray(found), np.asarray(transform(picture())))
        changed.add(found.tobytes())
    assert len(changed) > 15


@pytest.mark.parametrize("auto", ["rand-m9-mstd0.5-inc1", "augmix-m3-w3", "trivial"])
def test_a_picture_depends_on_its_key_alone_and_the_generators_go_on_as_before(auto: str) -> None:
    view = settings(auto=auto, color_jitter=0.4)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    first = np.asarray(view(picture(), 2**63 - 3))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    again: Photometric = pickle.loads(pickle.dumps(copy.deepcopy(view)))  # as in another process
    assert np.array_equal(np.asarray(again(picture(), 2**63 - 3)), first)
    others = {view(picture(), key).tobytes() for key in range(8)}
    assert len(others) > 1


def test_an_interpolation_that_pillow_has_not_for_warps_becomes_bicubic() -> None:
    augment = Augment(auto="rand-m10-n4-p1.0")
    lanczos, bicubic = (Photometric(augment, SIZE, MEAN, kernel) for kernel in ("lanczos", "bicubic"))
    assert all(lanczos(picture(), key) == bicubic(picture(), key) for key in range(5))


@pytest.mark.parametrize(
    "auto", [*CONFIGS, "3a", "trivial", "rand", "augmix", "rand-m9-mstd101-inc1-mmax8", "rand-t3aw"]
)
def test_the_libraries_take_what_a_recipe_may_say(auto: str) -> None:
    changed = [settings(auto=auto)(picture(), key) for key in range(4)]
    assert all((image.size, image.mode) == (picture().size, "RGB") for image in changed)
    assert any(image != picture() for image in changed)


@pytest.mark.parametrize("auto", ["rand-x9", "random", "rand-m9-", "trivial-m3", "v1", "rand-n0", "augmix-w0", ""])
def test_a_recipe_that_the_libraries_would_not_take_is_refused(auto: str) -> None:
    with pytest.raises(ValidationError):
        Augment(auto=auto)


def test_which_settings_need_one_picture_at_a_time() -> None:
    assert Augment(crop=4, erase=0.5, mixup=0.2).per_picture == ()
    assert Augment(auto="trivial", color_jitter=0.1).per_picture == ("color_jitter", "auto")
