"""What `pick` measures of an architecture, as it is kept in the cache."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from compress.recipe import Section

RuntimeName = Literal["onnxruntime", "openvino"]
PrecisionName = Literal["fp32", "bf16", "int8"]
RUNTIMES: tuple[RuntimeName, ...] = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Effort:
    """How long a candidate is timed at least."""

    seconds: float
    runs: int
    rounds: int


BRIEF, LONG = Effort(0.3, 15, 15), Effort(1.5, 60, 30)
"""For a latency that is far from the budget, and, after that, for one that is near."""


class Timing(Section):
    """The latency of a file in a runtime. Each time is in milliseconds for a batch.

    Attributes:
        graph: of an INT8 file the runtime that it is made for.
        p90_low: the lower end of the 95 % interval, p90_high the upper one.
        contended: whether other work held the CPUs: it is measured again next time.
        size_mb: of the ONNX file.
    """

    runtime: RuntimeName
    precision: PrecisionName
    graph: Literal["ort", "trt"] | None = None
    runs: int
    p50_ms: float
    p90_ms: float
    p90_low: float
    p90_high: float
    contended: bool = False
    size_mb: float


class Measured(Section):
    """An architecture at one image size. `error` says why there are no timings."""

    macs_m: float | None = None
    int8_convs: int | None = None
    float_convs: int | None = None
    timings: list[Timing] = Field(default=[])
    error: str | None = None

    def lacks(self, runtime: RuntimeName) -> bool:
        """Whether the runtime was not timed yet, or while other work held the CPUs."""
        own = [timing for timing in self.timings if timing.runtime == runtime]
        return self.error is None and (not own or any(timing.contended for timing in own))
