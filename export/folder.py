"""RUN/export: every path in it, and the records of what lies there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compress.runs.folder import Run
from compress.system.arguments import require_type
from compress.system.errors import InputError
from compress.system.files import sha256_file
from compress.system.paths import user_path
from export.records import ExportRecord, Precision

STUDENT = "student"


@dataclass(frozen=True)
class ExportFolder:
    """The export folder of a run. `name` is that of the model, "student" or "teacher", with which its files begin."""

    path: Path
    name: str = STUDENT

    def of(self, name: str) -> "ExportFolder":
        """The same folder, as that model's."""
        return ExportFolder(self.path, name)

    def file(self, name: str) -> Path:
        """A file by the name that the record has for it."""
        return self.path / name

    @property
    def record_file(self) -> Path:
        """export.json is the student's; another model's is named after it."""
        return self.path / ("export.json" if self.name == STUDENT else f"{self.name}.export.json")

    def record(self) -> ExportRecord:
        """Raises FileNotFoundError, and InputError where it is damaged."""
        return ExportRecord.read(self.record_file)

    @property
    def record_files(self) -> list[Path]:
        """Of every model that was exported here."""
        return sorted(self.path.glob("*export.json"))

    def onnx(self, precision: Precision = "fp32") -> Path:
        """What ONNX Runtime runs."""
        return self._file(precision, "onnx")

    def trt_onnx(self, precision: Precision) -> Path:
        """What TensorRT builds from. Its INT8 graph is one of its own; the others are those of ONNX Runtime."""
        return self._file(precision, "trt.onnx") if precision == "int8" else self.onnx(precision)

    @property
    def pixels(self) -> Path:
        """The ONNX file with preprocessing inside."""
        return self.path / f"{self.name}.pixels.onnx"

    def engine(self, precision: Precision) -> Path:
        """What TensorRT runs."""
        return self._file(precision, "engine")

    def openvino(self, precision: Precision) -> Path:
        """The IR that OpenVINO runs. Its weights lie beside it, with the ending .bin."""
        return self.path / "openvino" / self._file(precision, "xml").name

    def key(self, path: Path) -> str:
        """The name that the record has for a file."""
        return path.relative_to(self.path).as_posix()

    @property
    def models(self) -> Iterator[Path]:
        """The ONNX files, IRs and engines that lie here, recorded or not."""
        for suffix in ("onnx", "engine"):
            yield from self.path.glob(f"{self.name}.*{suffix}")
        yield from self.path.glob(f"openvino/{self.name}.*xml")

    @property
    def timing_cache(self) -> Path:
        """What TensorRT has timed already."""
        return self.path / "timing.cache"

    @property
    def bundle(self) -> Path:
        """All that a deployer needs, as a folder."""
        return self.path / "bundle"

    @property
    def bundle_zip(self) -> Path:
        """The same as one file."""
        return self.path / "bundle.zip"

    @property
    def new_bundle(self) -> Path:
        """Where a bundle is made before it replaces an earlier one."""
        return self.path / ".bundle.new"

    def _file(self, precision: Precision, ending: str) -> Path:
        return self.path / (f"{self.name}.{ending}" if precision == "fp32" else f"{self.name}.{precision}.{ending}")


def sidecar(engine: Path) -> Path:
    """ENGINE.json, the file beside every engine."""
    return engine.with_name(f"{engine.name}.json")


def ir_weights(name: str) -> str:
    """The name of the file beside an IR that has its weights: openvino/student.bin of openvino/student.xml."""
    return f"{name.removesuffix('.xml')}.bin"


def given_run(run: Run | str | Path) -> Run:
    """The run that a caller named by its folder, or handed over. Raises UsageError for anything else."""
    require_type(run, (Run, str, Path), "run", "Name the folder of a finished run.")
    return run if isinstance(run, Run) else Run(user_path(run))


def check_intact(path: Path, recorded: str) -> None:
    """Raises InputError where a file is not the one whose hash the record of its export has."""
    if not path.is_file() or sha256_file(path) != recorded:
        raise InputError(
            f"{path} is missing or was altered: its hash is not export.json's", "Run `compress export` again."
        )


def read_export(run: Run, name: str = STUDENT) -> ExportRecord:
    """What was exported of that model of the run.

    Raises:
        InputError: nothing was exported, the record is damaged, or the model has other weights now.
    """
    hint = f"Make it with `compress export {run.path}`."
    folder = ExportFolder(run.export, name)
    try:
        record = folder.record()
    except FileNotFoundError:
        raise InputError(f"{run.path} has no export", hint) from None
    except InputError as error:
        raise InputError(error.message, hint) from None
    made_of = record.provenance.get("weights_sha256")
    current = run.result.student_sha256 if name == STUDENT else run.result.teacher.sha256
    if made_of not in (None, current):
        raise InputError(f"the export of {run.path} is of other weights of the {name} than it has now", hint)
    if name == STUDENT and folder.onnx().name not in record.files:
        raise InputError(f"the export of {run.path} holds no {folder.onnx().name}", hint)
    return record
