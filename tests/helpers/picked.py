"""Latencies of models that are written by hand, as `pick` measures them."""

from export.pick.records import Measured, PrecisionName, RuntimeName, Timing


def timing(p90_ms: float, runtime: RuntimeName = "onnxruntime", precision: PrecisionName = "fp32") -> Timing:
    return Timing(
        runtime=runtime,
        precision=precision,
        runs=10,
        p50_ms=p90_ms,
        p90_ms=p90_ms,
        p90_low=p90_ms,
        p90_high=p90_ms,
        size_mb=1.0,
    )


def measured(*timings: Timing) -> Measured:
    return Measured(macs_m=1.0, int8_convs=1, float_convs=0, timings=list(timings))


FOUND = {
    "resnet10t": measured(timing(4.0), timing(2.0, "openvino", "int8"), timing(3.0, precision="int8")),
    "resnet18": measured(timing(5.0)),
    "mobilenetv3_small_100": measured(timing(2.5)),
    "resnet50": measured(timing(20.0)),
    "of_my_own": measured(timing(1.0)),
    "broken": Measured(error="it cannot be exported"),
}
"""Published: resnet10t 68.4 %, resnet18 71.5 %, mobilenetv3_small_100 67.6 %, resnet50 80.8 %."""
