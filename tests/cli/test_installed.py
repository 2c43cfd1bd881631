"""The wheel in a new environment, outside the checkout: what somebody has who installed it and never saw the source."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.system.distribution import DISTRIBUTION
from tests.helpers.paths import RECIPES, ROOT

pytestmark = pytest.mark.slow

SETUPTOOLS = 77
SOURCES = ("compress", "export", "recipes", "pyproject.toml", "setup.py", "README.md", "LICENSE")
SHORTER = (
    *("--set=train.epochs=1", "--set=train.warmup_epochs=0", "--set=student.args.channels=[8, 16, 32, 64]"),
    *("--set=teacher.epochs=1", "--set=teacher.args.channels=[16, 32, 64, 128]"),
)
Installed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing that an earlier build left in the checkout gets into it."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("pip is not installed: no wheel was built")
    try:
        found = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        found = "0"
    if int(found.split(".")[0]) < SETUPTOOLS:
        pytest.skip(f"setuptools {found} is older than {SETUPTOOLS}: no wheel was built")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out, source)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel. It borrows the dependencies from this one, which would take gigabytes again.

    Its .pth file names folders of packages. Those folders' own .pth files are not read, so that an editable install
    of the checkout stays hidden.
    """
    folder = tmp_path_factory.mktemp("environment") / "env"
    venv.create(folder, symlinks=True)
    pip("--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    (site_packages,) = folder.glob("lib/python3*/site-packages")
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder


@pytest.fixture(scope="module")
def installed(environment: Path) -> Installed:
    """Runs a program of the new environment, and fails where that does."""

    def run(program: str, *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [environment / "bin" / program, *map(str, args)],
            cwd=cwd,
            env=variables(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        return result

    return run


def variables() -> dict[str, str]:
    """The environment's variables without PYTHONPATH and its like."""
    return {**{key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}, "OMP_NUM_THREADS": "1"}


def pip(*args: object) -> None:
    command = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", *map(str, args)]
    result = subprocess.run(command, env=variables(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_wheel_holds_every_file_of_the_packages_and_every_recipe(wheel: Path) -> None:
    sources = [
        path
        for package in ("compress", "export")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    expected = {str(path.relative_to(ROOT)): path.read_bytes() for path in sources}
    expected |= {f"compress/recipe/recipes/{path.name}": path.read_bytes() for path in RECIPES}
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert {name: archive.read(name) for name in names} == expected
    assert {"compress/py.typed", "export/py.typed", "export/report/templates/report.html.j2"} <= expected.keys()


def test_a_wheel_alone_takes_the_quickstart_to_a_report(
    installed: Installed, environment: Path, tmp_path: Path
) -> None:
    where = "import compress, export; print(compress.__file__); print(export.__file__)"
    for file in installed("python", "-c", where, cwd=tmp_path).stdout.splitlines():
        assert Path(file).is_relative_to(environment)
    assert installed("compress", "--version", cwd=tmp_path).stdout.split()[-1] == importlib.metadata.version(
        DISTRIBUTION
    )
    shown = installed("compress", "recipe", "show", "quickstart", cwd=tmp_path).stdout
    assert shown == (ROOT / "recipes" / "quickstart.yaml").read_text()

    manifest = json.loads(installed("compress", "distill", "quickstart", *SHORTER, "--json", cwd=tmp_path).stdout)
    run = tmp_path / manifest["run"]
    assert manifest["status"] == "finished"
    assert manifest["versions"]["compress"] == importlib.metadata.version(DISTRIBUTION)

    installed("compress", "export", cwd=tmp_path)
    record = json.loads((run / "export" / "export.json").read_text())
    assert (run / "export" / "student.onnx").is_file()
    assert record["versions"]["compress"] == manifest["versions"]["compress"]

    installed("compress", "benchmark", "--runtime", "ort", "--batch", 1, "--threads", 1, "--seconds", 0.1, cwd=tmp_path)
    measured = json.loads((run / "benchmark.json").read_text())
    assert measured["machine"]["versions"]["compress"] == manifest["versions"]["compress"]

    installed("compress", "report", run, cwd=tmp_path)
    page = (run / "report.html").read_text()
    assert run.name in page
    assert re.search(r"<style>\s*\S", page), "the page has no style: a template is missing"


def test_the_python_api_finds_a_recipe_by_its_name_and_is_typed(installed: Installed, tmp_path: Path) -> None:
    script = "from compress import load_recipe; print(load_recipe('quickstart').student.model)"
    assert installed("python", "-c", script, cwd=tmp_path).stdout == "resnet10t\n"
