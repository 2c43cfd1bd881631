"""The real tools/study/reproduce.py as a process, and what it wrote."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.helpers.paths import ROOT
from tests.helpers.warm import warm_process

TOOLS = ROOT / "tools" / "study"
SMOKE = TOOLS / "smoke.yaml"


def reproduce(*arguments: object, cwd: Path, study: Path = SMOKE) -> subprocess.CompletedProcess[str]:
    cwd.mkdir(exist_ok=True)
    return warm_process().run(study, *arguments, cwd=cwd, timeout=900, script=TOOLS / "reproduce.py")


def runs(home: Path, name: str = "smoke") -> dict[str, dict[str, Any]]:
    content = json.loads((home / f"runs/smoke-results/{name}.json").read_text())
    return {run["name"]: run for setting in content["settings"].values() for run in setting["runs"]}
