"""What pyproject.toml cannot say: the wheel holds the checkout's recipes/*.yaml as compress/recipe/recipes/*.yaml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["compress*", "export*"]), "compress.recipe.recipes"],
    package_dir={"compress.recipe.recipes": "recipes"},
)
