"""What a bundle says of itself to people, and to a Triton server."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.data import Dataset
from compress.data.preprocessing import Fit
from export.delivery.golden import LIBRARIES
from export.onnx import get_metadata
from export.records import BundledModel
from export.report.formats import md

_SIDES: dict[Fit, str] = {
    "crop": "Before, the shorter side is resized to {} pixels",
    "stretch": "Before, both sides are resized to {} pixels",
    "pad": "Before, the longer side is resized to {} pixels, the rest is filled with the mean colour",
}


def triton_config(model: str, about: BundledModel, data: Dataset) -> str:
    """config.pbtxt, for the default model."""
    _, height, width, channels = data.eval_images.shape
    runs = 'platform: "onnxruntime_onnx"' if about.runtime == "ort" else 'backend: "openvino"'
    return f"""# The input is what preprocess.onnx makes of pictures: resized, cropped and normalised, float32.
{runs}
default_model_filename: "{about.file or model}"
max_batch_size: 64
input [
  {{ name: "input", data_type: TYPE_FP32, dims: [ {channels}, {height}, {width} ] }}
]
output [
  {{ name: "logits", data_type: TYPE_FP32, dims: [ {len(data.class_names)} ], label_filename: "classes.txt" }}
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
