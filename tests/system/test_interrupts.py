"""Signals in a process of its own, sent by itself at the moments that a storm of them would have to meet by chance."""

import subprocess
import sys
import textwrap

import pytest

START = """
import os, signal, time, weakref
from compress.system.errors import Interrupted
from compress.system.interrupts import deferred, raise_on_signals

class Node: pass

def send(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(100): pass  # bytecode, so that the handler runs here

raise_on_signals()
"""
CASES = {
    "plain": """
send()
print("went on")
""",
    "again while it tidies up": """
try:
    send()
finally:
    send()
    print("tidied up")
""",
    "after the block that waited for the step": """
try:
    with deferred() as stop:
        send()
        print("step finished")
        stop.raise_if_set()
finally:
    send()
    print("tidied up")
""",
    "where a library put its own handler in place within another block": """
with deferred():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with deferred() as stop:
        send()
        print("step finished")
        stop.raise_if_set()
""",
    "in a weak reference's callback": """
node = Node()
reference = weakref.ref(node, send)
del node
print("its exception was dropped")
time.sleep(10)
""",
    "in a finalizer": """
Node.__del__ = send
Node()
print("its exception was dropped")
time.sleep(10)
""",
}
PRINTED = {
    "again while it tidies up": "tidied up\n",
    "after the block that waited for the step": "step finished\ntidied up\n",
    "where a library put its own handler in place within another block": "step finished\n",
    "in a weak reference's callback": "its exception was dropped\n",
    "in a finalizer": "its exception was dropped\n",
}


@pytest.mark.parametrize("case", CASES)
def test_one_signal_interrupts_once_and_is_never_lost(case: str) -> None:
    body = textwrap.indent(CASES[case], "    ")
    script = f'{START}try:{body}except Interrupted as stop:\n    print("interrupted", stop.code)\n'
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (PRINTED.get(case, "") + "interrupted 143\n", "")


def test_what_another_finalizer_raises_is_still_said() -> None:
    script = START + "Node.__del__ = lambda self: 1 / 0\nNode()\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "ZeroDivisionError" in done.stderr
