"""Writing ONNX files: a model traced into the engine's graph, and that node by node into ONNX."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from npresnet.backend import for_arrays
from npresnet.engine.batch import Multiple, grows
from npresnet.engine.graph import Graph, Node, Value
from npresnet.engine.operations import FoldedBias, FoldedWeight
from npresnet.engine.passes.fold_batch_norm import fold_batch_norm
from npresnet.engine.request import checked_shape, home
from npresnet.engine.trace import trace, trace_any_batch
from npresnet.errors import ExtraError, OnnxError, RangeError
from npresnet.export.nodes import WRITERS
from npresnet.functional.conv import Conv2d
from npresnet.nn import Module
from npresnet.tape import Context
from npresnet.weights.atomic import write_aside
from npresnet_kernels.contract import Array

__all__ = ["OLDEST_WRITTEN", "Writer", "export_onnx"]

OLDEST_WRITTEN = 13
_LARGEST = 2**31 - 2**20  # protobuf can't hold 2 GB


def export_onnx(
    model: Module,
    path: str | os.PathLike[str],
    shape: Sequence[int] = (1, 3, 224, 224),
    *,
    opset: int | None = None,
    dynamic_batch: bool = True,
    fold: bool = True,
) -> None:
    """Write a model, in evaluation mode, as an ONNX file with its weights inside.

    The file is checked by ``onnx`` before it takes the place of ``path``. The input is called
    ``input`` and the output ``output`` (several: ``output_0``, ...); constants have the names of
    the state dict.

    Parameters
    ----------
    model : Module
        A network of one input; it stays as it is.
    path : str or path-like
        The file to make or replace.
    shape : sequence of int
        Of the input, batch first.
    opset : int, optional
        The version of the operators: the newest that the installed ``onnx`` knows if None. Older
        runtimes need an older one, 13 at least.
    dynamic_batch : bool
        Whether the file takes batches of any size, or the one in ``shape`` only.
    fold : bool
        Whether batch norm becomes part of the convolution before it. Without folding the constants
        are those of the state dict, number for number.

    Raises
    ------
    OnnxError
        The model has operations that ONNX, or this writer, doesn't know: all of them are listed.
        Or it can't be written for any batch, or it has more than 2 GB of weights.
    GraphError
        The model can't be traced.
    RangeError, ShapeError
        ``opset`` or ``shape`` isn't possible.
    ExtraError
        The package ``onnx`` isn't installed.
    WriteError
        The file can't be written.

    Examples
    --------
    >>> nr.export_onnx(nr.resnet34(), "resnet34.onnx")  # doctest: +SKIP
    """
    onnx = _onnx()
    newest = onnx.defs.onnx_opset_version()
    version = newest if opset is None else opset
    if not isinstance(version, int) or not OLDEST_WRITTEN <= version <= newest:
        raise RangeError(f"opset must be {OLDEST_WRITTEN} to {newest}, got {opset!r}")
    sizes = checked_shape(shape)
    _, dtype = home(model)
    graph = (trace_any_batch if dynamic_batch else trace)(model, sizes, dtype)
    if dynamic_batch and graph.batch is not None:
        raise OnnxError(
            f"the model does something else for another batch than {sizes[0]}: export it with "
            "dynamic_batch=False (on the command line --fixed-batch)"
        )
    message = Writer(fold_batch_norm(graph) if fold else graph, version, onnx).model(
        type(model).__name__
    )
    onnx.checker.check_model(message, full_check=True)
    with write_aside(path) as aside:
        aside.write_bytes(message.SerializeToString())


def _onnx() -> Any:
    try:
        onnx = importlib.import_module("onnx")
        importlib.import_module("onnx.checker")
    except ImportError as error:
        raise ExtraError(
            f"exporting needs the package onnx ({error}): pip install 'npresnet[onnx]'"
        ) from None
    return onnx


class Writer:
    """Builds the ONNX message of a graph.

    Attributes
    ----------
    graph : Graph
        What is written.
    opset : int
        The version of the operators.
    known : dict of Value to array
        What depends on the weights alone.
    """

    def __init__(self, graph: Graph, opset: int, onnx: Any) -> None:
        self.graph = graph
        self.opset = opset
        self.known: dict[Value, Array] = {}
        self._onnx = onnx
        self._names: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._constants: list[Any] = []
        self._nodes: list[Any] = []
        self._wishes = _wishes(graph)
        self._node_stem = ""

    # ------------------------------------------------------------------ what node writers use

    def emit(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        """Append a node of ONNX."""
        name = self._free(self._node_stem)
        self._nodes.append(
            self._onnx.helper.make_node(kind, list(inputs), [output], name, **attributes)
        )

    def name(self, value: Value) -> str:
        """Return what a value is called; one that is a constant is written down."""
        if value not in self._names:
            array = self.known.get(value)
            if array is None and value.source is not None:
                array = value.source.numpy()
            stem = (
                self._wishes.get(value) or value.name or ("value" if array is None else "constant")
            )
            self._names[value] = self._free(stem)
            if array is not None:
                self._write_constant(self._names[value], array)
        return self._names[value]

    def constant(self, array: Any, stem: str, dtype: Any = None) -> str:
        """Write down an array that isn't the model's; return its name."""
        name = self._free(stem)
        self._write_constant(name, np.asarray(array, dtype))
        return name

    def between(self) -> str:
        """Return a name for a value between two nodes that stand for one operation."""
        return self._free(f"{self._node_stem}_part")

    def kind(self, dtype: Any) -> int:
        """Return ONNX's number of a dtype."""
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    # ------------------------------------------------------------------ the whole

    def model(self, name: str) -> Any:
        """Return the ModelProto.

        Raises
        ------
        OnnxError
            If operations can't be written, or there is too much.
        """
        helper = self._onnx.helper
        entry = self.graph.inputs[0]
        self._names[entry] = self._free("input")
        results = self._results()
        unknown = []
        for number, node in enumerate(self.graph.nodes):
            if self._work_out(node):
                continue
            writer = WRITERS.get(node.operation)
            self._node_stem = self._stem(node)
            try:
                if writer is None:
                    raise OnnxError("the operation isn't known to the writer")
                writer(self, node)
            except OnnxError as error:
                unknown.append(f"%{number} = {node.operation.name}: {error}")
        if unknown:
            raise OnnxError(
                f"{len(unknown)} operations of the model can't be written as ONNX: "
                + "; ".join(unknown)
            )
        for value, result in results:
            self._node_stem = "Identity"
            self.emit("Identity", [self.name(value)], result)
        size = sum(constant.ByteSize() for constant in self._constants)
        if size > _LARGEST:
            raise OnnxError(f"{size:,} bytes of weights don't fit into an ONNX file of 2 GB")
        outputs = [
            self._described(value, label)
            for value, label in zip(self.graph.outputs, self._labels, strict=True)
        ]
        graph = helper.make_graph(
            self._nodes, name, [self._described(entry, "input")], outputs, self._constants
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="npresnet",
        )

    def _results(self) -> list[tuple[Value, str]]:
        """Name the outputs; return those that need a node of their own to get their name."""
        values = self.graph.outputs
        several = len(values) > 1
        self._labels = [
            self._free(f"output_{i}" if several else "output") for i in range(len(values))
        ]
        made = {node.output for node in self.graph.nodes}
        extra = []
        for value, label in zip(values, self._labels, strict=True):
            if value in made and value not in self._names:
                self._names[value] = label
            else:
                extra.append((value, label))
        return extra

    def _work_out(self, node: Node) -> bool:
        """Compute a node that depends on the weights alone; return whether it does."""
        arrays: list[Any] = []
        for value in node.inputs:
            if value is None:
                arrays.append(None)
            elif value in self.known:
                arrays.append(self.known[value])
            elif value.source is not None:
                arrays.append(value.source.data)
            else:
                return False
        if grows(node.attributes) or node.output in self.graph.outputs:
            return False
        backend = for_arrays(arrays)
        context = Context(backend, (False,) * len(arrays))
        result = node.operation.forward(context, *arrays, **node.attributes)
        self.known[node.output] = backend.to_numpy(backend.xp.asarray(result))
        return True

    def _stem(self, node: Node) -> str:
        """Return a node's name: that of the layer whose weight it has, else its operation's."""
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        name = "" if weight is None else self._wishes.get(weight, weight.name)
        return name.rpartition(".")[0] or node.operation.name

    def _described(self, value: Value, name: str) -> Any:
        sizes = [_size(n) for n in value.shape]
        return self._onnx.helper.make_tensor_value_info(name, self.kind(value.dtype), sizes)

    def _write_constant(self, name: str, array: Array) -> None:
        tensor = self._onnx.numpy_helper.from_array(
            np.ascontiguousarray(array).reshape(array.shape), name
        )
        self._constants.append(tensor)

    def _free(self, stem: str) -> str:
        """Return a name that nothing has yet."""
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name


def _size(size: Any) -> int | str | None:
    """Return a dimension as ONNX declares it."""
    if isinstance(size, Multiple):
        return "batch" if size.factor == 1 else None
    return int(size)


def _wishes(graph: Graph) -> dict[Value, str]:
    """Return names for folded weights and biases: those of the convolution's own."""
    makers = graph.producers()
    wishes: dict[Value, str] = {}
    for node in graph.nodes:
        if node.operation is not Conv2d:
            continue
        _, weight, bias = node.inputs
        maker = None if weight is None else makers.get(weight)
        if maker is None or maker.operation is not FoldedWeight or weight is None:
            continue
        original = maker.inputs[0]
        if original is not None and original.name.endswith("weight"):
            wishes[weight] = original.name
            if bias is not None and makers[bias].operation is FoldedBias:
                wishes[bias] = original.name.removesuffix("weight") + "bias"
    return wishes
