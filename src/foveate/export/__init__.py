"""Exports tuned models as ONNX graphs with everything that predictions depend on; each export is verified."""
