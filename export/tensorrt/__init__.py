"""TensorRT engines. In: an ONNX file. Out: an engine with the sidecar that says what it is, and a way to run it."""
