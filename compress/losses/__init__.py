"""What a training step minimises.

In: logits, labels and feature maps of student and teacher. Out: the loss and its named parts. The losses are pure
functions. `Objective` joins the loss of a method with its terms.
"""

from compress.losses.distillation import DistillationSettings, distillation_loss, dynamic_temperature
from compress.losses.logits import decoupled_kd, dist_loss
from compress.losses.objective import Means, Objective
from compress.losses.targets import adjust_targets

__all__ = [
    "DistillationSettings",
    "Means",
    "Objective",
    "adjust_targets",
    "decoupled_kd",
    "dist_loss",
    "distillation_loss",
    "dynamic_temperature",
]
