"""What the JSON files of RUN/export hold. Everybody reads and writes these files through the models here.

Accuracies, drops and agreements are fractions. An older file may lack what has a default; what a newer one has
besides is kept.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from compress.data.preprocessing import Fit
from compress.recipe.deploy import Format, RunPrecision
from compress.runs.records import Record

Precision = Literal["fp32", "fp16", "int8"]
"""Of a file."""
FORMATS: tuple[Format, ...] = ("onnx", "trt", "openvino")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


Outcome = Literal["PASS", "FAIL", "UNDECIDED"]
"""Of a limit. UNDECIDED: the interval of what was measured holds the limit, so there are too few images to tell."""


class DropRecord(Record):
    """What a candidate loses of top-1 against a reference on the same `n` images, with its 95 % interval."""

    reference_top1: float
    candidate_top1: float
    drop: float
    low: float
    high: float
    n: int
    lost: int | None = None
    """Images that only the reference got right."""
    won: int | None = None
    """Images that only the candidate got right."""


class FusionRecord(Record):
    """How many convolutions ONNX Runtime runs in INT8 and in float, counted in its optimised graph."""

    int8_convs: int
    float_convs: int


class ExecutionRecord(Record):
    """An IR that OpenVINO computes in another precision than the file's, against the FP32 file."""

    agreement: float
    drop: DropRecord
    outcome: Outcome | None = None
    """PASS or UNDECIDED, where the export was asked for that precision."""
    images_to_decide: int | None = None


def undecided(drop: DropRecord, agreement: float, images_to_decide: int | None) -> str:
    """What an UNDECIDED outcome rests on, in words."""
    needed = "no number of" if images_to_decide is None else f"about {images_to_decide:,}"
    return (
        f"it loses {100 * drop.drop:.2f} points of top-1 (95 % interval {100 * drop.low:.2f} to {100 * drop.high:.2f}) "
        f"and agrees with FP32 on {agreement:.2%} of {drop.n:,} images; {needed} images would decide"
    )


class FileRecord(Record):
    """A file that passed its gates, and what they measured. An engine's has what its sidecar says, too."""

    sha256: str
    bytes: int
    logit_diff_by_batch: dict[int, float] | None = None
    """From torch's in float64, as a share of the largest logit."""
    torch_float32_error: float | None = None
    """What torch's own float32 differs by on the same images."""
    agreement: float | None = None
    """The share of images that get the class that the FP32 file gives them; for that file, the class of torch."""
    top1: float | None = None
    probability_diff: float | None = None
    outcome: Outcome | None = None
    """PASS or UNDECIDED, by the limits of the recipe. A file that fails has no record."""
    images_to_decide: int | None = None
    """How many images would tell, where it is UNDECIDED and the rates stay."""
    drop: DropRecord | None = None
    drop_all_int8: DropRecord | None = None
    """The drop of the file in which every layer of its layout is INT8, before any repair."""
    layout: str | None = None
    """Which layers the file has in 8 bits, before any went back to float: of those that passed here the
    fastest, else the best outcome."""
    repairs: list[str] | None = None
    """What was done to an INT8 file to lose less, in order."""
    float_layers: list[str] | None = None
    """The layers that an INT8 file could have in INT8 in its layout, and has not; the operators of an FP16 file that
    stay in FP32."""
    largest_value: float | None = None
    """The largest magnitude of a tensor, on the calibration images. FP16 ends at 65,504."""
    int8_macs: float | None = None
    fusion_coverage: FusionRecord | None = None
    speedup_over_fp32: float | None = None
    tensorrt_lint: list[str] | None = None
    made_of: str | None = None
    """The ONNX file that an IR holds."""
    executions: dict[str, ExecutionRecord] | None = None
    """Of an IR that is computed in bf16 or f16, by OpenVINO's name of it."""
    checked_on_gpu: bool | None = None
    to_compare: bool | None = None
    """Whether `compress benchmark` made it, to compare with: no limit of the recipe stopped it."""

    @property
    def is_slower(self) -> bool:
        """Whether the export timed it and found it slower than FP32."""
        return self.speedup_over_fp32 is not None and self.speedup_over_fp32 < 1

    @property
    def open_gates(self) -> dict[str, str]:
        """Where it is UNDECIDED: what was measured, and how many images would tell, by the name of an execution.

        The name is empty for the file as it is.
        """
        found = {}
        if self.outcome == "UNDECIDED" and self.drop is not None and self.agreement is not None:
            found[""] = undecided(self.drop, self.agreement, self.images_to_decide)
        for name, entry in (self.executions or {}).items():
            if entry.outcome == "UNDECIDED":
                found[name] = undecided(entry.drop, entry.agreement, entry.images_to_decide)
        return found

    @property
    def undecided(self) -> str:
        """All of `open_gates` in words; empty where there is none."""
        return "; ".join(f"UNDECIDED{name and f' in {name}'}: {said}" for name, said in self.open_gates.items())


