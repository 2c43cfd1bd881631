"""What benchmark.json holds, which export.benchmark.file writes and reads.

Every block of numbers names its source: `measured`, `proxy` (measured on a stand-in), or `not run` with the reason.
Accuracies and drops are fractions, times milliseconds, sizes bytes or megabytes of 10^6.
"""

import sys
from typing import Literal

from pydantic import AliasChoices, Field

from compress.recipe import Section
from export import statistics
from export.benchmark.latency import MAX_BUSY
from export.records import Outcome

SCHEMA_VERSION = 2

Source = Literal["measured", "proxy"]
Reference = Literal["teacher.torch", "student.torch"]
"""The candidate that others are compared with: the student in torch where its teacher has no last layer."""
LimitName = Literal["p90_ms", "max_top1_drop", "max_class_drop", "max_size_mb"]


class NotRun(Section):
    """Numbers that are missing, and why."""

    source: Literal["not run"] = "not run"
    reason: str


TOO_FEW_ROUNDS = "too few rounds for an interval"


class Interval(Section):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, entry: statistics.Range) -> "Interval":
        return cls(value=entry.value, low=entry.low, high=entry.high)

    @property
    def has_ends(self) -> bool:
        """False for a ratio of times over too few rounds (`export.benchmark.latency.ratio`)."""
        return self.high < sys.float_info.max


class AccuracyResult(Section):
    """What a candidate scores on the evaluation split."""

    source: Source
    images: int
    top1: Interval = Field(description="Wilson interval.")
    top5: Interval | None = Field(description="null with up to five classes.")
    balanced_top1: float | None = Field(default=None, description="Mean over classes; null where all are as frequent.")
    nll: Interval = Field(description="Nats; bootstrap interval over images.")
    ece: float
    reliability: list[statistics.Bin]


class LikeForLike(Section):
    """How many times faster a file is than the teacher's file in the same runtime, in the same rounds."""

    reference: str = Field(description="The teacher's file: of the same precision, else the FP32 one.")
    speedup: Interval


class Latency(Section):
    """One candidate at one batch size and number of threads. `scope` says what is inside the timed region."""

    source: Literal["measured"] = "measured"
    scope: Literal["model", "end-to-end"] = Field(
        description="model: normalised float32 in, logits out. end-to-end: from uint8 pixels, with normalisation."
    )
    clock: Literal["host", "cuda events"]
    batch: int
    threads: int
    runs: int
    seconds: float
    p50_ms: Interval
    p90_ms: Interval
    p99_ms: Interval | None = Field(description="null below 1,000 runs.")
    early_stopping_p90_ms: float | None = Field(description="MLPerf single-stream; null below 64 runs.")
    images_per_s: Interval
    mad_ms: float = Field(description="Median absolute deviation from the median.")
    noisy: bool = Field(description="mad_ms above 5 % of p50_ms.")
    busy: float = Field(description="Share of rounds in which other work kept a CPU from a candidate.")
    speedup: Interval | None = Field(description="Against the reference, in the same rounds; null if too busy.")
    like_for_like: LikeForLike | None = Field(description="Against the teacher's file in the same runtime.")

    @property
    def contended(self) -> bool:
        """Whether other work disturbed so many rounds that no ratio of times is told."""
        return self.busy > MAX_BUSY


class Memory(Section):
    """What a process of its own takes that runs the candidate, in megabytes of 10^6 bytes."""

    source: Literal["measured"] = "measured"
    peak_mb: float = Field(description="Resident memory of a fresh process that runs the model.")
    library_mb: float = Field(description="The same before the model was opened: Python and the libraries.")
    batch: int


class CandidateResult(Section):
    """What was measured of a model in a runtime. `name`: FILE[:openvino][:bf16], or ROLE.torch."""

    name: str
    role: Literal["teacher", "student"]
    runtime: Literal["torch", "ort", "openvino", "trt"]
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    file: str = Field(default="", description="Below RUN/export; empty for torch.")
    options: dict[str, str] = Field(default={}, description="Of the session, at the first number of threads.")
    device: Literal["cpu", "cuda"]
    deployable: bool = Field(description="A file of the student that a verdict may recommend.")
    gate: Outcome | None = Field(default=None, description="By the limits of the export; null where it has none.")
    gate_images_to_decide: int | None = Field(default=None, description="Where that is UNDECIDED and ever will be.")
    size_bytes: int
    sha256: str
    weights_sha256: str = Field(default="", description="Of the .bin of an IR, whose .xml `sha256` is of.")
    accuracy: AccuracyResult | NotRun
    latency: list[Latency] | NotRun
    memory: Memory | NotRun


