"""Which model of a bundle is the default one: the fastest that passes its gates.

In: the files of an export, and what `compress benchmark` measured of them. Out: a file, with its runtime and accuracy.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.runs.folder import Run
from compress.system.errors import InputError
from export.benchmark import AccuracyResult, Benchmark, CandidateResult, read_benchmark
from export.benchmark.bundled import may_be_default
from export.delivery.bundle import Recommended
from export.folder import ExportFolder
from export.records import PRECISIONS, BundledModel, FileRecord

logger = logging.getLogger(__name__)


def measured_default(run: Run, folder: ExportFolder) -> Recommended | None:
    """The fastest that passes, as the benchmark of these very files measured it. None where there was none."""
    if not run.benchmark_file.exists():
        return None
    try:
        measured = read_benchmark(run)
    except InputError as error:
        logger.warning(f"the bundle does not follow the benchmark: {error}")
        return None
    files = folder.record().files
    hashes = {entry.sha256 for entry in measured.candidates}
    if newer := [name for name in _bundled(folder, files) if files[name].sha256 not in hashes]:
        logger.warning(f"the bundle does not follow the benchmark, which has not measured {', '.join(newer)}")
        return None
    passed = [entry for entry in measured.candidates if may_be_default(entry, measured, files)]
    if not passed:
        return None
    best = min(passed, key=lambda entry: _rank(entry, measured, files))
    path = folder.file(best.file)
    return Recommended(
        name=best.name.removeprefix("openvino/"),
        path=path,
        about=BundledModel(
            precision=best.precision,
            runtime="openvino" if best.runtime == "openvino" else "ort",
            file=path.name,
            options=best.options,
        ),
        cpu=measured.machine.cpu,
        cpu_flags=measured.machine.cpu_flags,
        top1=best.accuracy.top1.value if isinstance(best.accuracy, AccuracyResult) else None,
    )


def unmeasured_default(paths: Sequence[Path], files: Mapping[Path, FileRecord]) -> Path:
    """The first of `paths` that passed its gate; where none did, the first FP32 file.

    Args:
        paths: of ONNX files and IRs, the one that should be chosen first.
        files: the record of each.
    """
    passed = [path for path in paths if files[path].outcome in (None, "PASS")]
    plain = [path for path in paths if len(path.suffixes) == 1]
    return (passed or plain or paths)[0]


def _bundled(folder: ExportFolder, files: Mapping[str, FileRecord]) -> list[str]:
    """The files that passed and could be the default."""
    paths = [path_in(precision) for precision in PRECISIONS for path_in in (folder.onnx, folder.openvino)]
    names = [folder.key(path) for path in paths]
    return [name for name in names if name in files and files[name].outcome in (None, "PASS")]


def _rank(
    entry: CandidateResult, measured: Benchmark, files: Mapping[str, FileRecord]
) -> tuple[bool, float, bool, int, str]:
    """As the verdict ranks: what passes its limits, then the fastest, then the smallest no slower than FP32."""
    timed = measured.primary_latency(entry.name)
    speed = timed.p50_ms.value if timed else float("inf")
    slower = entry.name == entry.file and files[entry.file].is_slower
    return measured.verdict.by_file[entry.name] != "PASS", speed, slower, entry.size_bytes, entry.name
