"""Towers with weights of 8 bits, by onnxruntime's dynamic quantisation."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.errors import InputError
from foveate.export.tracing import import_onnx

TOWERS = ("image", "prior", "plain", "text")
"""Graphs that are quantised; heads are small, and decide."""


def quantised(models: Mapping[str, Any]) -> dict[str, Any]:
    """Return graphs, those of towers with int8 weights: a scale for each channel, activations as they come.

    Raises:
        InputError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise InputError(
            "onnxruntime is not installed, which quantises: pip install 'foveate[export]'"
        ) from error
    onnx, made = import_onnx(), dict(models)
    quiet = logging.getLogger()
    was = quiet.level
    for name in TOWERS:
        if name not in models:
            continue
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
            onnx.save(models[name], str(before), save_as_external_data=True, location="before.bin")
            try:
                quiet.setLevel(logging.ERROR)  # it advises steps that make no difference here
                quantize_dynamic(
                    before,
                    after,
                    op_types_to_quantize=["MatMul", "Gather"],
                    per_channel=True,
                    weight_type=QuantType.QInt8,
                    use_external_data_format=True,
                )
            finally:
                quiet.setLevel(was)
            made[name] = onnx.load(str(after))
    return made
