"""`python -m compress`: the same command as `compress`."""

import os
import sys
from pathlib import Path

# `python -m` puts the current folder first. There a folder `export/` would hide the package of that name.
if sys.path[0] in ("", os.getcwd()) and Path(__file__).parent.parent != Path.cwd():
    del sys.path[0]

from compress.cli.main import main

main()
