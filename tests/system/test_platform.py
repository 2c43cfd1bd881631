"""What differs between operating systems, with the branches of others where they can run here."""

import mmap
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.system import files, platform
from compress.system.errors import MachineError


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert platform.cpu_quota(tmp_path) == cores


def test_a_quota_below_the_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "allowed_cpus", lambda: 8)
    monkeypatch.setattr(platform, "cpu_quota", lambda: 2.5)
    assert platform.usable_cpus() == 2
    monkeypatch.setattr(platform, "cpu_quota", lambda: 0.5)
    assert platform.usable_cpus() == 1
    monkeypatch.setattr(platform, "cpu_quota", lambda: None)
    assert platform.usable_cpus() == 8


def test_without_affinity_all_cpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert platform.allowed_cpus() == os.cpu_count()


def test_the_peak_memory_is_that_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    block = np.ones(40_000_000, np.uint8)
    del block
    high, before = platform.peak_memory_mb(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    assert high == pytest.approx(before, rel=0.05)
    monkeypatch.setattr(platform, "_STATUS", Path("/nowhere"))  # macOS has no /proc
    assert platform.peak_memory_mb() == pytest.approx(before, rel=0.05)


def test_a_processor_without_cpuinfo_has_a_name_and_no_flags(tmp_path: Path) -> None:
    name, flags = platform.processor(tmp_path / "absent")
    assert name
    assert flags == []


def test_a_full_disk_shows_when_space_is_reserved() -> None:
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError):  # noqa: PT011 - which error depends on the kernel
        platform.reserve_space(full, 1 << 20)


def test_a_copy_on_write_map_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcd")
    with path.open("rb") as file:
        mapped = platform.map_copy_on_write(file)
    mapped[0] = ord("x")
    assert (mapped[:], path.read_bytes()) == (b"xbcd", b"abcd")


def test_files_are_written_on_windows_which_syncs_no_folder_and_nothing_that_is_open_for_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    real = os.fsync

    def fsync(handle: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")  # what Windows answers
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(sys, "platform", "win32")
    files.write_bytes(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    with pytest.raises(MachineError):
        files.write_bytes(tmp_path / "no" / "such" / "file", b"content")


def test_windows_maps_a_file_by_its_own_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "array.npy", np.arange(5))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(mmap, "MAP_PRIVATE")
    array = files.map_array(tmp_path / "array.npy")
    array[0] = 9
    assert np.load(tmp_path / "array.npy").tolist() == [0, 1, 2, 3, 4]


def test_ctrl_c_does_not_reach_a_process_without_keyboard() -> None:
    code = "import os; print(os.getpgid(0) == os.getpid())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, **platform.without_keyboard())
    assert done.stdout.strip() == "True"


def test_a_signal_to_this_process_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        platform.signal_self(signal.SIGTERM)
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.delattr(os, "kill")
        platform.signal_self(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM] * 2
