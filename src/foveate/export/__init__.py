"""Tuned models as ONNX graphs, with all that an answer depends on, and the proof that they answer alike."""
