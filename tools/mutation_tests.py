"""Runs tests in forked processes for mutation.py, and notes which lines each of them reaches.

In: names of tests. Out: pytest's exit code, and for each test its time, its fixtures and its lines. The process that is
forked has imported torch and timm, and nothing of this project.
"""

import importlib
import itertools
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

A_FUNCTION = 8
"""Sets of parameters of one test function that are run."""
Lines = set[tuple[str, int]]


class Watched:
    """A plugin of pytest. Commands are forked from this process.

    Attributes:
        tests: of each test its seconds, its fixtures, and whether it passed.
        lines: (file, line) that each test reached, and each fixture that tests share.

    Args:
        prefix: of the files whose lines are noted. None: nothing is noted, and every test is run.
    """

    def __init__(self, prefix: str | None) -> None:
        self.prefix = prefix
        self.tests: dict[str, dict[str, Any]] = defaultdict(dict)
        self.lines: dict[str, Lines] = defaultdict(set)
        self._now: Lines = set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keeps a few sets of parameters of each test function, evenly."""
        if self.prefix is not None:
            groups = [list(group) for _, group in itertools.groupby(items, lambda item: item.nodeid.split("[")[0])]
            items[:] = [item for group in groups for item in group[:: -(-len(group) // A_FUNCTION)]]

    def pytest_collection_finish(self) -> None:
        warm: Any = importlib.import_module("tests.helpers.warm")
        warm.WarmProcess.run = lambda _, *args, cwd, timeout: self._command(args, cwd, timeout)
        if self.prefix is not None:
            sys.settrace(self._trace)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Generator[None, object, object]:
        began, self._now = time.perf_counter(), self.lines[item.nodeid]
        result = yield
        self.tests[item.nodeid] |= {"seconds": time.perf_counter() - began, "fixtures": [*item.fixturenames]}
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        """The lines of a fixture that tests share are those of each test that asks for it."""
        before = self._now
        if fixturedef.scope != "function":
            self._now = self.lines[f"fixture {fixturedef.argname}"]
        try:
            return (yield)
        finally:
            self._now = before

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call":
            self.tests[report.nodeid]["passed"] = report.passed

    def _trace(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self.prefix):
            return None
        self._now.add((frame.f_code.co_filename, frame.f_lineno))
        return self._trace

    def _command(self, args: tuple[object, ...], cwd: Path, timeout: float) -> subprocess.CompletedProcess[str]:
        """What `tests.helpers.warm.WarmProcess` does, in a fork of this process."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as noted:

            def command() -> int:
                for number, file in enumerate((out, err), start=1):
                    os.dup2(file.fileno(), number)
                sys.stdout, sys.stderr = (open(number, "w", closefd=False, encoding="utf-8") for number in (1, 2))  # noqa: SIM115
                os.chdir(cwd)
                sys.argv = ["compress", *map(str, args)]
                self._now = set()
                try:
                    runpy.run_module("compress", run_name="__main__", alter_sys=True)
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    noted.write(json.dumps([*self._now]).encode())
                    noted.flush()
                return 0

            code = forked(command, timeout, group=False)
            if code is None:
                raise subprocess.TimeoutExpired("compress", timeout)
            texts = []
            for file in (out, err, noted):
                file.seek(0)
                texts.append(file.read().decode().replace("\r\n", "\n"))
            self._now |= {(name, line) for name, line in json.loads(texts.pop() or "[]")}
        return subprocess.CompletedProcess(["compress", *map(str, args)], code, *texts)


def forked(action: Callable[[], int], timeout: float, *, group: bool = True) -> int | None:
    """The exit code of an action in a forked process, as subprocess counts it. None where it took too long.

    group: whether the process has a group of its own, which ends with it.
    """
    if sys.platform == "win32":
        raise OSError("Windows cannot fork, as the mutation score needs")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if group:
                os.setpgid(0, 0)
            code = action()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - whatever it is, this process must end here
            traceback.print_exc()
        os._exit(code)
    left = timeout
    while left > 0:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        before = time.monotonic()
        time.sleep(0.01)
        left -= min(time.monotonic() - before, 1.0)  # while this process is stopped no time passes
    (os.killpg if group else os.kill)(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def tests_under(plugin: Watched, arguments: list[str], log: Path) -> int:
    """pytest in this process, which is a forked one. What it prints is in the file."""
    with log.open("w", encoding="utf-8") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={log.parent / 'tmp'}"]
    return int(pytest.main([*options, *arguments], plugins=[plugin]))
