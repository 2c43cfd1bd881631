"""compress: distils timm image classifiers into compact students and takes them to deployment.

    from compress import distill, load_recipe, load_student

Importing compress registers the small-stem models with timm. It does not import timm, which takes seconds.
"""

from typing import TYPE_CHECKING

from compress.models.registration import register_small_stems
from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from compress.recipe import load_recipe
    from compress.runs import distill, load_student

__version__ = "0.1.0"
__all__ = ["distill", "load_recipe", "load_student"]

__getattr__ = hand_on(
    __name__, {"distill": "compress.runs", "load_student": "compress.runs", "load_recipe": "compress.recipe"}
)
register_small_stems()
