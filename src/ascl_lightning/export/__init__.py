"""ONNX graphs of trained models, for serving without this package."""
