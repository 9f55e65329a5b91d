"""Graphs to ONNX files whose weights all stand in one file, each once."""

import hashlib
import tempfile
import warnings
from collections.abc import Generator
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
"""Of the graphs: what onnxruntime has read since 1.12, and what has all that CLIP needs."""

_SMALL = 1024
"""Bytes up to which a tensor stays in its graph."""


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
    """Let nothing of a method learn inside, so that it is traced as it answers."""
    learns = [tensor for tensor in method.parameters() if tensor.requires_grad]
    was_training = method.training
    method.requires_grad_(False).eval()
    try:
        yield
    finally:
        for tensor in learns:
            tensor.requires_grad_(True)
        method.train(was_training)


def trace(graph: Graph, example: tuple[Tensor, ...]) -> Any:
    """Return a graph as an `onnx.ModelProto`, its weights inside.

    Args:
        graph: Called once before, so that what it keeps is made.
        example: Inputs.
    """
    onnx = import_onnx()
    graph(*example)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The older of PyTorch's two exporters: it takes a twentieth of the time, and two packages less; its
        # graphs are proved like any. It warns of its age, and of each branch that it follows.
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
    """Return a graph whose constants are initializers, transposed where it would transpose them first.

    Weights can then be shared by graphs, and quantised.
    """
    onnx, graph = import_onnx(), model.graph
    arrays: dict[str, np.ndarray] = {}
    kept: list[Any] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            arrays[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Transpose" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]].transpose(node.attribute[0].ints)
        else:
            kept.append(node)
    used = {name for node in kept for name in node.input} | {one.name for one in graph.output}
    del graph.node[:]
    graph.node.extend(kept)
    made = [onnx.numpy_helper.from_array(a.copy(), n) for n, a in arrays.items() if n in used]
    graph.initializer.extend(made)
    return model


class SharedWeights:
    """The one file that the weights of all graphs of a folder are in.

    Args:
        folder: Of the graphs.
    """

    def __init__(self, folder: Path):
        self._folder, self._places = folder, dict[str, int]()
        self._end = 0

    def write(self, name: str, model: Any) -> None:
        """Write a graph, and those of its weights that no graph before it has.

        Args:
            name: Of the graph.
            model: An `onnx.ModelProto`; its weights are taken out.
        """
        onnx = import_onnx()
        with (self._folder / WEIGHTS).open("ab") as file:
            for tensor in model.graph.initializer:
                content = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(content) <= _SMALL:
                    continue
                key = hashlib.sha256(content).hexdigest()
                if key not in self._places:
                    self._places[key] = self._end
                    self._end += file.write(content + bytes(-len(content) % 64))
                tensor.ClearField("raw_data")
                tensor.ClearField("float_data")
                tensor.ClearField("int64_data")
                tensor.data_location = onnx.TensorProto.EXTERNAL
                facts = {"location": WEIGHTS, "offset": self._places[key], "length": len(content)}
                del tensor.external_data[:]
                for fact, value in facts.items():
                    tensor.external_data.add(key=fact, value=str(value))
        (self._folder / f"{name}.onnx").write_bytes(model.SerializeToString())
