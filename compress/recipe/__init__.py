"""What a user asks for.

In: YAML. Out: a frozen Recipe with a value for every key, or an error that names the wrong key. Nothing here imports
torch, so that a recipe is checked at once.
"""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from compress.recipe.data import Augment, Data
    from compress.recipe.deploy import BenchmarkLimits, Export
    from compress.recipe.load import (
        changed_keys,
        changed_recipe,
        load_recipe,
        recipe_schema,
        recipe_yaml,
        validate_recipe,
    )
    from compress.recipe.schema import Recipe
    from compress.recipe.section import Section
    from compress.recipe.supervision import FeatureTerm, Supervision, Term
    from compress.recipe.teacher import Member, Model, Student, Teacher
    from compress.recipe.train import Train, TrainSettings

__all__ = [
    "Augment",
    "BenchmarkLimits",
    "Data",
    "Export",
    "FeatureTerm",
    "Member",
    "Model",
    "Recipe",
    "Section",
    "Student",
    "Supervision",
    "Teacher",
    "Term",
    "Train",
    "TrainSettings",
    "changed_keys",
    "changed_recipe",
    "load_recipe",
    "recipe_schema",
    "recipe_yaml",
    "validate_recipe",
]

_HOMES = {
    "Augment": "compress.recipe.data",
    "Data": "compress.recipe.data",
    "BenchmarkLimits": "compress.recipe.deploy",
    "Export": "compress.recipe.deploy",
    "changed_keys": "compress.recipe.load",
    "changed_recipe": "compress.recipe.load",
    "load_recipe": "compress.recipe.load",
    "recipe_schema": "compress.recipe.load",
    "recipe_yaml": "compress.recipe.load",
    "validate_recipe": "compress.recipe.load",
    "Recipe": "compress.recipe.schema",
    "Section": "compress.recipe.section",
    "FeatureTerm": "compress.recipe.supervision",
    "Supervision": "compress.recipe.supervision",
    "Term": "compress.recipe.supervision",
    "Member": "compress.recipe.teacher",
    "Model": "compress.recipe.teacher",
    "Student": "compress.recipe.teacher",
    "Teacher": "compress.recipe.teacher",
    "Train": "compress.recipe.train",
    "TrainSettings": "compress.recipe.train",
}
__getattr__ = hand_on(__name__, _HOMES)
