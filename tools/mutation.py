"""How many small changes of the code do its tests notice? A mutation score, by package, on a sample.

In: packages of compress. Out: mutants.jsonl with a line for each mutant, and a Markdown table with Wilson intervals.
The changes are those of mutmut. They are drawn by place and kind, so that a place counts as often as it has kinds.
Left out are texts for people (what is raised or logged), annotations, decorators, imports and assertions.

A copy of the checkout is changed, and a process that has imported torch and timm is forked for each mutant. It runs the
quick tests that reach the changed lines, up to so many seconds of them, and stops at the first that fails. What they
let pass is given to pyright, as in `make check`. What was run is kept in mutants.jsonl, so the same command goes on
where it was ended.

    pip install --target FOLDER --no-deps mutmut libcst
    PYTHONPATH=FOLDER python tools/mutation.py losses training runs --sample 100 --seed 0 --out FOLDER
    PYTHONPATH=FOLDER python tools/mutation.py losses training runs --sample 100 --seed 0 --out FOLDER --again
"""

import argparse
import ast
import difflib
import gc
import importlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutation_tests import Watched, forked, tests_under
from scipy.stats import binomtest

ROOT = Path(__file__).parents[1]
TESTS = ("tests/losses", "tests/training", "tests/runs", "tests/cli", "tests/sweeps", "tests/faults/test_models.py")
QUICK = "not faults and not gpu and not realdata and not slow"
IMPORTED = (
    *("torch", "torchvision", "timm", "torch.onnx", "onnx", "onnxscript", "scipy.stats", "sklearn.datasets"),
    *("sklearn.metrics", "matplotlib.pyplot", "jinja2", "rich.progress", "hypothesis", "pydantic", "yaml", "filelock"),
)
PYRIGHT = (str(Path(sys.executable).with_name("pyright")), "--pythonpath", sys.executable)
CAUGHT = ("caught", "timeout", "typed")
OF_PEOPLE = {"Raise", "Assert", "Annotation", "Decorator", "Import", "ImportFrom"}
OF_TYPES = {"TypeVar", "ParamSpec", "getLogger", "TypeAdapter", "ConfigDict"}


@dataclass(frozen=True)
class Mutant:
    """One change. `file` is relative to the checkout. `lines` are those of the changed code, first and last."""

    file: str
    kind: str
    lines: tuple[int, int]
    place: tuple[int, int]
    number: int
    code: Callable[[], str]


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All changes that mutmut knows of a module, but for those that are left out."""
    import libcst
    from libcst.metadata import MetadataWrapper, PositionProvider
    from mutmut.mutation.mutators import mutation_operators  # type: ignore[import-not-found]

    wrapper = MetadataWrapper(libcst.parse_module(source))
    positions, module = wrapper.resolve(PositionProvider), wrapper.module
    found: list[Mutant] = []

    def called(node: Any) -> str:
        function = getattr(node, "func", None)
        name = getattr(getattr(function, "attr", function), "value", "") if isinstance(node, libcst.Call) else ""
        return name if isinstance(name, str) else ""

    def left_out(node: Any) -> bool:
        name = called(node)
        text = isinstance(node, libcst.Expr) and isinstance(node.value, libcst.SimpleString | libcst.ConcatenatedString)
        logged = isinstance(getattr(node, "func", None), libcst.Attribute) and name in ("info", "warning", "debug")
        typed = isinstance(node, libcst.Assign) and (
            called(node.value) in OF_TYPES or isinstance(node.value, libcst.Subscript)
            or getattr(node.targets[0].target, "value", "") == "__all__"
        )  # fmt: skip
        return type(node).__name__ in OF_PEOPLE or text or logged or typed or name.endswith("Error")

    def visit(node: Any) -> None:
        if left_out(node):
            return
        for of, operator in mutation_operators:
            if not isinstance(node, of):
                continue
            for number, changed in enumerate(operator(node)):
                where = positions.get(node)
                if where is None:
                    continue
                lines, place = (where.start.line, where.end.line), (where.start.line, where.start.column)
                code = lambda node=node, changed=changed: module.deep_replace(node, changed).code  # noqa: E731
                found.append(Mutant(file, operator.__name__.removeprefix("operator_"), lines, place, number, code))
        for child in node.children:
            visit(child)

    visit(module)
    return found


def sampled(mutants: list[Mutant], count: int, seed: str) -> list[Mutant]:
    """One mutant each of `count` places and kinds, drawn at random; all of them where there are fewer."""
    draw = random.Random(seed)
    places: dict[Any, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        places[mutant.file, mutant.place, mutant.kind].append(mutant)
    chosen = draw.sample(sorted(places), min(count, len(places)))
    return [draw.choice(places[place]) for place in chosen]


def map_of_tests(copy: Path, work: Path, tests: list[str], marks: str) -> dict[str, Any]:
    """Which quick test reaches which lines, and how long it takes; kept in the work folder."""
    place = work / "tests.json"

    def measure() -> int:
        plugin = Watched(str(copy / "compress"))
        tests_under(plugin, ["-m", marks, *tests], work / "tests.log")
        sys.settrace(None)
        start = len(str(copy)) + 1
        lines = {name: sorted((file[start:], line) for file, line in found) for name, found in plugin.lines.items()}
        place.write_text(json.dumps({"tests": plugin.tests, "lines": lines}))
        return 0

    if not place.exists():
        forked(measure, 3600)
    return json.loads(place.read_text())


def reaching(mutant: Mutant, source: str, known: dict[str, Any], budget_s: float) -> list[str]:
    """The quick tests that reach a change and pass without it, those of all functions in turns, up to so many seconds.

    What is computed at import belongs to the tests of the function around it, else to those of the module.
    """
    around = [
        (node.lineno, node.end_lineno)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.lineno <= mutant.lines[0] <= (node.end_lineno or 0)
    ]
    good = {name: test for name, test in known["tests"].items() if test.get("passed")}
    names: set[str] = set()
    for first, last in (mutant.lines, *around[::-1], (1, sys.maxsize)):
        for name, lines in known["lines"].items():
            if any(file == mutant.file and first <= line <= last for file, line in lines):
                fixture = name.removeprefix("fixture ")
                names |= {name} & good.keys() or {one for one, test in good.items() if fixture in test["fixtures"]}
        if names:
            break
    functions: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names, key=lambda name: good[name]["seconds"]):
        functions[name.split("[")[0]].append(name)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*functions.values()))
    chosen, spent = [], 0.0
    for name in filter(None, turns):
        spent += good[name]["seconds"]
        if chosen and spent > budget_s:
            break
        chosen.append(name)
    return chosen


def outcome(mutant: Mutant, copy: Path, known: dict[str, Any], work: Path, budget_s: float) -> dict[str, Any]:
    """What the tests say of one mutant, as a line of mutants.jsonl."""
    path, source = copy / mutant.file, (ROOT / mutant.file).read_text()
    tests, code = reaching(mutant, source, known, budget_s), mutant.code()
    changed = difflib.unified_diff(source.splitlines(), code.splitlines(), lineterm="", n=0)
    diff = [line for line in changed if not line.startswith(("---", "+++", "@@"))]
    began, status = time.monotonic(), "unreached"
    if tests:
        path.write_text(code)
        limit = 60 + 4 * sum(known["tests"][name]["seconds"] for name in tests)
        ended = forked(lambda: tests_under(Watched(None), ["-x", *tests], work / "mutant.log"), limit)
        status = {0: "survived", None: "timeout"}.get(ended, "caught")
        if status == "survived" and subprocess.run([*PYRIGHT, mutant.file], cwd=copy, capture_output=True).returncode:
            status = "typed"
        path.write_text(source)
    seconds = round(time.monotonic() - began, 1)
    own = {"file": mutant.file, "line": mutant.lines[0], "kind": mutant.kind, "number": mutant.number, "diff": diff}
    return {**own, "place": mutant.place, "status": status, "tests": len(tests), "seconds": seconds}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row for each module, and one for each package with the Wilson interval of its score."""
    lines = ["| | mutants | caught | survived | not reached | score (95 %) |", "|---|---:|---:|---:|---:|---|"]
    modules: dict[str, list[str]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["file"]):
        modules[row["file"]].append(row["status"])
    for package in sorted({str(Path(file).parent) for file in modules}):
        own = {file: states for file, states in modules.items() if str(Path(file).parent) == package}
        for name, states in [*own.items(), (f"**{package}**", [*itertools.chain(*own.values())])]:
            caught = sum(state in CAUGHT for state in states)
            low, high = binomtest(caught, len(states)).proportion_ci(method="wilson")
            score = f"{caught / len(states):.1%} ({low:.1%} to {high:.1%})" if name.startswith("**") else ""
            counts = [len(states), caught, states.count("survived"), states.count("unreached")]
            lines.append(f"| {name} | {' | '.join(map(str, counts))} | {score} |")
    return "\n".join(lines)


