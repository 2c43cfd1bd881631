"""What the tests of commands share with those of faults."""

from tests.cli.torchrun import torchrun
from tests.faults.conftest import long_recipe, start

__all__ = ["long_recipe", "start", "torchrun"]
