"""Quantises the towers' weights to 8 bits, with onnxruntime's dynamic quantisation."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.errors import InputError
from foveate.export.tracing import import_onnx

TOWERS = ("image", "prior", "plain", "text")
"""Graphs that are quantised; the heads are small, and errors there change answers."""


def quantised(models: Mapping[str, Any]) -> dict[str, Any]:
    """Return the graphs, those of towers with int8 weights: one scale per channel, dynamic activations.

    Raises:
        InputError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise InputError(
            "onnxruntime is not installed, which quantises: pip install 'foveate[export]'"
        ) from error
    onnx, graphs = import_onnx(), dict(models)
    root_logger = logging.getLogger()
    level = root_logger.level
    for name in TOWERS:
        if name not in models:
            continue
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
            onnx.save(models[name], str(source), save_as_external_data=True, location="before.bin")
            try:
                root_logger.setLevel(logging.ERROR)  # its advice has no effect here
                quantize_dynamic(
                    source,
                    target,
                    op_types_to_quantize=["MatMul", "Gather"],
                    per_channel=True,
                    weight_type=QuantType.QInt8,
                    use_external_data_format=True,
                )
            finally:
                root_logger.setLevel(level)
            graphs[name] = onnx.load(str(target))
    return graphs
