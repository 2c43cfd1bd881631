"""Runs of the same name in one report."""

from pathlib import Path

import pytest

from export.benchmark import Benchmark
from export.report.names import told_apart


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a/run", "b/run"], ["a/run", "b/run"]),
        (["a/x/run", "b/x/run", "other"], ["a/x/run", "b/x/run", "other"]),
        (["run", "a/run"], ["TMP/run", "a/run"]),
        (["a/run", "a/run"], ["run", "run"]),
        (["one", "two"], ["one", "two"]),
    ],
)
def test_as_many_folders_as_needed_stand_before_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: list[str], names: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    benchmarks = [Benchmark.model_construct(run=Path(folder).name) for folder in folders]
    found = [benchmark.run for benchmark in told_apart(benchmarks, list(map(Path, folders)))]
    assert found == [name.replace("TMP", tmp_path.name) for name in names]
