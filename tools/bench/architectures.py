"""Every architecture of the matrix (zoo.py) through export, FP16, INT8, TensorRT for RTX and ONNX Runtime's clock.

In: names of timm, or none for all. Out: a row for each, with a result for every stage (architecture.py), and `failed`:
null, or the first stage that failed and why. Each model has a process of its own with a limit on time and memory, so
that no crash ends the run. Rows are appended to a file of JSON lines: a run that was stopped goes on, and --again
measures anew.

    python tools/bench/architectures.py
    python tools/bench/architectures.py --only hrnet_w18_small --again --json
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import click
from architectures_page import page
from harness import json_option, machine, run, show
from zoo import ZOO

from compress.system.console import progress_bar
from compress.system.files import replacing
from compress.system.versions import version

PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "tensorrt-rtx-cu13-bindings")
Row = dict[str, Any]


def versions() -> dict[str, str]:
    """Of the libraries whose work a row is."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def known(results: Path, of: dict[str, str]) -> dict[str, Row]:
    """The rows that were made with these versions, the newest of each model."""
    if not results.exists():
        return {}
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return {row["model"]: row for row in rows if row["versions"] == of}


def in_own_process(name: str, seconds: float, memory_gb: float) -> Row:
    """The row of one model, whatever becomes of its process."""
    script = Path(__file__).with_name("architecture.py")
    command = [sys.executable, str(script), name, "--memory-gb", str(memory_gb)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, check=False, env=environment, capture_output=True, encoding="utf-8", timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {"model": name, "size": ZOO.get(name), "failed": f"takes more than {seconds:.0f} s"}
    last = (done.stdout.splitlines() or [""])[-1]
    if done.returncode == 0 and last.startswith("{"):
        return json.loads(last)
    said = (done.stderr.strip().splitlines() or [""])[-1]
    code = done.returncode
    how = signal.Signals(-code).name if code < 0 else f"exit {code}"
    return {"model": name, "size": ZOO.get(name), "failed": f"its process ended with {how}: {said}"}


def measure(names: Sequence[str], results: Path, again: bool, one: Callable[[str], Row]) -> Iterator[Row]:
    """The rows of these models; those that the file does not have yet are made and appended to it."""
    made_by = versions()
    there = {} if again else known(results, made_by)
    results.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar("architectures", len(names)) as bar:
        for done, name in enumerate(names, start=1):
            if name not in there:
                there[name] = {**one(name), "versions": made_by}
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(there[name]) + "\n")
            yield there[name]
            bar.show(done)


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="This model, also one that the matrix lacks. Repeatable.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("runs/architectures.jsonl"), show_default=True)
@click.option("--again", is_flag=True, help="Measure also what the results have.")
@click.option("--seconds", default=900.0, show_default=True, help="The most for one model.")
@click.option("--memory-gb", default=14.0, show_default=True, help="The most for one model.")
@click.option("--page", "page_file", type=click.Path(path_type=Path), help="Write the table as Markdown.")
@json_option
def main(
    only: tuple[str, ...],
    results: Path,
    again: bool,
    seconds: float,
    memory_gb: float,
    page_file: Path | None,
    as_json: bool,
) -> None:
    """The matrix of architectures."""
    rows = list(measure(only or list(ZOO), results, again, lambda name: in_own_process(name, seconds, memory_gb)))
    facts = {**machine(), **versions()}
    if page_file is not None:
        left = [name for name in ZOO if name not in {row["model"] for row in rows}]
        with replacing(page_file) as temporary:
            temporary.write_text(page(rows, left, facts), encoding="utf-8")
    lines = (f"{row['model']:<36}{row['failed'] or 'clean'}" for row in rows)
    clean = sum(row["failed"] is None for row in rows)
    show(
        {"clean": clean, "of": len(rows), "rows": rows},
        [*lines, f"{clean} of {len(rows)} clean"],
        as_json=as_json,
        facts=facts,
    )


if __name__ == "__main__":
    run(main)
