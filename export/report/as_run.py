"""How a candidate was run, in words: what a deployer must do to get its latency."""

from export.benchmark import CandidateResult

RUNTIMES = {"ort": "ONNX Runtime", "openvino": "OpenVINO", "trt": "TensorRT", "torch": "PyTorch"}


def as_run(candidate: CandidateResult) -> str:
    """File, runtime, precision and the options of the session; empty where it has no options."""
    if not candidate.options:
        return ""
    options = ", ".join(f"{name}={value}" for name, value in candidate.options.items())
    fixed = "; compiled for the shape of its input" if candidate.runtime == "openvino" else ""
    return (
        f"It was run from {candidate.file} in {RUNTIMES[candidate.runtime]}, {candidate.precision}: {options}{fixed}."
    )
