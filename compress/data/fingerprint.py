"""Tells whether the files of a data set are those that were read before, without reading them.

In: a Source, or the files that hold all pictures. Out: a hash. It looks at no other file, so that what lies beside the
data does not matter.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from compress.data.source import Source


def of_files(paths: Iterable[str], folder: Path) -> str:
    """Hash of each file's path below the folder, size, inode, and times of change.

    A program can set the time of change of the content (mtime) to what it was. It cannot set that of the inode (ctime).
    A missing file counts as such.
    """
    digest, start = hashlib.sha256(), f"{folder}/"
    for path in paths:
        try:
            status = os.stat(path)
            facts = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        except OSError:
            facts = "missing"
        digest.update(f"{path.removeprefix(start)}\0{facts}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def of_source(source: Source, folder: Path) -> str:
    """Hash of class names, labels and files. Its images must be paths."""
    digest = hashlib.sha256("\n".join([*source.class_names, source.evaluation_name]).encode())
    for split in (source.train, source.evaluation):
        if split is not None:
            assert isinstance(split.images, list)
            digest.update(np.asarray(split.labels, dtype=np.int64).tobytes())
            digest.update(of_files(split.images, folder).encode())
    return digest.hexdigest()
