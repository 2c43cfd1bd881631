"""Teachers without a last layer for classes, such as DINOv2, teach by their features alone.

In: a recipe. Out: nothing, or an error where it needs the logits of such a teacher.
"""

from compress.distributed.world import current
from compress.models.published import find_published
from compress.recipe import FeatureTerm, Recipe
from compress.runs.folder import Run, teacher_record_file
from compress.system.errors import UsageError


def check_teacher_without_head(recipe: Recipe, run: Run) -> None:
    """Only terms on features can use a teacher whose published weights have no last layer, such as DINOv2.

    Args:
        run: nothing is checked where it has its teacher already.

    Raises:
        UsageError: the recipe needs logits of such a teacher.
        InputError: the configuration of its weights is damaged.
        MachineError: its configuration is on the Hub, which cannot be reached.
    """
    if current().from_leader(teacher_record_file(run.teacher).exists):
        return
    if any(one.source == "pretrained" and find_published(one).headless for one in recipe.teacher.members):
        refuse_logits_without_head(recipe)


def refuse_logits_without_head(recipe: Recipe) -> None:
    """Raises UsageError where the recipe needs logits of its teacher, which has no last layer."""
    what = f"the teacher {recipe.teacher.model} has no last layer, so it gives no logits"
    hint = "Give it one by teacher.source: finetune, or use method: ce with terms on features, such as fitnet."
    if recipe.teacher.ensemble:
        raise UsageError(f"{what}, and an ensemble needs them", "Give it one by source: finetune, or leave it out.")
    if recipe.supervision.method != "ce":
        raise UsageError(f"{what}, and method {recipe.supervision.method} needs them", hint)
    for term in recipe.supervision.terms:
        if not isinstance(term, FeatureTerm):
            raise UsageError(f"{what}, and {term.name} of supervision.terms needs them", hint)


def uses_features_alone(recipe: Recipe) -> bool:
    """Whether the recipe uses the teacher's features and not its logits."""
    terms = recipe.supervision.terms
    return recipe.supervision.method == "ce" and bool(terms) and all(isinstance(term, FeatureTerm) for term in terms)