class Flip(Section):
    """An image that the reference gets right and the candidate wrong; classes by number."""

    index: int
    label: int
    candidate: int


class Comparison(Section):
    """candidate against reference on the same images. A drop above 0 is a loss."""

    source: Source
    reference: str
    candidate: str
    images: int
    lost: int
    won: int
    drop: Interval = Field(description="Agresti and Min's paired interval, on which verdicts rest.")
    bootstrap: Interval = Field(description="The same drop with its paired bootstrap interval.")
    mcnemar_p: float
    agreement: Interval
    flips: list[Flip]


class ClassChange(Section):
    """`drop` has an interval that holds for all classes together (Bonferroni)."""

    name: str
    images: int
    reference_top1: float
    candidate_top1: float
    drop: Interval


class Thumbnail(Section):
    """An image that a candidate gets wrong and its reference right."""

    comparison: str
    index: int
    caption: str
    media_type: Literal["image/png", "image/webp"] = "image/png"
    image_base64: str = Field(validation_alias=AliasChoices("image_base64", "png_base64"))  # earlier files say png


class AARun(Section):
    """The same model timed against itself; the interval is one of 99 %."""

    candidate: str
    batch: int
    threads: int
    ratio: Interval
    differs: bool


class Step(Section):
    """A step of the waterfall against the one before it; null where there is none, or where it was not run."""

    name: str
    candidate: str
    source: Source
    top1: Interval
    drop: Interval | None
    p50_ms: Interval | None
    size_bytes: int
    agreement: float | None
    max_logit_diff: float | None = Field(description="Largest |difference| of logits, over the largest |logit|.")


class Judgement(Section):
    """One limit of the recipe, and what was measured against it."""

    limit: LimitName
    allowed: float
    measured: Interval | None
    of: str = ""
    outcome: Outcome
    samples: int = Field(description="Images, runs or files that this rests on.")
    samples_to_decide: int | None
    note: str = ""


class Verdict(Section):
    """Whether the recommended file clears every limit, those of its export too."""

    outcome: Outcome
    recommended: str | None
    passed_over: dict[str, str] = Field(default={}, description="Faster files that are not recommended, and why.")
    balanced_top1: float | None = Field(default=None, description="Of what is recommended, as in its accuracy.")
    judgements: list[Judgement]
    by_file: dict[str, Outcome]
    pareto: list[str] = Field(description="No other candidate is as accurate and faster, or as fast and more accurate.")


class DataFacts(Section):
    """What was measured on."""

    name: str
    sha256: str
    class_names: list[str]
    eval_split: str
    eval_images: int
    image_size: int


class Machine(Section):
    """What was measured with."""

    cpu: str
    cpu_flags: list[str]
    cores_allowed: int
    cores_of_host: int
    load_average: float | None = Field(description="Over the minute before the benchmark; other work disturbs it.")
    gpu: str | None
    system: str
    versions: dict[str, str]


class Settings(Section):
    """How it was measured, and the limits of the verdict."""

    runtimes: list[str]
    batches: list[int]
    threads: list[int]
    min_seconds: float
    min_runs: int
    limits: dict[str, float | None]
    gates: dict[str, float] = Field(
        default={}, description="What a file may lose against the FP32 one: export.json's settings, or --set."
    )


class Benchmark(Section):
    """What `compress benchmark` measured of one run."""

    schema_version: Literal[2] = SCHEMA_VERSION
    run: str
    recipe: str
    method: str
    date: str
    seconds: float
    recipe_sha256: str
    calibration_sha256: str | None = Field(description="Of the indices of the calibration images.")
    calibration: str | None
    data: DataFacts
    machine: Machine
    settings: Settings
    reference: Reference = Field(default="teacher.torch", description="The candidate that others are compared with.")
    verdict: Verdict
    candidates: list[CandidateResult]
    waterfall: list[Step]
    comparisons: list[Comparison]
    classes: list[ClassChange]
    thumbnails: list[Thumbnail]
    aa: list[AARun]
    warnings: list[str]
    sha256: str = Field(description="Of all the rest, as JSON with sorted keys; empty until it is written.")

    def candidate(self, name: str) -> CandidateResult:
        """What was measured of one candidate."""
        return next(entry for entry in self.candidates if entry.name == name)

    def primary_latency(self, name: str) -> Latency | None:
        """The model alone, at the smallest batch and the first number of threads. None where it was not run."""
        latency = self.candidate(name).latency
        if isinstance(latency, NotRun):
            return None
        wanted = ("model", self.settings.batches[0], self.settings.threads[0])
        return next((entry for entry in latency if (entry.scope, entry.batch, entry.threads) == wanted), None)
