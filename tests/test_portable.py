"""What exists on some operating systems alone is called in compress/system/platform.py and nowhere else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

HOME = ROOT / "compress" / "system" / "platform.py"
FORKS = ROOT / "tools" / "mutation_tests.py"  # the mutation score is taken where there are forks
MODULES = sorted(path for part in ("compress", "export", "tools") for path in (ROOT / part).rglob("*.py"))
OF_ONE_SYSTEM = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "msvcrt", "winreg", "winsound"}
# Python's documentation gives their availability as Unix, Linux or Windows.
OF_OS = """
    sched_getaffinity sched_setaffinity sched_yield posix_fallocate posix_fadvise posix_spawn posix_spawnp fork forkpty
    killpg kill getpgid setpgid getpgrp setsid getsid getuid geteuid getgid getegid getgroups setuid setgid setgroups
    getloadavg getpriority setpriority nice sysconf confstr uname statvfs fstatvfs sync fdatasync fchown chown lchown
    mkfifo mknod chroot wait wait3 wait4 waitid sendfile copy_file_range splice eventfd memfd_create pidfd_open getxattr
    setxattr openpty ttyname ctermid initgroups lockf pread pwrite preadv pwritev startfile
"""
OF_SIGNAL = """
    SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGALRM SIGPIPE SIGCHLD SIGQUIT SIGTSTP SIGCONT SIGSTOP CTRL_C_EVENT CTRL_BREAK_EVENT
    alarm setitimer getitimer pause sigwait pthread_kill pthread_sigmask siginterrupt
"""
OF_MMAP = "MAP_PRIVATE MAP_SHARED MAP_ANONYMOUS PROT_READ PROT_WRITE"
NAMES = {"os": {*OF_OS.split()}, "signal": {*OF_SIGNAL.split()}, "mmap": {*OF_MMAP.split()}, "socket": {"AF_UNIX"}}
KEYWORDS = {"process_group", "preexec_fn", "start_new_session", "pass_fds", "creationflags", "startupinfo", "umask"}
STARTERS = {"Popen", "run", "call", "check_call", "check_output"}
FOLDERS = ("/proc", "/sys", "/dev", "/etc", "/tmp", "/var", "/usr", "/home")


def found(source: str) -> Iterator[str]:
    """What a source has of one system alone, with the number of its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"{node.lineno}: import {a.name}" for a in node.names if a.name in OF_ONE_SYSTEM)
        elif isinstance(node, ast.ImportFrom):
            own = NAMES.get(node.module or "", set())
            yield from (f"{node.lineno}: {a.name}" for a in node.names if node.module in OF_ONE_SYSTEM or a.name in own)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if node.attr in NAMES.get(node.value.id, set()) or name in ("sys.platform", "os.name"):
                yield f"{node.lineno}: {name}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in STARTERS:
            yield from (f"{node.lineno}: {keyword.arg}=" for keyword in node.keywords if keyword.arg in KEYWORDS)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_named(node.value):
            yield f"{node.lineno}: {node.value!r}"


def is_named(text: str) -> bool:
    """Whether a text is a call's name, as for getattr, or a path that Windows lacks."""
    return text in NAMES["os"] - {"wait", "sync", "kill", "nice"} or text.startswith(tuple(f"{f}/" for f in FOLDERS))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_one_module_knows_operating_systems(path: Path) -> None:
    if path not in (HOME, FORKS):
        assert not list(found(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.sched_getaffinity(0)",
        "from os import killpg",
        "import resource",
        "import signal\nsignal.signal(signal.SIGHUP, None)",
        "getattr(os, 'getuid')",
        "subprocess.Popen([], process_group=0)",
        "Path('/proc/self/status')",
        "if sys.platform == 'linux': pass",
    ],
)
def test_the_rule_finds(source: str) -> None:
    assert list(found(source))


def test_the_home_of_such_calls_has_some() -> None:
    assert len(list(found(HOME.read_text(encoding="utf-8")))) > 10
