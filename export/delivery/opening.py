"""How a pushed student is opened, and what its images are: of a timm model, and of a module of the caller's own.

In: a finished run. Out: the config.json of its repository, and a section of the model card.
"""

from collections.abc import Sequence
from typing import Any

from compress import models
from compress.models import small_stem
from compress.models.folder import pictures_cfg
from compress.runs.data import data_of_student
from compress.runs.folder import Run


def made_by_timm(config: dict[str, Any]) -> bool:
    """Whether the config.json of a model names an architecture of timm."""
    return bool(config.get("architecture"))


def student_name(config: dict[str, Any]) -> str:
    """The architecture, or the class of a module of the caller's own."""
    return config["architecture"] if made_by_timm(config) else config["module"].rsplit(".", 1)[-1]


def hub_config(run: Run) -> dict[str, Any]:
    """config.json as timm made it. For a module of the caller's own its classes and preprocessing are added.

    Raises:
        InputError: config.json is damaged, or the data is not that of the run.
    """
    config = models.read_config(run.student)
    if made_by_timm(config):
        return config
    data = data_of_student(run)
    return {
        **config,
        "num_classes": data.num_classes,
        "label_names": data.class_names,
        "pretrained_cfg": pictures_cfg(data),
    }


def how_to_open(config: dict[str, Any], repo: str, onnx: Sequence[str]) -> str:
    """Markdown that says it.

    Args:
        config: of `hub_config`.
        onnx: names of the ONNX files that are pushed.
    """
    return _of_timm(config["architecture"], repo) if made_by_timm(config) else _of_module(config, repo, onnx)


def _of_timm(architecture: str, repo: str) -> str:
    return f"""\
```python
{small_stem.import_line(architecture)}import timm

model = timm.create_model("hf-hub:{repo}", pretrained=True).eval()
```

Images come as RGB in 0..1, resized and cropped as `crop_pct` and `interpolation` of `config.json` say, and normalised
with its `mean` and `std`: `timm.data.create_transform(**timm.data.resolve_model_data_config(model))` does it.
"""


def _of_module(config: dict[str, Any], repo: str, onnx: Sequence[str]) -> str:
    name = student_name(config)
    files = ", ".join(f"`onnx/{each}`" for each in onnx)
    without = (
        f"\nONNX Runtime needs no class: {files}. Class names, mean and std are in the metadata of each file, too.\n"
        if onnx
        else ""
    )
    return f"""\
The student is a module of its own, `{name}`, which took the place of the recipe's student. timm does not know it.
To open its weights you need that class, which is not in this repository:

```python
import json

import timm
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

model = {name}()  # as it was made for the training
model.load_state_dict(load_file(hf_hub_download("{repo}", "model.safetensors")))
model.eval()

with open(hf_hub_download("{repo}", "config.json"), encoding="utf-8") as file:
    config = json.load(file)
transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config["pretrained_cfg"]))
```

`transform` makes of a picture what the student expects. The outputs are the classes of `label_names`, in their order.
{without}"""
