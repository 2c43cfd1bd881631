"""Bytecode in a bundle: what Python leaves there verifies, all else is refused, and the runner loads none of it."""

import importlib.util
import py_compile
import random
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from compress.system.errors import InputError
from export.delivery import make_bundle, verify_bundle
from export.delivery.bytecode import is_compiled_from, source_of
from tests.helpers.bundles import sign
from tests.helpers.classifiers import Digits

SAID = "THE CODE OF SOMEBODY ELSE RUNS"
UNCHECKED, CHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH, py_compile.PycInvalidationMode.CHECKED_HASH


@pytest.fixture(scope="module")
def made(trained_onnx: Path, data: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bytecode") / "bundle", [trained_onnx], data)  # type: ignore[arg-type]


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def cached(bundle: Path, module: str, optimization: str = "") -> Path:
    return Path(importlib.util.cache_from_source(str(bundle / f"{module}.py"), optimization=optimization))


def plant(bundle: Path, module: str, *, mode: py_compile.PycInvalidationMode = UNCHECKED) -> Path:
    """Bytecode of a file of the bundle that also says something, as Python would load it without a look at the file."""
    source = bundle.parent / "planted.py"
    source.write_text((bundle / f"{module}.py").read_text() + f"\nprint({SAID!r})\n")
    path = cached(bundle, module)
    py_compile.compile(str(source), cfile=str(path), dfile=f"{module}.py", invalidation_mode=mode)
    return path


def run(bundle: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, bundle / "run.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=bundle.parent)


@pytest.mark.parametrize("module", ["rgb", "run"])
def test_bytecode_of_something_else_is_refused(bundle: Path, module: str) -> None:
    path = plant(bundle, module)
    with pytest.raises(InputError, match=rf"holds __pycache__/{path.name}, which none of its files compiles to"):
        verify_bundle(bundle)
    sign(bundle, lambda manifest: manifest["files"].update({f"__pycache__/{path.name}": ""}))
    with pytest.raises(InputError, match=rf"holds __pycache__/{path.name}, which none of its files compiles to"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    "name",
    [
        "rgb.pyc",
        "numpy.pyc",
        "1/__pycache__/run.cpython-311.pyc",
        "__pycache__/numpy.cpython-311.pyc",
        "__pycache__/rgb.cpython-27.pyc",
        "__pycache__/rgb.so",
        ".ipynb_checkpoints/rgb.cpython-311.pyc",
    ],
)
def test_bytecode_that_belongs_to_no_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    py_compile.compile(str(bundle / "rgb.py"), cfile=str(bundle / name), invalidation_mode=UNCHECKED)
    with pytest.raises(InputError, match=f"holds {name}"):
        verify_bundle(bundle)


def test_a_link_in_the_place_of_pycache_is_refused(bundle: Path, tmp_path: Path) -> None:
    plant(bundle, "rgb")
    (bundle / "__pycache__").rename(tmp_path / "elsewhere")
    (bundle / "__pycache__").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="holds __pycache__, which its manifest does not list"):
        verify_bundle(bundle)


def test_bytecode_that_python_itself_left_verifies(bundle: Path, tmp_path: Path) -> None:
    for mode, level in ((CHECKED, -1), (UNCHECKED, 0), (py_compile.PycInvalidationMode.TIMESTAMP, 2)):
        for module in ("rgb", "run"):
            path = cached(bundle, module, "" if level < 1 else str(level))
            source = tmp_path / str(level) / f"{module}.py"  # another path than it will be imported by
            source.parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle / f"{module}.py", source)
            py_compile.compile(str(source), cfile=str(path), optimize=level, invalidation_mode=mode)
    assert len(list((bundle / "__pycache__").iterdir())) == 4
    verify_bundle(bundle)


@pytest.mark.parametrize("mode", [UNCHECKED, CHECKED])
def test_the_runner_neither_loads_nor_writes_bytecode(bundle: Path, mode: py_compile.PycInvalidationMode) -> None:
    picture = next((bundle / "golden").iterdir())
    expected = run(bundle, picture)
    assert expected.returncode == 0, expected.stderr
    assert not (bundle / "__pycache__").exists()
    content = plant(bundle, "rgb", mode=mode).read_bytes()
    found = run(bundle, picture)
    assert (found.stdout, found.stderr) == (expected.stdout, expected.stderr)
    assert SAID not in found.stdout
    assert cached(bundle, "rgb").read_bytes() == content


def test_the_bytecode_of_pythons_own_modules_is_that_of_their_sources() -> None:
    """An independent check of the reader: the interpreter compiled these, and a byte more or less is noticed."""
    random.seed(0)
    library = Path(sysconfig.get_paths()["stdlib"])
    checked = 0
    for name in ("ast", "dataclasses", "json/decoder", "statistics"):
        source = library / f"{name}.py"
        compiled = Path(importlib.util.cache_from_source(str(source)))
        if not compiled.exists():
            continue
        checked += 1
        path, content = f"__pycache__/{compiled.name}", compiled.read_bytes()
        assert source_of(path) == source.name
        assert is_compiled_from(source.read_bytes(), path, content)
        assert not is_compiled_from(source.read_bytes() + b"\nx = 1\n", path, content)
        assert not is_compiled_from(source.read_bytes(), path, content + b"N")
        for place in random.sample(range(16, len(content)), 20):
            changed = bytearray(content)
            changed[place] ^= 1 << random.randrange(7)
            is_compiled_from(source.read_bytes(), path, bytes(changed))  # neither crashes nor hangs
        assert not is_compiled_from(source.read_bytes(), path, content[:-5])
    assert checked


@pytest.mark.parametrize(
    "content", [b"", b"N", b"r\0\0\0\0", b"(\xff\xff\xff\x7f", b"\xa9\x01" * 5000, b"l\xff\xff\xff\x7f"]
)
def test_bytecode_that_is_none_is_not_taken_for_it(content: bytes) -> None:
    path = f"__pycache__/rgb.{sys.implementation.cache_tag}.pyc"
    assert not is_compiled_from(b"", path, importlib.util.MAGIC_NUMBER + bytes(12) + content)
