"""Trains a model.

In: a model, batches and an objective. Out: the trained model, a line of metrics for each epoch, and checkpoints.
"""

from compress.training.evaluate import accuracy, logits_of
from compress.training.loop import Position, finish, train

__all__ = ["Position", "accuracy", "finish", "logits_of", "train"]
