"""`compress pick --with-accuracy RECIPE`: the best few are trained for an epoch on the user's data, and ranked again.

In: a Pick and a recipe. Out: the Pick with own_top1 of those models. The teacher is trained in full, and kept.
"""

import logging
from typing import Any

from compress.recipe import Recipe, validate_recipe
from compress.runs.arguments import torch_device
from compress.runs.distillation import distill
from compress.runs.folder import runs_root
from compress.runs.resolve import resolve
from export.pick.rank import in_order
from export.pick.run import Pick, with_rows

logger = logging.getLogger(__name__)

FEW = 3


def with_accuracy(found: Pick, recipe: Recipe, *, few: int = FEW, device: str = "auto") -> Pick:
    """Trains the first few models that fit as the recipe's student for one epoch, and ranks by what they reach.

    Args:
        recipe: says data, teacher and how students are trained. Its student is replaced.
        few: how many.
        device: auto, cpu or cuda.

    Raises:
        CompressError: whatever a training raises.
    """
    fitting = [row for row in found.models if row.fits][:few]
    reached: dict[str, float] = {}
    resolved = resolve(recipe, torch_device(device))
    for row in fitting:
        trial = trial_recipe(resolved, row.model, found.image_size)
        folder = runs_root() / "pick" / f"{row.model}-{trial.sha256[:8]}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        run = distill(trial, name=row.model.replace(".", "-"), out=folder, resume=True, device=device)
        reached[row.model] = round(100 * run.result.student_top1, 3)
        logger.info(f"{row.model}: top1 {reached[row.model]:.2f} % after an epoch")
    rows = [row.model_copy(update={"own_top1": reached.get(row.model)}) for row in found.models]
    return with_rows(found, in_order(rows))


def trial_recipe(resolved: Recipe, model: str, image_size: int) -> Recipe:
    """The recipe with another student, one epoch, and without what is made for the student that it has.

    Args:
        resolved: so that the teacher's settings do not follow the single epoch.
        model: timm's name. It starts with published weights where the recipe's student does.
    """
    content: dict[str, Any] = resolved.dump()
    content["data"]["image_size"] = image_size
    content["student"] = {"model": model, "pretrained": resolved.student.published, "stem": "stock"}
    content["teacher"]["assistants"] = []
    content["supervision"]["terms"] = []
    content["train"] |= {"epochs": 1, "freeze": None, "freeze_epochs": 0.0, "quantize": None}
    content["train"]["warmup_epochs"] = min(0.1, content["train"]["warmup_epochs"])
    return validate_recipe(content)
