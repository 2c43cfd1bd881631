"""What stands for the content of picture files.

In: paths. Out: a digest of each file: of its size and of its bytes, or of blocks of them. No time of change is part of
it, and nothing that a decoder made of it, so that a copy of the files on another machine has the same digests.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from compress.data.bad_images import raise_if_of_the_machine
from compress.system import console, platform
from compress.system.errors import InputError

WHOLE_BYTES = 65_536
"""Files of up to so many bytes are read whole."""
BLOCK_BYTES = 16_384
"""What is read of others at the start, in the middle and at the end."""
_DIGEST_BYTES = 16
_THREADS = 8  # each waits for the disk most of the time
_PART = 256
_DO = "Replace or remove it, or leave such files out with data.on_bad_image: skip."


def content_digests(paths: Sequence[str], *, whole: bool = False) -> NDArray[np.uint8]:
    """A digest of each file, uint8 [N, 16].

    Args:
        whole: whether all bytes of large files count, too.

    Raises:
        InputError: a file is missing, such as a link to nowhere, or cannot be opened.
    """
    digests = np.zeros((len(paths), _DIGEST_BYTES), dtype=np.uint8)
    starts = range(0, len(paths), _PART)

    def read(start: int) -> None:
        part = [_digest(path, whole) for path in paths[start : start + _PART]]
        digests[start : start + _PART] = np.frombuffer(b"".join(part), dtype=np.uint8).reshape(-1, _DIGEST_BYTES)

    workers = max(_THREADS, platform.usable_cpus())
    with console.progress_bar("reading files", len(paths)) as bar, ThreadPoolExecutor(workers) as threads:
        try:
            for start, _ in zip(starts, threads.map(read, starts), strict=True):
                bar.show(start)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return digests


def _digest(path: str, whole: bool) -> bytes:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(str(size).encode(), digest_size=_DIGEST_BYTES)
            if whole or size <= WHOLE_BYTES:
                digest.update(file.read())
            else:
                for start in (0, (size - BLOCK_BYTES) // 2, size - BLOCK_BYTES):
                    file.seek(start)
                    digest.update(file.read(BLOCK_BYTES))
            return digest.digest()
    except FileNotFoundError:
        raise InputError(f"no image at {path}", _DO) from None
    except OSError as error:
        raise_if_of_the_machine(error, path)
        raise InputError(f"image {path} cannot be opened ({error.strerror})", _DO) from None
