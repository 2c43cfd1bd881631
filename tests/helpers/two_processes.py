"""Work that runs in a real group of two processes, and by itself for comparison."""

import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from compress.distributed.world import joined

Work = Callable[[Path], Any]


def in_two_processes(work: Work, folder: Path, device: str = "cpu") -> list[Any]:
    """What `work` returns in each process, by rank; it is given a folder that both share."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (work, folder, port, device), nprocs=2)  # type: ignore[attr-defined]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _process(rank: int, work: Work, folder: Path, port: int, device: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for category in (DeprecationWarning, FutureWarning):  # pytest's own filters do not reach this process
        warnings.filterwarnings("error", category=category, module=r"(compress|export|tests)\.")
    with joined(torch.device(device)):
        torch.save(work(folder), folder / f"{rank}.pt")
