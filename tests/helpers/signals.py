"""A process whose models have come and gone still hears signals."""

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.helpers.paths import ROOT

_TWICE = """
import signal
one, two = opened(), opened()
del one
del two
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
signal.raise_signal(signal.SIGTERM)
"""


def assert_signals_are_heard(code: str, *, cwd: Path = ROOT) -> None:
    """code: of a new Python in that folder. It has Path and np, and defines opened(), which returns a model or more."""
    whole = "from pathlib import Path\nimport numpy as np\n" + textwrap.dedent(code) + _TWICE
    done = subprocess.run([sys.executable, "-c", whole], cwd=cwd, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "heard"), done.stderr
