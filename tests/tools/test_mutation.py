"""The mutation score: which mutants are drawn, which tests they meet, and what is counted."""

import time
from pathlib import Path
from typing import Any

import mutation_tests
import pytest
from mutation import Mutant, mutants_of, reaching, sampled, table
from mutation_tests import Watched, forked

SOURCE = '''\
"""A module."""

RATE = 0.5


def half(value: int | None, other: bool = True) -> float:
    """Half of it."""
    if value is None:
        raise ValueError("no value" + "!")
    return value * RATE
'''


def mutant(line: int, number: int = 0, file: str = "a.py") -> Mutant:
    return Mutant(file, "number", (line, line), (line, 4), number, lambda: "")


def test_each_place_is_drawn_once_and_a_seed_draws_the_same() -> None:
    every = [mutant(line, number) for line in range(50) for number in range(1 + line % 7)]
    one = sampled(every, 20, "0 losses")
    assert len({each.lines for each in one}) == len(one) == 20
    assert sampled(every[::-1], 20, "0 losses")[0].lines == one[0].lines
    assert [each.lines for each in sampled(every, 20, "1 losses")] != [each.lines for each in one]
    assert len(sampled(every, 999, "0")) == 50


def test_texts_types_and_docstrings_are_left_out() -> None:
    pytest.importorskip("mutmut", reason="the tool's own requirement")
    found = mutants_of("a.py", SOURCE)
    changed = [[new for new, old in zip(one.code().splitlines(), SOURCE.splitlines(), strict=True) if new != old]
               for one in found]  # fmt: skip
    assert {line for lines in changed for line in lines} >= {
        "RATE = None",
        "RATE = 1.5",
        "def half(value: int | None, other: bool = False) -> float:",
        "    if value is not None:",
        "    return value / RATE",
    }
    assert all(len(lines) == 1 for lines in changed)
    assert not {one.lines[0] for one in found} & {1, 7, 9}


KNOWN: dict[str, Any] = {
    "tests": {
        "t.py::direct[1]": {"passed": True, "seconds": 0.1, "fixtures": []},
        "t.py::direct[2]": {"passed": True, "seconds": 0.2, "fixtures": []},
        "t.py::slower": {"passed": True, "seconds": 3.0, "fixtures": []},
        "t.py::by_fixture": {"passed": True, "seconds": 1.0, "fixtures": ["run"]},
        "t.py::fails": {"passed": False, "seconds": 0.1, "fixtures": ["run"]},
    },
    "lines": {
        "t.py::direct[1]": [["a.py", 8]],
        "t.py::direct[2]": [["a.py", 8]],
        "t.py::slower": [["a.py", 10]],
        "t.py::fails": [["a.py", 8]],
        "fixture run": [["a.py", 8], ["b.py", 3]],
    },
}


@pytest.mark.parametrize(
    ("one", "budget", "names"),
    [
        (mutant(8), 99, ["direct[1]", "by_fixture", "direct[2]"]),  # the functions take turns
        (mutant(8), 0.5, ["direct[1]"]),
        (mutant(6), 99, ["direct[1]", "by_fixture", "slower", "direct[2]"]),  # a default: those of its function
        (mutant(3), 0.0, ["direct[1]"]),  # a constant: those of its module
        (mutant(3, file="c.py"), 99, []),
    ],
)
def test_a_mutant_meets_the_tests_that_reach_it_and_pass(one: Mutant, budget: float, names: list[str]) -> None:
    assert [name.removeprefix("t.py::") for name in reaching(one, SOURCE, KNOWN, budget)] == names


def test_the_score_has_wilsons_interval() -> None:
    states = ["caught"] * 8 + ["timeout", "survived"]
    last = table([{"file": "compress/losses/a.py", "status": state} for state in states]).splitlines()[-1]
    assert last == "| **compress/losses** | 10 | 9 | 1 | 0 | 90.0% (59.6% to 98.2%) |"  # Newcombe 1998, by hand


def test_a_forked_process_ends_with_its_code_and_within_its_time() -> None:
    assert forked(lambda: 3, 60) == 3
    assert forked(lambda: 1 // 0, 60) == 1
    assert forked(lambda: time.sleep(600) or 0, 0.2) is None


def test_tests_are_run_in_a_fork_and_their_lines_are_noted(tmp_path: Path) -> None:
    code, tests = tmp_path / "halved.py", tmp_path / "test_halved.py"
    code.write_text(SOURCE)
    tests.write_text(
        f"import sys\nimport pytest\nsys.path.insert(0, {str(tmp_path)!r})\nfrom halved import half\n\n"
        "@pytest.mark.parametrize('value', range(16))\ndef test_half(value):\n    assert half(value) == value / 2\n"
    )

    def noted() -> int:
        plugin = Watched(str(code))
        ended = mutation_tests.tests_under(plugin, [str(tests)], tmp_path / "log")
        (lines,) = set(map(frozenset, plugin.lines.values()))
        wanted = lines == {(str(code), line) for line in (6, 8, 10)} and len(plugin.tests) == mutation_tests.A_FUNCTION
        return 10 + ended if wanted else 1

    assert forked(noted, 60) == 10
    code.write_text(SOURCE.replace("* RATE", "/ RATE"))
    assert forked(lambda: mutation_tests.tests_under(Watched(None), [str(tests)], tmp_path / "log"), 60) == 1
