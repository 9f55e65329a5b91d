"""Traces graphs to ONNX files that share one file of weights, and quantises the weights of the towers.

Each weight is stored once.
"""

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.export.graphs import Graph
from foveate.methods.base import Method
from foveate.run.folder import WEIGHTS

OPSET = 17
"""ONNX opset of the graphs; onnxruntime reads it since 1.12, and it has all operators that CLIP needs."""

_INLINE_BYTES = 1024
"""Largest tensor that stays in its graph, in bytes."""


def import_onnx() -> ModuleType:
    """Return the package `onnx`.

    Raises:
        InputError: It is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise InputError(
            "onnx is not installed, which writes graphs: pip install 'foveate[export]'"
        ) from error
    return onnx


@contextmanager
def at_rest(method: Method) -> Generator[None]:
    """Switch a method to evaluation without gradients inside the block, as it is when it predicts."""
    trainable = [tensor for tensor in method.parameters() if tensor.requires_grad]
    was_training = method.training
    method.requires_grad_(False).eval()
    try:
        yield
    finally:
        for tensor in trainable:
            tensor.requires_grad_(True)
        method.train(was_training)


def trace(graph: Graph, example: tuple[Tensor, ...]) -> Any:
    """Return a graph as an `onnx.ModelProto` that contains its weights.

    Args:
        graph: The graph; it is called once before tracing, so that its cached values exist.
        example: Example inputs.
    """
    onnx = import_onnx()
    graph(*example)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The older of PyTorch's two exporters takes a twentieth of the time and needs two packages less; its
        # graphs are verified too. It warns that it is deprecated, and at each branch that it follows.
        warnings.simplefilter("ignore")
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            graph.eval(),
            example,
            str(path),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=graph.inputs | graph.outputs,
            opset_version=OPSET,
            dynamo=False,
        )
        return _with_initializers(onnx.load(str(path)))


def _with_initializers(model: Any) -> Any:
    """Turn a graph's constants into initializers; a `Transpose` of a constant is computed here.

    Then graphs can share weights, and weights can be quantised.
    """
    onnx, graph = import_onnx(), model.graph
    arrays: dict[str, np.ndarray] = {}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            arrays[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Transpose" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]].transpose(node.attribute[0].ints)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    del graph.node[:]
    graph.node.extend(nodes)
    initializers = [
        onnx.numpy_helper.from_array(array.copy(), tensor_name)
        for tensor_name, array in arrays.items()
        if tensor_name in used
    ]
    graph.initializer.extend(initializers)
    return model


class SharedWeights:
    """The file with the weights of all graphs of a folder.

    Args:
        folder: Folder of the graphs.
    """

    def __init__(self, folder: Path):
        self._folder, self._offsets = folder, dict[str, int]()
        self._end = 0

    def write(self, name: str, model: Any) -> None:
        """Write a graph, and those of its weights that are not in the file yet.

        Args:
            name: Name of the graph.
            model: An `onnx.ModelProto`; its weights are removed from it.
        """
        onnx = import_onnx()
        with (self._folder / WEIGHTS).open("ab") as file:
            for tensor in model.graph.initializer:
                content = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(content) <= _INLINE_BYTES:
                    continue
                key = hashlib.sha256(content).hexdigest()
                if key not in self._offsets:
                    self._offsets[key] = self._end
                    self._end += file.write(content + bytes(-len(content) % 64))
                tensor.ClearField("raw_data")
                tensor.ClearField("float_data")
                tensor.ClearField("int64_data")
                tensor.data_location = onnx.TensorProto.EXTERNAL
                reference = {"location": WEIGHTS, "offset": self._offsets[key], "length": len(content)}
                del tensor.external_data[:]
                for key_name, value in reference.items():
                    tensor.external_data.add(key=key_name, value=str(value))
        (self._folder / f"{name}.onnx").write_bytes(model.SerializeToString())


# Quantises the towers' weights to 8 bits, with onnxruntime's dynamic quantisation.


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
