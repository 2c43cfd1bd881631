"""What differs between operating systems. All calls that exist on some of them alone are here (tests/test_layout.py).

In: what is wanted. Out: the same on Linux, macOS and Windows, or the nearest that there is.
"""

import mmap
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")
_TASKS = Path("/proc/self/task")
OWN_PROCESS = "fork" if sys.platform == "linux" else "spawn"
"""How multiprocessing starts a process for a part of the work. macOS and Windows cannot safely fork."""
_MAP_NORESERVE = 0x4000  # Python 3.11 has no name for this flag of Linux


def usable_cpus() -> int:
    """CPUs this process may really use: the smaller of its affinity and its cgroup's quota."""
    allowed = allowed_cpus()
    quota = cpu_quota()
    return max(1, min(allowed, int(quota)) if quota is not None else allowed)


def allowed_cpus() -> int:
    """CPUs on which this process may run. macOS has no affinity, and Python 3.11 knows none of Windows."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def cpu_quota(root: Path = _CGROUP) -> float | None:
    """The CPU quota of this container in cores (cgroup v2, then v1), or None without one."""
    try:
        if (root / "cpu.max").exists():
            limit, period = (root / "cpu.max").read_text(encoding="ascii").split()
            return None if limit == "max" else int(limit) / int(period)
        limit_us = int((root / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period_us = int((root / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return limit_us / period_us if limit_us > 0 else None


def processor(cpuinfo: Path = _CPUINFO) -> tuple[str, list[str]]:
    """The model's name and the sorted flags of the first processor. Only Linux knows the flags."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    first: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    name = first.get("model name") or platform.processor() or platform.machine()
    return name, sorted((first.get("flags") or first.get("Features") or "").split())


def load_average() -> float | None:
    """Processes that ran or waited in the last minute. None on Windows."""
    return None if sys.platform == "win32" else os.getloadavg()[0]


def waited_ns() -> int | None:
    """Nanoseconds that this process's threads were ready to run and had to wait for a CPU. None but on Linux."""
    try:
        return sum(int(task.read_bytes().split()[1]) for task in _TASKS.glob("*/schedstat"))
    except (OSError, ValueError, IndexError):
        return None


def limit_memory(size: int) -> None:
    """Bytes that this process may have: a larger one ends alone. Windows has no such limit."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def peak_memory_mb() -> float:
    """The most resident memory that this process ever had, in MB.

    On Linux not ru_maxrss, which starts from the parent's at the time of the exec.
    """
    if sys.platform == "win32":
        import psutil  # pyright: ignore[reportMissingModuleSource]

        return psutil.Process().memory_info().peak_wset / 1e6
    if (peak := _status_mb("VmHWM")) is not None:
        return peak
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def resident_mb(kind: str) -> float:
    """The resident memory now, in MB: RssAnon (of its own) or RssFile (of mapped files).

    Raises:
        OSError: this is not Linux.
    """
    if (resident := _status_mb(kind)) is None:
        raise OSError(f"only Linux tells {kind}")
    return resident


def _status_mb(name: str) -> float | None:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:")), None)


def reserve_space(file: BinaryIO, size: int) -> None:
    """Takes the disk space of a file's first `size` bytes, of which some may be holes. macOS and Windows do it later.

    Raises:
        OSError: the disk is full.
    """
    if sys.platform == "linux":
        os.posix_fallocate(file.fileno(), 0, size)


def map_copy_on_write(file: BinaryIO) -> mmap.mmap:
    """The file, memory-mapped: the map may be written to, and the file does not change.

    Linux reserves no memory for it. Otherwise it would refuse a file that is larger than the memory.
    """
    if sys.platform == "win32":
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    flags = mmap.MAP_PRIVATE | (_MAP_NORESERVE if sys.platform == "linux" else 0)
    return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def sync_folder(folder: Path) -> None:
    """Makes a rename inside the folder survive a power failure. Windows cannot, and its file system keeps a journal."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def without_keyboard() -> dict[str, Any]:
    """Arguments for subprocess.Popen: Ctrl-C does not reach the new process, which its parent then ends."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"process_group": 0}


def signal_self(number: int) -> None:
    """Sends this process a signal, from any thread. On Windows os.kill would end the process."""
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        os.kill(os.getpid(), number)
