"""The allocator: large tensors that come and go cost no new pages."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from compress.system.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def steps():
    for _ in range(20):
        torch.ones(48 << 18)  # 48 MB
steps()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", STEPS, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_tensors_get_the_same_pages_again() -> None:
    assert page_faults("keep") < 1000 < 100_000 < page_faults("as it is")
