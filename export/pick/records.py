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


NEAR = 1.5
"""A time within this factor of the budget is near it, and timed for longer."""
BRIEF, LONG = Effort(0.3, 15, 15), Effort(1.5, 60, 30)
"""For a latency that is far from the budget, and, after that, for one that is near."""


class Timing(Section):
    """The latency of a file in a runtime. Each time is in milliseconds for a batch.

    Attributes:
        graph: of an INT8 file the runtime that it is made for.
        p90_low: the lower end of the 95 % interval, p90_high the upper one.
        contended: whether other work held the CPUs: it is measured again next time.
        long: whether it was near the budget, and timed for longer.
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
    long: bool = False
    size_mb: float


class Measured(Section):
    """An architecture at one image size.

    Attributes:
        refused: the runtimes that run none of its files.
        error: why there are no timings at all.
    """

    macs_m: float | None = None
    int8_convs: int | None = None
    float_convs: int | None = None
    timings: list[Timing] = Field(default=[])
    refused: list[RuntimeName] = Field(default=[])
    error: str | None = None

    def lacks(self, runtime: RuntimeName, p90_ms: float) -> bool:
        """Whether the runtime was not timed yet, or while other work held the CPUs, or too briefly for that budget."""
        if self.error is not None or runtime in self.refused:
            return False
        own = [timing for timing in self.timings if timing.runtime == runtime]
        return not own or any(timing.contended or (not timing.long and near(timing.p90_ms, p90_ms)) for timing in own)


def near(milliseconds: float, p90_ms: float) -> bool:
    """Whether it is near the budget."""
    return p90_ms / NEAR <= milliseconds <= p90_ms * NEAR
