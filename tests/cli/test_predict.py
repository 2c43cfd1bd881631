"""The real `compress predict`: classes and probabilities, those of timm itself."""

import json
from pathlib import Path

import pytest

from tests.helpers.command import Command, assert_fails


def test_predict_names_classes_and_probabilities(command: Command, finished: Path, folder_data: Path) -> None:
    images = [folder_data / "val" / name / "000.png" for name in ("dark", "light")]
    result = command("predict", finished, *images, "--json", cwd=finished)
    rows = json.loads(result.stdout)
    assert [row["image"] for row in rows] == list(map(str, images))
    for row in rows:
        assert {entry["class"] for entry in row["classes"]} == {"dark", "grey", "light"}
        assert sum(entry["probability"] for entry in row["classes"]) == pytest.approx(1, abs=1e-4)
    lines = command("predict", finished, images[0], "--top", 1, cwd=finished).stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(str(images[0]))
    assert_fails(command("predict", finished, images[0], "none.png", cwd=finished), 3, "no image at none.png")


def test_predictions_are_those_of_timm_itself(command: Command, finished: Path, folder_data: Path) -> None:
    """An independent client: timm's own loading and its own transform for the model's configuration."""
    import timm
    import torch
    from PIL import Image
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    import compress  # noqa: F401 - registers the architecture

    path = folder_data / "val" / "grey" / "001.png"
    model = timm.create_model(f"local-dir:{finished / 'student'}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    image = transform(Image.open(path).convert("RGB"))
    assert isinstance(image, torch.Tensor)
    with torch.no_grad():
        expected = model(image.unsqueeze(0)).softmax(1)[0]
    (row,) = json.loads(command("predict", finished, path, "--json", cwd=finished).stdout)
    names = json.loads((finished / "student" / "config.json").read_text())["label_names"]
    found = {entry["class"]: entry["probability"] for entry in row["classes"]}
    for name, probability in zip(names, expected.tolist(), strict=True):
        assert found[name] == pytest.approx(probability, abs=1e-3)
