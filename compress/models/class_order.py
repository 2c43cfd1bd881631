"""Puts the classes of a trained model into another order.

In: a timm model. Out: the same model, whose last layer has its rows in that order.
"""

import copy
from typing import Any

import torch

from compress.models.heads import classifier_names
from compress.system.modules import evaluating


def reorder_classes(model: Any, order: list[int]) -> bool:
    """Reorders the rows of the model's last layer in place, where that reorders its logits and changes nothing else.

    Args:
        model: a timm model.
        order: class k of the result is class order[k] of the model.

    Returns:
        Whether it did. The model is as it was where its last layer is not what timm says.
    """
    before = copy.deepcopy(model.state_dict())
    head = classifier_names(model)
    size = (model.pretrained_cfg.get("input_size") or (3, 224, 224))[-1]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    images = images.to(next(iter(before.values())).device)
    rows = torch.tensor(order, device=images.device)
    with evaluating(model), torch.no_grad():
        expected = model(images)[:, rows]
        for name, value in model.state_dict().items():
            if name.startswith(head) and value.dim() and len(value) == len(order):
                value.copy_(value[rows])
        if torch.allclose(model(images), expected, rtol=1e-4, atol=1e-5):
            return True
    model.load_state_dict(before)
    return False
