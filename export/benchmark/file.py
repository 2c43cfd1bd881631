"""benchmark.json: written with its hash, read, and described to other programs by its schema."""

import json
from typing import Any

from pydantic import ValidationError

from compress.runs.folder import Run
from compress.system import files
from compress.system.errors import InputError
from compress.system.hashes import sha256_json
from export.benchmark.results import Benchmark


def write_benchmark(run: Run, benchmark: Benchmark) -> Benchmark:
    """Writes RUN/benchmark.json and returns it with its hash."""
    content = benchmark.model_dump(mode="json")
    content["sha256"] = _digest(content)
    files.write_json(run.benchmark_file, content)
    return benchmark.model_copy(update={"sha256": content["sha256"]})


def read_benchmark(run: Run) -> Benchmark:
    """What was measured of a run.

    Raises:
        InputError: there is no benchmark.json, or it is truncated, altered or of another version.
    """
    path, hint = run.benchmark_file, f"Make it again with `compress benchmark {run.path}`."
    try:
        raw = path.read_bytes()
        benchmark = Benchmark.model_validate_json(raw)
        if benchmark.sha256 != _digest(json.loads(raw)):
            raise InputError(f"{path} was altered: its hash differs", hint)
        return benchmark
    except FileNotFoundError:
        raise InputError(f"{run.path} has no {path.name}", f"Make it with `compress benchmark {run.path}`.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        what = f"{where + ': ' if where else ''}{first['msg']}"
        raise InputError(f"{path} is damaged or of another version ({what})", hint) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None


def _digest(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return sha256_json(rest)


def benchmark_schema() -> dict[str, Any]:
    """The JSON schema of benchmark.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Benchmark.model_json_schema()}