class CalibrationRecord(Record):
    """The training images that the INT8 ranges were measured on."""

    split: str
    method: str
    images: int
    indices_sha256: str
    indices: list[int] = Field(default=[])
    reduced_range: bool = False
    """Whether the weights have 7 bits, for CPUs that saturate."""


class ExportRecord(Record):
    """export.json: what was exported, from what, and what every gate measured."""

    schema_version: Literal[1] = 1
    name: str = "student"
    provenance: dict[str, str] = Field(default={})
    formats: list[str] = Field(default=[])
    """What the last export was asked for. `files` has what is there, of earlier ones too."""
    precisions: list[str] = Field(default=[])
    """The same."""
    settings: dict[str, Any] = Field(default={})
    """The recipe's export section."""
    data_sha256: str = ""
    eval_images: int = 0
    int8_input_ranges: dict[str, list[float]] | None = None
    """[lowest, highest] input by layer, of a model that was fine-tuned for INT8."""
    versions: dict[str, str] = Field(default={})
    files: dict[str, FileRecord]
    """By file name."""
    calibration: CalibrationRecord | None = None
    layer_sensitivity: dict[str, float] | None = None
    """Harm of each layer in nats, worst first; only where it was measured."""
    layer_sensitivity_trt: dict[str, float] | None = None
    """The same in the graph for TensorRT."""
    failed: str | None = None
    """The first reason for which the export does not hold all that was wanted."""
    failures: dict[str, str] = Field(default={})
    """Why a file is not there, by its name, or why it may not be computed in bf16, by NAME:bf16. Others stand alone."""

    def dump(self) -> dict[str, Any]:
        """As JSON, without what is not known. int8_input_ranges is null where training settled none."""
        known = super().dump()
        names = (*type(self).model_fields, *known)
        return {name: known.get(name) for name in names if name in known or name == "int8_input_ranges"}


class EngineRecord(Record):
    """ENGINE.json, beside every engine. `batches`: smallest, best, largest. `layers`: weighted ones by precision."""

    library: str
    version: str
    precision: str
    layers: dict[str, int]
    batches: tuple[int, int, int]
    compute_capabilities: tuple[str, ...]
    version_compatible: bool
    hardware_compatible: bool
    onnx_sha256: str
    engine_sha256: str
    engine_bytes: int
    build_seconds: float
    tf32: bool | None = None
    """Whether FP32 layers may round to TF32, as is TensorRT's default."""
    gpu: str | None = None
    """The GPU that was there, and its driver. None where it was built without one."""
    driver: str | None = None


class BundledModel(Record):
    """A file of a bundle in a runtime. `input`: normalised images behind the preprocessing, or uint8 pixels."""

    precision: RunPrecision
    input: Literal["input", "pixels"] = "input"
    signature: str = ""
    """The inputs and outputs of the file with type and shape."""
    runtime: Literal["ort", "openvino"] = "ort"
    file: str = ""
    """Below 1/; empty where the model has the file's name."""
    options: dict[str, str] = Field(default={})
    """Of the session. Empty: the runner's own."""
    tolerance: float = 0.0
    """By how much each probability may differ from what was recorded."""
    golden_right: int = 0
    """How many of the golden pictures get their class."""


class BundleManifest(Record):
    """manifest.json of a bundle."""

    schema_version: Literal[4] = 4
    default_model: str = ""
    models: Annotated[dict[str, BundledModel], Field(min_length=1)]
    class_names: list[str] = Field(default=[])
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    fit: Fit = "crop"
    image_size: int
    cpu: str = ""
    """The processor that the golden answers and the latencies were measured on, and what it can do of what matters."""
    cpu_flags: list[str] = Field(default=[])
    golden: Annotated[dict[str, str], Field(min_length=1)]
    """The golden pictures: the class of each, by its POSIX path in the bundle."""
    eval_images: list[Annotated[int, Field(ge=0)]]
    """How many images the evaluation split has of each class: they say how many of them are golden."""
    preprocessing_signature: str
    """The inputs and outputs of preprocess.onnx."""
    files: dict[str, str]
    """SHA-256 of every other file, by its POSIX path in the bundle."""
    sha256: str = ""
    """Of all the rest of this manifest, as JSON with sorted keys."""

    def path(self, model: str) -> str:
        """Where the file of a model is."""
        return f"1/{self.models[model].file or model}"