def checked_out(copy: Path) -> None:
    """Makes the copy of the checkout that is changed, and lets this process and what it starts import from there."""
    shutil.rmtree(copy, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    sys.path[:] = [str(copy), *(path for path in sys.path if Path(path).resolve() not in (ROOT, ROOT / "tools"))]
    others = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    paths = [str(copy), *(path for path in others if Path(path).resolve() != ROOT)]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    os.chdir(copy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+")
    parser.add_argument("--sample", type=int, default=100, help="mutants of each package")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--out", type=Path, required=True, help="holds mutants.jsonl; what is there is not run again")
    parser.add_argument("--again", action="store_true", help="run those that were not caught once more, with new tests")
    parser.add_argument("--budget-s", type=float, default=15.0, help="seconds of tests for a mutant")
    parser.add_argument("--tests", nargs="*", default=TESTS, help="files and folders")
    parser.add_argument("--slow", action="store_true", help="also run tests that are marked slow")
    given = parser.parse_args()
    work = given.out.resolve()
    copy, results = work / "checkout", work / "mutants.jsonl"
    checked_out(copy)
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    if given.again:
        rows = [row for row in rows if row["status"] in CAUGHT]
        (work / "tests.json").unlink(missing_ok=True)
        results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = map_of_tests(copy, work, given.tests, QUICK.removesuffix(" and not slow") if given.slow else QUICK)
    for package in given.packages:
        files = sorted((ROOT / "compress" / package).glob("*.py"))
        names = [str(path.relative_to(ROOT)) for path in files]
        every = [mutant for name in names for mutant in mutants_of(name, (ROOT / name).read_text())]
        for mutant in sampled(every, given.sample, f"{given.seed} {package}"):
            key = [mutant.file, mutant.kind, mutant.number, *mutant.place]
            if any([row["file"], row["kind"], row["number"], *row["place"]] == key for row in rows):
                continue
            rows.append(outcome(mutant, copy, known, work, given.budget_s))
            with results.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(f"{rows[-1]['status']} {mutant.file}:{mutant.lines[0]} {rows[-1]['seconds']} s", file=sys.stderr)
    print(table(rows))


if __name__ == "__main__":
    main()
