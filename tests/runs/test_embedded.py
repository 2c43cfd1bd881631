"""`distill` inside the programs of others: threads, event loops, notebooks. The student is that of a plain call."""

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compress import distill, load_recipe

Call = Callable[[str], str]


@pytest.fixture
def call(here: Path, tiny_recipe: Path) -> Call:
    """Makes a run and returns the hash of its student."""
    recipe = load_recipe(tiny_recipe, method="kd", overrides=["train.epochs=1", "teacher.epochs=1"])
    return lambda name: distill(recipe, out=name).result.student_sha256


def in_a_thread(call: Call) -> list[str]:
    with ThreadPoolExecutor(1) as pool:
        return [pool.submit(call, "thread").result()]


def in_an_event_loop(call: Call) -> list[str]:
    async def main() -> list[str]:
        return [call("loop")]

    return asyncio.run(main())


class Notebook(io.StringIO):
    """As ipykernel's stream it has no file."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def with_the_stream(stream: object) -> Callable[[Call], list[str]]:
    def run(call: Call) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stderr", stream)
            return [call("stream")]

    return run


@pytest.mark.parametrize("around", [in_a_thread, in_an_event_loop, with_the_stream(Notebook()), with_the_stream(None)])
def test_the_student_is_that_of_a_plain_call(call: Call, around: Callable[[Call], list[str]]) -> None:
    plain = call("plain")
    assert set(around(call)) == {plain}


def test_two_threads_at_once_make_a_run_each(call: Call) -> None:
    """They draw from torch's one random stream, so neither is bit-identical to a run alone."""
    with ThreadPoolExecutor(2) as pool:
        assert all(len(sha256) == 64 for sha256 in pool.map(call, ("one", "two")))
