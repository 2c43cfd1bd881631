"""Pictures of flips: large enough to see why, small enough for a page of many."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from export.benchmark import Comparison, Interval
from export.benchmark.results import Flip, Thumbnail
from export.benchmark.scoring import thumbnails


def compared(count: int) -> Comparison:
    nothing = Interval(value=0.0, low=0.0, high=0.0)
    flips = [Flip(index=index, label=0, candidate=1) for index in range(count)]
    return Comparison(
        source="measured",
        reference="teacher.torch",
        candidate="student.onnx",
        images=count,
        lost=count,
        won=0,
        drop=nothing,
        bootstrap=nothing,
        mcnemar_p=1.0,
        agreement=nothing,
        flips=flips,
    )


def opened(made: Thumbnail) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(made.image_base64)))


def photos(count: int, height: int, width: int) -> np.ndarray:
    """Edges, gradients and grain, uint8 [count, height, width, 3]: no easier to compress than photos."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 200, (count, height // 8, width // 8, 3))
    smooth = np.kron(blocks, np.ones((1, 8, 8, 1)))
    return np.clip(smooth + generator.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "expected"), [((160, 160), (160, 160)), ((480, 320), (149, 224)), ((224, 224), (224, 224))]
)
def test_photos_keep_their_aspect_and_up_to_224_pixels(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = photos(1, *size)
    (made,) = thumbnails(compared(1), image, ["dark", "light"])
    picture = opened(made)
    assert (made.media_type, picture.format) == ("image/webp", "WEBP")
    assert picture.size == expected
    assert made.caption == "dark, taken for light"
    small = Image.fromarray(image[0])
    small.thumbnail((224, 224))
    assert np.abs(np.asarray(picture.convert("L")).astype(int) - np.asarray(small.convert("L"))).mean() < 6


def test_small_images_keep_every_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    (made,) = thumbnails(compared(1), image, ["dark", "light"])
    assert made.media_type == "image/png"
    assert np.array_equal(np.asarray(opened(made)), image[0])


def test_thirty_photos_take_less_than_two_megabytes() -> None:
    made = [each for _ in range(3) for each in thumbnails(compared(12), photos(12, 224, 224), ["dark", "light"])[:10]]
    assert len(made) == 30
    assert sum(len(each.image_base64) for each in made) < 2e6


def test_an_earlier_file_says_png_in_the_name() -> None:
    earlier = {"comparison": "a → b", "index": 1, "caption": "dark", "png_base64": "AAAA"}
    made = Thumbnail.model_validate(earlier)
    assert (made.media_type, made.image_base64) == ("image/png", "AAAA")
