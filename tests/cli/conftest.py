"""What the tests of commands share with those of faults."""

from tests.faults.conftest import long_recipe, start

__all__ = ["long_recipe", "start"]
