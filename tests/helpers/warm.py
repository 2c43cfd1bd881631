"""`compress` as a process of its own that has torch and timm imported already: it is forked from one that has.

To import them takes seconds, and most tests' commands take less. Run as a module this is the process that is forked: it
waits at a socket for arguments, folder, variables and the two output files of each command.
"""

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers.paths import ROOT

IMPORTED = (
    *("compress.runs.distillation", "compress.runs.starter", "compress.sweeps.run", "compress.sweeps.lockstep"),
    *("compress.cli.predict", "compress.cli.doctor"),
    *("scipy.stats", "sklearn.datasets", "matplotlib.pyplot", "jinja2", "rich.progress"),
    *("onnx", "onnxscript", "torch.onnx"),
)
MESSAGE = 1 << 20
ALLOCATORS = "jemalloc_bg_thd"  # of pyarrow, which pandas imports; it starts anew in a forked process


class WarmProcess:
    """Started with the first command; each command is forked from it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(
        self, *args: object, cwd: Path, timeout: float, script: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """`compress ARGS` to its end; cwd is where runs/ appears.

        Args:
            script: runs instead of compress.
            env: variables that are read when they are needed. What a library reads at its import would be missed.
        """
        channel = self._started()
        arguments = [str(script or "compress"), *map(str, args)]
        request = {"arguments": arguments, "cwd": str(Path(cwd).resolve()), "env": {**os.environ, **env}}
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            socket.send_fds(channel, [json.dumps(request).encode()], [out.fileno(), err.fileno()])
            pid = int(channel.recv(MESSAGE))
            channel.settimeout(timeout)
            try:
                code = int(channel.recv(MESSAGE))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                channel.settimeout(None)
                channel.recv(MESSAGE)
                raise subprocess.TimeoutExpired(arguments, timeout) from None
            channel.settimeout(None)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode().replace("\r\n", "\n"))
        return subprocess.CompletedProcess(arguments, code, *texts)

    def _started(self) -> socket.socket:
        if self._process is None:
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.helpers.warm", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
        return self._channel


@functools.cache
def warm_process() -> WarmProcess:
    """The one of this process, which ends with it."""
    return WarmProcess()


def next_command(channel: socket.socket) -> list[str] | None:
    """In each forked process the arguments of its command; None in this process, at the end."""
    while True:
        message, files, _, _ = socket.recv_fds(channel, MESSAGE, 2)
        if not message:
            return None
        request = json.loads(message)
        pid = os.fork()
        if pid == 0:
            for number, file in enumerate(files, start=1):
                os.dup2(file, number)
                os.close(file)
            channel.close()
            os.chdir(request["cwd"])
            os.environ.clear()
            os.environ.update(request["env"])
            return request["arguments"]
        for file in files:
            os.close(file)
        channel.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(BrokenPipeError):
            channel.send(str(os.waitstatus_to_exitcode(status)).encode())


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    for name in IMPORTED:
        importlib.import_module(name)
    torch, image = importlib.import_module("torch"), importlib.import_module("PIL.Image")
    torch.export.export(torch.nn.Identity(), (torch.zeros(1),))  # the first call imports hundreds of modules
    image.init()
    tasks = [path for path in Path("/proc/self/task").iterdir() if int(path.name) != os.getpid()]
    threads = {(path / "comm").read_text().strip() for path in tasks} - {ALLOCATORS}
    assert not threads, f"{threads}: threads of imported libraries would be missing in a forked process"
    gc.freeze()  # no collection then touches what the forked processes share
    arguments = next_command(channel)
    if arguments is not None:
        sys.argv = arguments
        if arguments[0] == "compress":
            runpy.run_module("compress", run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
