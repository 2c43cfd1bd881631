"""Two hundred epochs with a checkpoint each: what the process holds at the end is what it held near the start."""

from pathlib import Path
from statistics import mean

import pytest

from tests.helpers.command import Process, Start

pytestmark = pytest.mark.faults
RECIPE = """\
data: {name: digits, image_size: 8}
teacher: {model: resnet10t, args: {channels: [8, 8, 8, 8]}, epochs: 20}
student: {model: resnet10t, args: {channels: [8, 8, 8, 8]}}
supervision: {method: ka+dtd}
train: {epochs: 200, batch_size: 256, lr: 0.05, ema: 0.99, precision: fp32}
"""


def holds(process: Process) -> tuple[int, int, int]:
    """Resident memory in kB, open files, threads."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
    return int(fields["VmRSS"].split()[0]), files, int(fields["Threads"])


def test_memory_files_and_threads_stay_flat_over_200_epochs(start: Start, tmp_path: Path) -> None:
    (tmp_path / "soak.yaml").write_text(RECIPE)
    process = start("distill", "soak.yaml", cwd=tmp_path)
    assert process.stderr
    held = [holds(process) for line in process.stderr if line.startswith("student ") and "/200" in line]
    assert process.wait() == 0
    assert len(held) == 200
    (run,) = tmp_path.glob("runs/soak-*")
    assert len(list((run / "checkpoints").iterdir())) == 4
    quarters = (held[:50], held[150:])
    for number, what in enumerate(("memory", "open files", "threads")):
        first, last = (mean(sample[number] for sample in quarter) for quarter in quarters)
        assert last == pytest.approx(first, rel=0.02), f"{what}: {first:.0f}, then {last:.0f}"
