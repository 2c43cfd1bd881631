"""The name under which this project is installed, and the versions of packages.

The command and the package are named compress. On PyPI that name belongs to another project.
"""

DISTRIBUTION = "compress-timm"


def version(package: str) -> str:
    """The installed version of a distribution. "compress" means this project.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    import importlib.metadata  # imported here, because it would slow `compress --help` down

    return importlib.metadata.version(DISTRIBUTION if package == "compress" else package)
