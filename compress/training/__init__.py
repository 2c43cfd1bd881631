"""The loop. In: a model, batches and an objective. Out: the trained model, metrics by epoch, and checkpoints."""

from compress.training.evaluate import accuracy, logits_of
from compress.training.loop import Position, finish, train

__all__ = ["Position", "accuracy", "finish", "logits_of", "train"]
