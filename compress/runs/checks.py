"""What must hold of a model before hours are spent on it: it takes the pictures, and has what the terms name."""

import torch
from torch import nn

from compress.data import Dataset
from compress.losses.terms import tap
from compress.recipe import Recipe
from compress.system.errors import InputError


def check_logits(model: nn.Module, dataset: Dataset, role: str) -> None:
    """Raises InputError where the model does not map images [2, 3, H, W] of the data to logits [2, C]."""
    was_training = model.training
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        try:
            shape = list(model.eval()(torch.zeros(2, 3, dataset.image_size, dataset.image_size, device=device)).shape)
        except Exception as error:
            raise InputError(
                f"the {role} does not take images of {dataset.image_size} pixels ({str(error).splitlines()[0]})",
                "Choose another data.image_size or model, or give a ViT its size, as in args: {img_size: 32}.",
            ) from error
    model.train(was_training)
    if shape != [2, dataset.num_classes]:
        raise InputError(
            f"the {role} has outputs of shape {shape[1:]}, and {dataset.name} has {dataset.num_classes} classes",
            "Its last layer must have one output a class.",
        )


def check_features(model: nn.Module, recipe: Recipe, dataset: Dataset, role: str) -> None:
    """Raises UsageError where a term of the recipe names a feature that the model does not have."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images = torch.zeros(2, 3, dataset.image_size, dataset.image_size, device=device)
    tap(model, recipe.supervision.terms, images, role=role)
