"""From a trained student to deployed files: ONNX, INT8, TensorRT, each behind gates that stop a bad model."""
