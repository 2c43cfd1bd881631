"""INT8 graphs. In: an FP32 ONNX file and calibration images. Out: Q/DQ graphs for ONNX Runtime and for TensorRT."""
