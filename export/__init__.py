"""From a finished run to what is deployed. In: a run folder. Out: ONNX files, engines, a benchmark, a report."""
