"""A model as an ONNX file. In: a torch module. Out: a checked graph with weights and metadata inside."""
