"""Two machines on this one: network namespaces that a cable joins, each with its own files under the same paths."""

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class Machine:
    """A network namespace.

    Attributes:
        name: of the namespace.
        address: on the cable.
        interface: of the cable.
        own: folders that only this machine sees, by the path under which it sees them.
    """

    name: str
    address: str
    interface: str
    own: Mapping[Path, Path]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *command: object, cwd: Path, **env: str) -> subprocess.Popen[str]:
        """Starts a command on the machine. What still runs when the test ends is killed."""
        mounts = [f"mount --bind {shlex.quote(str(own))} {shlex.quote(str(at))}" for at, own in self.own.items()]
        line = " && ".join([*mounts, f"exec {shlex.join(map(str, command))}"])
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, "sh", "-c", line],
            cwd=cwd,
            env={**os.environ, "GLOO_SOCKET_IFNAME": self.interface, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@contextmanager
def two_machines(own: Path, shared: Path) -> Iterator[list[Machine]]:
    """Two machines that see all files of this one, but under `shared` each a folder of its own below `own`.

    Skips the test where no namespaces can be made: that needs Linux, root and iproute2.
    """
    names = [f"compress{os.getpid()}-{number}" for number in (1, 2)]
    machines = [
        Machine(name, f"10.77.0.{number}", f"cable{number}", {shared: own / str(number)})
        for number, name in enumerate(names, start=1)
    ]
    try:
        for machine in machines:
            _ip("netns", "add", machine.name)
        ends = [word for machine in machines for word in ("name", machine.interface, "netns", machine.name, "peer")]
        _ip("link", "add", *ends[:4], "type", "veth", *ends[4:5], *ends[5:9])
        for machine in machines:
            _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", machine.interface)
            for interface in ("lo", machine.interface):
                _ip("-n", machine.name, "link", "set", interface, "up")
        yield machines
    finally:
        for machine in machines:
            machine.close()
            subprocess.run(["ip", "netns", "delete", machine.name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    if shutil.which("ip") is None:
        pytest.skip("needs Linux with iproute2")
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot make network namespaces: {done.stderr.strip()}")
