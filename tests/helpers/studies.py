"""The real tools/study/reproduce.py as a process, and what it wrote."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers.paths import ROOT

TOOLS = ROOT / "tools" / "study"
SMOKE = TOOLS / "smoke.yaml"


def reproduce(*arguments: object, cwd: Path, study: Path = SMOKE) -> subprocess.CompletedProcess[str]:
    cwd.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, str(TOOLS / "reproduce.py"), str(study), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )


def runs(home: Path, name: str = "smoke") -> dict[str, dict[str, Any]]:
    content = json.loads((home / f"runs/smoke-results/{name}.json").read_text())
    return {run["name"]: run for setting in content["settings"].values() for run in setting["runs"]}
