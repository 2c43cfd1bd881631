"""Runs that are listed, found again and pruned: by their manifests alone, without a training."""

from pathlib import Path
from typing import Any

import pytest

from compress.recipe import load_recipe
from compress.runs.folder import all_runs, finished_run, new_run, runs_root, teacher_record_file
from compress.runs.housekeeping import list_runs, prune
from compress.runs.locks import held
from compress.runs.records import AssistantRecord, Manifest, TeacherRecord
from compress.system.errors import InputError, MachineError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESS_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def record(sha256: str) -> TeacherRecord:
    return TeacherRecord(source="train", sha256=sha256, data="d")


def make(path: Path, *, status: str = "finished", teacher: str = "t1", started: str = "2026", **more: Any) -> Path:
    """A run folder with the files that matter here: 1,000,000 bytes of checkpoints."""
    entries = {"recipe": "r", "method": "kd", "seed": 3, "student_top1": 0.5, "teacher_top1": 0.75}
    if status == "finished":
        entries |= {"student_sha256": f"s of {path.name}", "teacher": record(teacher)}
    (path / "checkpoints").mkdir(parents=True)
    (path / "checkpoints" / "one").write_bytes(bytes(1_000_000))
    Manifest.model_validate({"schema_version": 1, "status": status, "started": started, **entries, **more}).write(
        path / "manifest.json"
    )
    return path


def teacher(path: Path, sha256: str | None) -> Path:
    (path / "model").mkdir(parents=True)
    (path / "metrics.jsonl").write_bytes(b"12345")
    if sha256 is not None:
        record(sha256).write(teacher_record_file(path / "model"))
    return path


def test_what_can_go_is_what_no_run_needs(root: Path) -> None:
    chained = AssistantRecord(model="m", run="x", sha256="s of used", top1=0.5)
    one = make(root / "one", assistants=[chained])
    (one / "checkpoints-quantize").mkdir()
    make(root / "sweeps" / "study" / "cell", teacher="t2")
    members = [{"model": "m", "source": "train", "sha256": "t3"}]
    make(root / "both", teacher="t9")
    manifest = Manifest.read(root / "both" / "manifest.json")
    ensemble = TeacherRecord.model_validate({**record("t9").dump(), "members": members})
    manifest.model_copy(update={"teacher": ensemble}).write(root / "both" / "manifest.json")
    for number in (1, 2, 3):
        teacher(root / "teachers" / f"kept{number}", f"t{number}")
    unused, unfinished = teacher(root / "teachers" / "unused", "t4"), teacher(root / "teachers" / "unfinished", None)
    (root / "teachers" / "notes").mkdir()
    make(root / "assistants" / "used")
    other = make(root / "assistants" / "other")
    expected = {one / "checkpoints", one / "checkpoints-quantize", root / "both" / "checkpoints", unused, other}
    found = dict(prune())
    assert set(found) == expected
    assert found[one / "checkpoints"] == 1_000_000
    assert found[one / "checkpoints-quantize"] == 0
    assert found[unused] == 5 + teacher_record_file(unused / "model").stat().st_size
    assert set(dict(prune(failed=True))) == {*expected, unfinished}
    assert all(path.exists() for path in expected)
    prune(remove=True)
    assert not any(path.exists() for path in expected)
    assert unfinished.exists()
    assert dict(prune()) == {}


def test_an_interrupted_assistant_stays_unless_what_failed_may_go(root: Path) -> None:
    """Its run may lie elsewhere, and go on."""
    make(root / "one")
    interrupted = make(root / "assistants" / "half", status="running")
    assert interrupted not in dict(prune())
    assert interrupted in dict(prune(failed=True))


def test_while_a_run_is_not_finished_teachers_stay(root: Path) -> None:
    failed = make(root / "failed", status="failed")
    finished_once = make(root / "extended", status="failed", student_sha256="s")
    unused = teacher(root / "teachers" / "unused", "t4")
    assert dict(prune()) == {}
    assert set(dict(prune(failed=True))) == {failed}  # that which was finished once may still need its teacher
    (finished_once / "manifest.json").unlink()
    assert set(dict(prune(failed=True))) == {failed, unused}


