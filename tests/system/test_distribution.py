import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from compress.system.distribution import DISTRIBUTION
from compress.system.errors import install_extra
from compress.system.versions import version
from tests.helpers.command import assert_fails
from tests.helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_name_is_that_of_pyproject_also_in_its_extras() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    extras = PROJECT["optional-dependencies"]
    assert f"{DISTRIBUTION}[hub-data,mlflow,openvino,ray,tensorboard,wandb]" in extras["dev"]
    assert install_extra("ray").endswith(f" -m pip install '{DISTRIBUTION}[ray]'")


def test_compress_stands_for_this_project_among_versions() -> None:
    assert version("compress") == importlib.metadata.version(DISTRIBUTION) == PROJECT["version"]
    assert version("numpy") == importlib.metadata.version("numpy")


NOT_INSTALLED = """
import importlib.metadata, sys
real = importlib.metadata.version
def version(name):
    if name == "compress-timm":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
from compress.cli.main import main
sys.argv = ["compress", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("arguments", [["--version"], ["distill", "quickstart"]])
def test_a_copy_of_the_code_that_is_not_installed_says_how_to_install_it(tmp_path: Path, arguments: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", NOT_INSTALLED, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert_fails(result, 4, f"compress in {ROOT} is not installed", "-m pip install --no-deps --editable")
