"""Reading ONNX files: bytes to a checked graph to an :class:`OnnxModel`."""

from __future__ import annotations

import mmap
import os
import stat
from typing import Any

from npresnet.errors import OnnxError
from npresnet.export.arrays import as_array
from npresnet.export.messages import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    ValueInfo,
    decode_model,
    floats,
)
from npresnet.export.model import NodeSpec, OnnxModel, ValueSpec
from npresnet.export.operators import OPERATORS
from npresnet_kernels.contract import Array

__all__ = ["NEWEST_OPSET", "OLDEST_OPSET", "load_onnx", "model_from_bytes"]

OLDEST_OPSET, NEWEST_OPSET = 7, 28
_LARGEST_FILE = 2**31  # protobuf's own limit; weights beyond it are external data
_LONGEST = 1500  # characters of a message: names come from the file


def load_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """Load an ONNX file as a Module on the backend in force, in evaluation mode.

    Nothing in the file is executed, and the package ``onnx`` isn't needed. 16-bit floats are
    computed in float32.

    Parameters
    ----------
    path : str or path-like
        The file. Its external data, if it has any, are read from regular files in or below its
        folder; links and other places are refused.

    Returns
    -------
    OnnxModel
        Called with arrays or tensors; ``nr.compile`` makes a plan of it, and its weights can be
        trained.

    Raises
    ------
    OnnxError
        The file can't be read or is damaged, or has nodes that npresnet can't run: all of them are
        listed, each with the reason.

    Examples
    --------
    >>> model = nr.load_onnx("resnet34.onnx")  # doctest: +SKIP
    >>> plan = nr.compile(model, (8, 3, 224, 224))  # doctest: +SKIP
    """
    name = os.fspath(path)
    try:
        with open(os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise OnnxError(f"{name!r} is no regular file")
            if not 0 < found.st_size <= _LARGEST_FILE:
                raise OnnxError(
                    f"{name!r} has {found.st_size:,} bytes: an ONNX file has 1 to {_LARGEST_FILE:,}"
                )
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise OnnxError(f"can't read {name!r}: {error.strerror}") from None
    try:
        return model_from_bytes(data, os.path.dirname(name) or ".")
    except OnnxError as error:
        text = " ".join(str(error).split())
        shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... (cut)"
        raise OnnxError(f"{name!r}: {shown}") from None


def model_from_bytes(data: Any, folder: str | None = None) -> OnnxModel:
    """Return the network of a serialised ModelProto.

    Parameters
    ----------
    data : bytes-like
        The message.
    folder : str, optional
        Where external data may be; without it there may be none.

    Raises
    ------
    OnnxError
        As :func:`load_onnx`.
    """
    message = decode_model(memoryview(data))
    opset = _opset(message)
    graph = message.graph
    if graph is None:
        raise OnnxError("no graph in it: is it an ONNX file?")
    if graph.sparse_initializer:
        raise OnnxError("sparse constants can't be read: export the network with dense ones")
    constants = _constants(graph, folder)
    nodes = _nodes(graph.node, opset, constants)
    inputs = [_value(info) for info in graph.input if info.name not in constants]
    outputs = [_value(info) for info in graph.output]
    _check_order(inputs, outputs, nodes, constants)
    model = OnnxModel(inputs, outputs, nodes, constants, opset, message.producer_name)
    return model.eval()


def _opset(message: ModelProto) -> int:
    """Return the version of the standard operators."""
    versions = [s.version for s in message.opset_import if s.domain in ("", "ai.onnx")]
    if len(set(versions)) != 1:
        raise OnnxError("it doesn't say one version of the ONNX operators: is it an ONNX file?")
    (version,) = set(versions)
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise OnnxError(
            f"opset {version}: versions {OLDEST_OPSET} to {NEWEST_OPSET} are known; "
            "onnx.version_converter changes a model's"
        )
    return version


def _constants(graph: GraphProto, folder: str | None) -> dict[str, Array]:
    """Return the initialisers and what Constant nodes hold, by name."""
    constants: dict[str, Array] = {}
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in constants:
            raise OnnxError(f"two constants are called {tensor.name!r}, or one has no name")
        constants[tensor.name] = as_array(tensor, folder)
    return constants


def _nodes(messages: list[NodeProto], opset: int, constants: dict[str, Array]) -> list[NodeSpec]:
    """Return the nodes, checked; Constants and Identities of constants become constants.

    Raises
    ------
    OnnxError
        If some can't be run: all of them are named, with the reasons.
    """
    nodes: list[NodeSpec] = []
    refused: dict[tuple[str, str], list[str]] = {}
    for number, message in enumerate(messages):
        name = message.name or f"{message.op_type}_{number}"
        try:
            node = _node(name, message)
            if _is_constant(node, constants):
                value = _held(node, constants)
                if node.outputs[0] in constants:
                    raise OnnxError(f"its output {node.outputs[0]!r} exists already")
                constants[node.outputs[0]] = value
            else:
                nodes.append(node)
        except OnnxError as error:
            refused.setdefault((message.op_type, str(error)), []).append(name)
    if refused:
        listed = "; ".join(
            f"{kind} ({_some(names)}): {reason}" for (kind, reason), names in refused.items()
        )
        count = sum(map(len, refused.values()))
        raise OnnxError(f"{count} of {len(messages)} nodes can't be run (opset {opset}): {listed}")
    return nodes


def _some(names: list[str]) -> str:
    """Name a few nodes and count the others."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"{name!r:.80}" for name in names[:3]) + rest


def _is_constant(node: NodeSpec, constants: dict[str, Array]) -> bool:
    kind = node.operator.name
    return kind == "Constant" or (kind == "Identity" and node.inputs[0] in constants)


def _held(node: NodeSpec, constants: dict[str, Array]) -> Array:
    """Return what a Constant, or an Identity of a constant, stands for."""
    if node.inputs:
        return constants[node.inputs[0]]
    value: Array = node.operator.function(None, **node.attributes)
    return value


def _node(name: str, message: NodeProto) -> NodeSpec:
    """Return one node, checked against the table of operators."""
    if message.domain not in ("", "ai.onnx"):
        raise OnnxError(f"operators of the domain {message.domain!r} aren't known")
    operator = OPERATORS.get(message.op_type)
    if operator is None:
        raise OnnxError("the operator isn't known")
    inputs, outputs = message.input, message.output
    while inputs and not inputs[-1]:  # optional inputs left out at the end
        inputs = inputs[:-1]
    if not operator.least <= len(inputs) <= operator.most or not all(inputs[: operator.least]):
        raise OnnxError(f"{len(inputs)} inputs, expected {operator.least} to {operator.most}")
    if not 1 <= len(outputs) <= operator.outputs or not outputs[0]:
        raise OnnxError(f"{len(outputs)} outputs, expected 1 to {operator.outputs}")
    attributes: dict[str, Any] = {}
    for attribute in message.attribute:
        if attribute.name in attributes:
            raise OnnxError(f"two attributes {attribute.name!r}")
        kind = operator.attributes.get(attribute.name)
        if kind is None:
            raise OnnxError(f"the attribute {attribute.name!r} isn't known")
        if kind != attribute.type or attribute.ref_attr_name:
            raise OnnxError(f"the attribute {attribute.name!r} is of another type than expected")
        attributes[attribute.name] = _setting(attribute)
    missing = operator.required.difference(attributes)
    if missing:
        raise OnnxError(f"the attribute {min(missing)!r} is missing")
    reason = operator.refuse(attributes) if operator.refuse else None
    if reason:
        raise OnnxError(reason)
    return NodeSpec(name, operator, tuple(inputs), tuple(outputs), attributes)


def _setting(attribute: AttributeProto) -> Any:
    """Return the value of an attribute."""
    if attribute.type == 1:
        return 0.0 if attribute.f is None else floats([attribute.f])[0]
    if attribute.type == 2:
        return attribute.i
    if attribute.type == 3:
        return bytes(attribute.s).decode("utf-8", "backslashreplace")
    if attribute.type == 4:
        if attribute.t is None:
            raise OnnxError(f"the attribute {attribute.name!r} is empty")
        return as_array(attribute.t, None)
    return floats(attribute.floats) if attribute.type == 6 else tuple(attribute.ints)


def _value(info: ValueInfo) -> ValueSpec:
    """Return what an input or output is declared to be."""
    kind = info.type.tensor_type if info.type else None
    if not info.name or (info.type is not None and kind is None):
        raise OnnxError(f"the input or output {info.name!r} is no tensor")
    if kind is None or kind.shape is None:
        return ValueSpec(info.name, None)
    return ValueSpec(info.name, tuple(d.dim_param or d.dim_value for d in kind.shape.dim))


def _check_order(
    inputs: list[ValueSpec],
    outputs: list[ValueSpec],
    nodes: list[NodeSpec],
    constants: dict[str, Array],
) -> None:
    """Raise unless each node reads what stands before it, and each value is made once."""
    known = {spec.name for spec in inputs}
    if len(known) < len(inputs):
        raise OnnxError("two inputs of the graph have one name")
    known |= constants.keys()
    for node in nodes:
        for name in filter(None, node.inputs):
            if name not in known:
                raise OnnxError(
                    f"{node.label} reads {name!r}, which no input, constant or earlier node gives: "
                    "the graph has a cycle or is incomplete"
                )
        for name in filter(None, node.outputs):
            if name in known:
                raise OnnxError(f"{node.label} makes {name!r}, which exists already")
            known.add(name)
    missing = [spec.name for spec in outputs if spec.name not in known]
    if missing or not outputs:
        raise OnnxError(f"no node gives the graph's output {', '.join(map(repr, missing))}")
