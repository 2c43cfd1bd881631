"""The name under which this project is installed, and the versions of what a result was made with.

The command and the package are named compress. On PyPI that name belongs to another project.
"""

DISTRIBUTION = "compress-timm"


def version(package: str) -> str:
    """The installed version of a distribution. "compress" stands for this project.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    import importlib.metadata  # here, since `compress --help` must not wait for it

    return importlib.metadata.version(DISTRIBUTION if package == "compress" else package)
