"""An IR is the one that was measured where both its files are: other weights leave its .xml as it is."""

from pathlib import Path

import pytest

from compress.runs.folder import Run
from compress.system.files import sha256_file
from export.benchmark.identity import is_another, is_recorded
from export.benchmark.results import CandidateResult, NotRun
from export.records import ExportRecord, FileRecord

IR, WEIGHTS = "openvino/student.int8.xml", "openvino/student.int8.bin"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """With an IR and a record of it."""
    folder = tmp_path / "export" / "openvino"
    folder.mkdir(parents=True)
    (folder / "student.int8.xml").write_text("<net/>")
    (folder / "student.int8.bin").write_bytes(b"weights")
    files = {name: FileRecord(sha256=sha256_file(tmp_path / "export" / name), bytes=6) for name in (IR, WEIGHTS)}
    ExportRecord(files=files).write(tmp_path / "export" / "export.json")
    return Run(tmp_path)


def measured(run: Run, *, earlier: bool = False, name: str = IR) -> CandidateResult:
    """earlier: by a compress that did not note the weights."""
    nothing = NotRun(reason="")
    return CandidateResult(
        name=name,
        role="student",
        runtime="openvino",
        precision="int8",
        file=IR,
        device="cpu",
        deployable=True,
        size_bytes=13,
        sha256=sha256_file(run.export / IR),
        weights_sha256="" if earlier else sha256_file(run.export / WEIGHTS),
        accuracy=nothing,
        latency=nothing,
        memory=nothing,
    )


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("name", [IR, f"{IR}:bf16"])
def test_other_weights_are_another_ir(run: Run, earlier: bool, name: str) -> None:
    entry = measured(run, earlier=earlier, name=name)
    assert not is_another(run, entry)
    (run.export / WEIGHTS).write_bytes(b"weightz")
    assert is_another(run, entry)
    (run.export / WEIGHTS).unlink()
    assert is_another(run, entry)


def test_without_hash_and_record_weights_cannot_be_told(run: Run) -> None:
    entry = measured(run, earlier=True)
    (run.export / "export.json").unlink()
    (run.export / WEIGHTS).write_bytes(b"weightz")
    assert not is_another(run, entry)
    (run.export / IR).write_text("<other/>")
    assert is_another(run, entry)


def test_a_file_that_is_gone_is_not_the_measured_one_unless_nothing_is_exported(run: Run) -> None:
    entry = measured(run)
    (run.export / IR).unlink()
    assert is_another(run, entry)
    (run.export / "export.json").unlink()
    assert not is_another(run, entry), "a page may be made of a benchmark.json alone"


def test_a_record_of_other_weights_is_of_another_file(run: Run) -> None:
    entry, files = measured(run), ExportRecord.read(run.export / "export.json").files
    assert is_recorded(entry, files)
    other = files[WEIGHTS].model_copy(update={"sha256": "0" * 64})
    for changed in ({**files, WEIGHTS: other}, {IR: files[IR]}, {**files, IR: other}, {}):
        assert not is_recorded(entry, changed)
