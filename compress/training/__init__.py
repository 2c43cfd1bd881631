"""Trains a model.

In: a model, batches and an objective. Out: the trained model, a line of metrics for each epoch, and checkpoints.
"""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from compress.training.evaluate import accuracy, logits_of
    from compress.training.loop import Position, finish, train

__all__ = ["Position", "accuracy", "finish", "logits_of", "train"]

__getattr__ = hand_on(
    __name__,
    {
        "accuracy": "compress.training.evaluate",
        "logits_of": "compress.training.evaluate",
        "Position": "compress.training.loop",
        "finish": "compress.training.loop",
        "train": "compress.training.loop",
    },
)
