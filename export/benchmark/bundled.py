"""Whether the bundle of a run has what its benchmark recommends as its default model.

In: a run with its benchmark.json. Out: a line for each bundle that has not, with the command that makes it anew.
"""

import json
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.runs.folder import Run
from compress.system.errors import InputError
from export.benchmark.identity import is_recorded
from export.benchmark.results import Benchmark, CandidateResult
from export.folder import ExportFolder
from export.records import FORMATS, PRECISIONS, BundleManifest, FileRecord

_MANIFEST = "manifest.json"


def other_defaults(run: Run, benchmark: Benchmark) -> list[str]:
    """Sentences for people. None where there is no bundle, and none where no bundle would follow the verdict.

    Args:
        run: the run that was measured.
        benchmark: of it.
    """
    verdict, folder = benchmark.verdict, ExportFolder(run.export)
    if verdict.recommended is None or verdict.outcome == "FAIL":
        return []
    best = benchmark.candidate(verdict.recommended)
    if best.runtime not in ("ort", "openvino"):
        return []
    files, found = _recorded(folder), []
    if is_recorded(best, files) and not may_be_default(best, benchmark, files):
        return []
    for path in (folder.bundle, folder.bundle_zip):
        manifest = _manifest(path)
        if manifest is None or _is_default(best, manifest):
            continue
        found.append(
            f"The default model of {path} is {manifest.default_model}, and the benchmark recommends {best.name}"
            f"{_how(run, best, files, _command(run, folder, best, zipped=path == folder.bundle_zip))}"
        )
    return found


def may_be_default(entry: CandidateResult, measured: Benchmark, files: Mapping[str, FileRecord]) -> bool:
    """Whether it can be bundled as it was measured, passes its gate, and misses no limit of the verdict.

    Args:
        entry: a candidate of `measured`.
        files: of the export as it is now, whose record may be newer.
    """
    if not is_recorded(entry, files) or entry.runtime not in ("ort", "openvino"):
        return False
    if not entry.deployable or measured.verdict.by_file.get(entry.name, "FAIL") == "FAIL":
        return False
    record, execution = files[entry.file], entry.name.rpartition(":")[2]
    if entry.name == entry.file:  # an earlier benchmark says no gate
        return record.outcome in (None, "PASS") and entry.gate in (None, "PASS")
    return entry.gate == "PASS" and execution not in record.open_gates


def _manifest(bundle: Path) -> BundleManifest | None:
    """None where there is no bundle, or one that cannot be read: `compress verify` says of that."""
    try:
        if bundle.is_dir():
            return BundleManifest.read(bundle / _MANIFEST)
        with zipfile.ZipFile(bundle) as archive:
            return BundleManifest.model_validate_json(archive.read(_MANIFEST))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, InputError):
        return None


def _is_default(best: CandidateResult, manifest: BundleManifest) -> bool:
    """Whether the default model is the recommended one, by its name and by its files."""
    name = manifest.default_model
    if name != best.name.removeprefix("openvino/") or name not in manifest.models:
        return False
    below = best.file.removesuffix(Path(best.file).name)
    files = {f"{below}{Path(path).name}": FileRecord(sha256=hash_, bytes=0) for path, hash_ in manifest.files.items()}
    return is_recorded(best, files)


def _how(run: Run, best: CandidateResult, files: Mapping[str, FileRecord], command: str) -> str:
    """The end of the sentence, and what to do. A file that was made anew has to be measured first."""
    if is_recorded(best, files):
        return f". Make it anew with `{command}`."
    if best.file in files:
        measure = f"compress benchmark {shlex.quote(str(run.path))}"
        return f", which was made anew since. Measure it with `{measure}`, then make the bundle anew with `{command}`."
    return f", which the export no longer has. Make both anew with `{command}`."


def _recorded(folder: ExportFolder) -> Mapping[str, FileRecord]:
    try:
        return folder.record().files
    except (OSError, InputError):
        return {}


def _command(run: Run, folder: ExportFolder, best: CandidateResult, *, zipped: bool) -> str:
    """With formats, precisions and settings of all that was exported, and of what is recommended: the rest would go."""
    try:
        record = folder.record()
        formats, precisions, names = record.formats, record.precisions, list(record.files)
        settings = _changed(record.settings, run.recipe.export.model_dump(mode="json")) if record.settings else []
    except (OSError, InputError):
        formats, precisions, names, settings = [], [], [], []
    names.append(best.file)
    wanted = {*formats, "onnx", *(["openvino"] if any(name.endswith(".xml") for name in names) else [])}
    of_names = {each for each in PRECISIONS if any(f".{each}." in name for name in names)}
    made = {"fp32", *precisions, *of_names}
    options = [f"--format {each}" for each in FORMATS if each in wanted]
    options += [f"--precision {each}" for each in ("fp32", "fp16", "bf16", "int8") if each in made]
    options = [] if options == ["--format onnx", "--precision fp32"] else options
    options += [f"--set {shlex.quote(setting)}" for setting in settings]
    return " ".join(["compress export", shlex.quote(str(run.path)), *options, "--zip" if zipped else "--bundle"])


def _changed(settings: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """The settings of an export that are not the recipe's, as for --set. The options say formats and precisions."""
    return [
        f"export.{key}={json.dumps(value)}"
        for key, value in settings.items()
        if key not in ("formats", "precisions") and value != recipe.get(key)
    ]
