import importlib.metadata
import tomllib

from compress.system.distribution import DISTRIBUTION, version
from compress.system.errors import install_extra
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