def test_what_a_process_holds_stays(root: Path) -> None:
    one, two = make(root / "one"), make(root / "two")
    with held(one):
        assert set(dict(prune(remove=True))) == {two / "checkpoints"}
    assert (one / "checkpoints").exists()
    assert set(dict(prune())) == {one / "checkpoints"}


def test_runs_are_listed_oldest_first_with_what_was_measured(root: Path) -> None:
    make(root / "b", started="2026-02")
    make(root / "c", started="2026-03", status="running")
    make(root / "d", started="2026-04", status="running")
    make(root / "a", started="2026-05", status="failed")
    (root / "e").mkdir()
    (root / "e" / "manifest.json").write_text("{")
    with held(root / "d"):
        rows = list_runs()
    assert [(Path(row["run"]).name, row["status"]) for row in rows] == [
        ("b", "finished"), ("c", "interrupted"), ("d", "running"), ("a", "failed"),
    ]  # fmt: skip
    first = {key: value for key, value in rows[0].items() if key != "run"}
    assert first == {
        "recipe": "r", "method": "kd", "seed": 3, "status": "finished", "teacher_top1": 0.75, "student_top1": 0.5,
        "started": "2026-02", "megabytes": 1.0,
    }  # fmt: skip


def test_folders_that_cannot_be_read_hinder_neither_lists_nor_pruning(root: Path) -> None:
    """Nobody can look at a link to a name of 300 letters, root neither."""
    one = make(root / "one")
    unused = teacher(root / "teachers" / "unused", "t4")
    used = teacher(root / "teachers" / "used", "t5")
    make(root / "studies" / "deep" / "cell", teacher="t5")
    (root / "linked").symlink_to(make(root.parent / "elsewhere" / "deep" / "cell", teacher="t6").parents[1])
    also_used = teacher(root / "teachers" / "also used", "t6")
    for folder in (root, root / "teachers", root / "assistants", root / "studies", root / "studies" / "deep", one):
        folder.mkdir(exist_ok=True)
        (folder / "link").symlink_to("n" * 300)
    assert finished_run(None).path == one
    (row,) = list_runs()
    assert (row["run"], row["megabytes"]) == (str(one), 1.0)
    assert set(dict(prune(remove=True))) == {one / "checkpoints", unused}
    assert used.exists()
    assert also_used.exists()


def test_the_newest_finished_run_is_taken(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished run"):
        finished_run(None)
    make(root / "z", started="2026-01")
    make(root / "a", started="2026-02")
    make(root / "m", started="2026-03", status="failed")
    assert finished_run(None).path == root / "a"
    assert [run.path.name for run in all_runs()] == ["z", "a", "m"]
    make(tmp_path / "elsewhere" / "own")
    assert [run.path.name for run in all_runs(tmp_path / "elsewhere")] == ["own"]
    with pytest.raises(InputError, match="not finished, but failed"):
        finished_run(root / "m")


def test_a_new_run_never_takes_a_folder_that_is_used(root: Path, tiny_recipe: Path, monkeypatch: Any) -> None:
    recipe = load_recipe(tiny_recipe, method="kd", overrides=["train.seed=7"])
    monkeypatch.setattr("compress.runs.folder.timestamp", lambda: "20260102-030405")
    names = [new_run(recipe, "mine", None).path for _ in range(3)]
    own = runs_root() / "mine-kd-s7-20260102-030405"
    assert names == [own, own.with_name(f"{own.name}-2"), own.with_name(f"{own.name}-3")]
    (root / "begun").mkdir()
    (root / "begun" / "recipe.yaml").touch()  # a run that ended before its first manifest
    assert new_run(recipe, "mine", root / "begun").path == root / "begun"
    with held(root / "begun"), pytest.raises(MachineError, match="in use by process"):
        new_run(recipe, "mine", root / "begun")
    (root / "begun" / "notes.txt").touch()
    with pytest.raises(MachineError, match="is not empty"):
        new_run(recipe, "mine", root / "begun")
