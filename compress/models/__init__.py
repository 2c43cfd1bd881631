"""Models by their timm names.

In: the teacher or student of a recipe. Out: a module, and the folder in which it is saved. A saved model is config.json
and model.safetensors, as timm and the Hugging Face Hub expect.
"""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from compress.models.create import architecture, create_model
    from compress.models.folder import CONFIG, WEIGHTS, load_model, load_weights, read_config, save_model
    from compress.models.weights import adapted, as_teacher, checkpoint_teacher, pretrained_teacher
    from compress.models.wrappers import Adapted, Ensemble

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "Adapted",
    "Ensemble",
    "adapted",
    "architecture",
    "as_teacher",
    "checkpoint_teacher",
    "create_model",
    "load_model",
    "load_weights",
    "pretrained_teacher",
    "read_config",
    "save_model",
]

_HOMES = {
    "architecture": "compress.models.create",
    "create_model": "compress.models.create",
    "CONFIG": "compress.models.folder",
    "WEIGHTS": "compress.models.folder",
    "load_model": "compress.models.folder",
    "load_weights": "compress.models.folder",
    "read_config": "compress.models.folder",
    "save_model": "compress.models.folder",
    "checkpoint_teacher": "compress.models.weights",
    "adapted": "compress.models.weights",
    "as_teacher": "compress.models.weights",
    "pretrained_teacher": "compress.models.weights",
    "Ensemble": "compress.models.wrappers",
    "Adapted": "compress.models.wrappers",
}
__getattr__ = hand_on(__name__, _HOMES)
