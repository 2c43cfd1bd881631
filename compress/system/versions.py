"""The versions of installed packages, which runs and files record.

In: the name of a distribution. Out: its version.
"""

import sys
from pathlib import Path

from compress.system.distribution import DISTRIBUTION
from compress.system.errors import MachineError


def version(package: str) -> str:
    """The installed version of a distribution. "compress" means this project, "pillow" what is imported as PIL.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
        MachineError: this project is imported from a folder that is not installed. A run could not record its version.
    """
    import importlib.metadata  # imported here, because it would slow `compress --help` down

    if package == "pillow":  # or pillow-simd, a distribution of another name
        from PIL import __version__

        return __version__
    if package != "compress":
        return importlib.metadata.version(package)
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        folder = Path(__file__).parents[2]
        raise MachineError(
            f"compress in {folder} is not installed, so that no run could record its version",
            f"{sys.executable} -m pip install --no-deps --editable {folder}",
        ) from None
