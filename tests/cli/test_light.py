"""What answers at once: commands, and processes that decode pictures, that run without torch and timm.

To import them takes ten seconds of a slow CPU, and hundreds of megabytes in each process.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

HEAVY = "import sys; heavy = {'torch', 'torchvision', 'timm', 'sklearn', 'onnxruntime'};"
COMMAND = f"""{HEAVY}
from compress.cli.main import main
try:
    main()
finally:
    print("heavy:", *sorted(heavy.intersection(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("distill", "--help"),
        ("recipe", "list"),
        ("recipe", "show", "quickstart"),
        ("data", "list"),
        ("runs", "list"),
        ("runs", "prune"),
    ],
    ids=" ".join,
)
def test_a_command_that_computes_nothing_needs_no_torch(arguments: tuple[str, ...], finished: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=finished.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "heavy:"
    if arguments == ("runs", "list"):
        assert finished.name in done.stdout


def test_a_process_that_decodes_pictures_needs_no_torch() -> None:
    code = HEAVY + "import compress.data.decode; assert not heavy.intersection(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
