"""What a bundle says of itself to people, and to a Triton server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.data import Dataset
from compress.data.preprocessing import Fit
from export.delivery.golden import CLASSES, LIBRARIES
from export.onnx import get_metadata
from export.records import BundledModel
from export.report.formats import md

TRITON = "config.pbtxt"

_SIDES: dict[Fit, str] = {
    "crop": "Before, the shorter side is resized to {} pixels",
    "stretch": "Before, both sides are resized to {} pixels",
    "pad": "Before, the longer side is resized to {} pixels, the rest is filled with the mean colour",
}


@dataclass(frozen=True)
class TritonFacts:
    """What a Triton server must know of the default model. `file`: below 1/. `size`: pixels a side of its input."""

    file: str
    runtime: str
    channels: int
    size: int
    classes: int

    @property
    def lines(self) -> tuple[str, str, str, str]:
        """Of config.pbtxt: what runs it, its file, its input and its output."""
        return (
            'platform: "onnxruntime_onnx"' if self.runtime == "ort" else 'backend: "openvino"',
            f'default_model_filename: "{self.file}"',
            f'{{ name: "input", data_type: TYPE_FP32, dims: [ {self.channels}, {self.size}, {self.size} ] }}',
            f'{{ name: "logits", data_type: TYPE_FP32, dims: [ {self.classes} ], label_filename: "{CLASSES}" }}',
        )

    def lacking(self, config: str) -> str:
        """The first of these lines that a config.pbtxt does not say, whatever its spaces; empty where it says all."""
        found = _without_spaces("".join(line.partition("#")[0] for line in config.splitlines()))
        if found.count("default_model_filename:") != 1:
            return self.lines[1]
        return next((line for line in self.lines if _without_spaces(line) not in found), "")


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def triton_config(facts: TritonFacts) -> str:
    """config.pbtxt, for the default model."""
    runs, file, taken, given = facts.lines
    return f"""# The input is what preprocess.onnx makes of pictures: resized, cropped and normalised, float32.
{runs}
{file}
max_batch_size: 64
input [
  {taken}
]
output [
  {given}
]
instance_group [ {{ kind: KIND_CPU, count: 1 }} ]
dynamic_batching {{ }}
"""


def card_text(models: Sequence[Path], entries: Mapping[str, BundledModel], data: Dataset, card: str) -> str:
    """README.md. `models`: the files, one ONNX file at least. `card`: Markdown that goes into it."""
    class_names, side = data.class_names, data.eval_images.shape[1]
    metadata = get_metadata(next(model for model in models if model.suffix == ".onnx"))
    origin = [f"- {key}: {md(value)}" for key, value in metadata.items() if key != "class_names"]
    files = [
        f"- `1/{about.file or name}`: {about.precision.upper()} in {LIBRARIES[about.runtime]}"
        for name, about in entries.items()
    ]
    needed = " or ".join(sorted({LIBRARIES[about.runtime] for about in entries.values()}))
    shown = ", ".join(map(md, class_names[:10])) + (", ..." if len(class_names) > 10 else "")
    lines = [
        "# Image classifier",
        "",
        f"{len(class_names)} classes ({shown}), {side} x {side} RGB images, values / 255, normalised by mean and std.",
        _SIDES[data.fit].format(data.square.target) + f" ({data.interpolation}, antialiased), and the centre is "
        "cropped. `preprocess.onnx` does all of it for pictures of any size.",
        "",
        *([card.strip(), ""] if card.strip() else []),
        "## Files",
        "",
        *files,
        "- `preprocess.onnx`: uint8 pixels [batch, height, width, 3] to the `input` of the models",
        f"- `run.py`: a runner that needs numpy and {needed}, and Pillow for pictures that are files; alone it replays "
        "the golden pictures",
        "- `golden/`: pictures as the data set has them, with their metadata; `golden.npz`: what each model answered; "
        "`compress verify` compares",
        "- `config.pbtxt`: put this folder into a Triton model repository",
        "",
        "## Origin",
        "",
        *origin,
    ]
    return "\n".join(lines) + "\n"
