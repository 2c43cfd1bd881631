"""Terms for the small networks of `networks.py`. The layers of network() are named by their numbers."""

from typing import Any

import torch
from torch import nn

from compress import recipe
from compress.losses.terms import Terms

FITNET = {"name": "fitnet", "student": "2", "teacher": "2"}
ALL = [
    FITNET,
    {"name": "attention_transfer", "student": "2", "teacher": "3"},
    {"name": "neuron_selectivity", "student": "3", "teacher": "2"},
    {"name": "similarity_preserving", "student": "2", "teacher": "5"},
    {"name": "relational", "student": "3", "teacher": "3", "angle_weight": 20.0},
    {"name": "dkd", "beta": 2.0},
    {"name": "dist", "weight": 0.1},
    {"name": "fitnet", "student": "3", "teacher": "2", "weight": 0.5},
]

STAGED_HINT = {"name": "fitnet", "student": "layer1", "teacher": "2"}
STAGED_TERMS: list[dict[str, Any]] = [
    STAGED_HINT,
    {"name": "attention_transfer", "student": "layer2", "teacher": "3"},
    {"name": "neuron_selectivity", "student": "layer1", "teacher": "2"},
    {"name": "similarity_preserving", "student": "layer2", "teacher": "5"},
    {"name": "relational", "student": "layer1", "teacher": "3"},
    {"name": "dkd", "beta": 2.0},
    {"name": "dist"},
    {"name": "adversarial", "width": 8},
]
"""For a student of the class Staged and a teacher from network()."""


def supervision(terms: list[dict[str, Any]], method: str = "ka+dtd", **options: Any) -> recipe.Supervision:
    return recipe.Supervision.model_validate({"method": method, "terms": terms, **options})


def make(terms: list[dict[str, Any]], student: nn.Module, teacher: nn.Module, seed: int = 0, **options: Any) -> Terms:
    return Terms(supervision(terms).terms, student, teacher, torch.zeros(2, 3, 6, 6), seed=seed, **options)
