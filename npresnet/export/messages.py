"""The messages of an ONNX file, decoded from protobuf's wire format.

Only the fields that npresnet needs are kept (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
numbers them); all others are skipped. A general protobuf parser makes gigabytes of objects from a
few megabytes of empty messages. This one stops after :data:`MOST_FIELDS` fields, never recurses
into subgraphs, and leaves the bytes of weights where they lie.
"""

# ruff: noqa: RUF009 - the calls in the classes below are dataclasses.field under shorter names

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from npresnet.errors import OnnxError

__all__ = [
    "MOST_FIELDS",
    "AttributeProto",
    "Dimension",
    "Entry",
    "GraphProto",
    "ModelProto",
    "NodeProto",
    "OperatorSet",
    "TensorProto",
    "TensorType",
    "TypeProto",
    "ValueInfo",
    "decode_model",
    "floats",
]

MOST_FIELDS = 200_000  # ResNet-152 has 12,000; these take 1.2 s and 120 MB at worst

Message = TypeVar("Message")


def _int(number: int, repeated: bool = False) -> Any:
    return _field(number, "int", repeated)


def _text(number: int, repeated: bool = False) -> Any:
    return _field(number, "text", repeated)


def _bytes(number: int, repeated: bool = False) -> Any:
    return _field(number, "bytes", repeated)


def _field(number: int, kind: Any, repeated: bool = False) -> Any:
    """Declare field ``number`` of a message; ``kind`` is a word or the class of a message."""
    empty: dict[Any, Any] = {"int": 0, "text": "", "bytes": b""}
    about = {"number": number, "kind": kind, "repeated": repeated}
    if repeated:
        return field(default_factory=list, metadata=about)
    return field(default=empty.get(kind), metadata=about)


@dataclass(slots=True)
class Entry:
    """StringStringEntryProto: a key and its value."""

    key: str = _text(1)
    value: str = _text(2)


@dataclass(slots=True)
class TensorProto:
    """An array. Floats come as pieces of bytes; what can't be used (``segment``) is noted."""

    dims: list[int] = _int(1, repeated=True)
    data_type: int = _int(2)
    segment: bytes = _bytes(3)
    float_data: list[Any] = _field(4, "words", repeated=True)
    int32_data: list[int] = _int(5, repeated=True)
    string_data: list[bytes] = _bytes(6, repeated=True)
    int64_data: list[int] = _int(7, repeated=True)
    name: str = _text(8)
    raw_data: Any = _bytes(9)
    double_data: list[Any] = _field(10, "words", repeated=True)
    uint64_data: list[int] = _int(11, repeated=True)
    external_data: list[Entry] = _field(13, Entry, repeated=True)
    data_location: int = _int(14)


@dataclass(slots=True)
class AttributeProto:
    """A named setting of a node; graphs in it are only noted."""

    name: str = _text(1)
    f: Any = _field(2, "words")
    i: int = _int(3)
    s: bytes = _bytes(4)
    t: TensorProto | None = _field(5, TensorProto)
    floats: list[Any] = _field(7, "words", repeated=True)
    ints: list[int] = _int(8, repeated=True)
    strings: list[bytes] = _bytes(9, repeated=True)
    type: int = _int(20)
    ref_attr_name: str = _text(21)


@dataclass(slots=True)
class NodeProto:
    """An operator with its inputs, outputs and attributes."""

    input: list[str] = _text(1, repeated=True)
    output: list[str] = _text(2, repeated=True)
    name: str = _text(3)
    op_type: str = _text(4)
    attribute: list[AttributeProto] = _field(5, AttributeProto, repeated=True)
    domain: str = _text(7)


@dataclass(slots=True)
class Dimension:
    """A size: a number, a name, or neither."""

    dim_value: int | None = _field(1, "int or none")
    dim_param: str = _text(2)


@dataclass(slots=True)
class TensorShape:
    """The sizes of a tensor type."""

    dim: list[Dimension] = _field(1, Dimension, repeated=True)


@dataclass(slots=True)
class TensorType:
    """Dtype and shape of a tensor."""

    elem_type: int = _int(1)
    shape: TensorShape | None = _field(2, TensorShape)


@dataclass(slots=True)
class TypeProto:
    """The type of a value; sequences, maps and optionals are no tensor type."""

    tensor_type: TensorType | None = _field(1, TensorType)


@dataclass(slots=True)
class ValueInfo:
    """The name and type of an input or output."""

    name: str = _text(1)
    type: TypeProto | None = _field(2, TypeProto)


@dataclass(slots=True)
class GraphProto:
    """Nodes in running order, and what they start from."""

    node: list[NodeProto] = _field(1, NodeProto, repeated=True)
    initializer: list[TensorProto] = _field(5, TensorProto, repeated=True)
    input: list[ValueInfo] = _field(11, ValueInfo, repeated=True)
    output: list[ValueInfo] = _field(12, ValueInfo, repeated=True)
    sparse_initializer: list[bytes] = _bytes(15, repeated=True)


@dataclass(slots=True)
class OperatorSet:
    """The version of a domain's operators."""

    domain: str = _text(1)
    version: int = _int(2)


@dataclass(slots=True)
class ModelProto:
    """The whole file."""

    ir_version: int = _int(1)
    producer_name: str = _text(2)
    graph: GraphProto | None = _field(7, GraphProto)
    opset_import: list[OperatorSet] = _field(8, OperatorSet, repeated=True)


def decode_model(data: memoryview) -> ModelProto:
    """Decode a ModelProto.

    Raises
    ------
    OnnxError
        If the bytes aren't one, or hold more than :data:`MOST_FIELDS` fields.
    """
    return _decode(ModelProto, data, _Budget())


class _Budget:
    """How many fields may still come."""

    def __init__(self) -> None:
        self.left = MOST_FIELDS

    def spend(self, number: int = 1) -> None:
        self.left -= number
        if self.left < 0:
            raise OnnxError(f"more than {MOST_FIELDS:,} fields: no network needs so many")


_layouts: dict[type, dict[int, tuple[str, Any, bool]]] = {}


def _layout(message: Any) -> dict[int, tuple[str, Any, bool]]:
    """Return what each field number of a message means: its name, kind, and if it's repeated."""
    if message not in _layouts:
        _layouts[message] = {
            about.metadata["number"]: (name, about.metadata["kind"], about.metadata["repeated"])
            for name, about in message.__dataclass_fields__.items()
        }
    return _layouts[message]


def _decode(message: type[Message], data: memoryview, budget: _Budget) -> Message:
    """Return a message, its submessages decoded too."""
    made = message()
    layout = _layout(message)
    for number, wire, value in _fields(data, budget):
        if number not in layout:
            continue
        name, kind, repeated = layout[number]
        found = _values(kind, wire, value, repeated, budget)
        if found is None:
            raise OnnxError(f"field {name} of {message.__name__} is stored as another kind of data")
        if repeated:
            getattr(made, name).extend(found)
        elif isinstance(kind, type) and getattr(made, name) is not None:
            raise OnnxError(f"{message.__name__} has two fields {name}")
        else:
            setattr(made, name, found[0])
    return made


def _values(kind: Any, wire: int, value: Any, repeated: bool, budget: _Budget) -> list[Any] | None:
    """Return what a field holds, several of them if it is packed; None if the kinds don't fit."""
    if kind in ("int", "int or none"):
        if wire == 0:
            return [_signed(value)]
        return list(_packed(value, budget)) if wire == 2 and repeated else None
    if kind == "words":  # float or double: bytes as they are
        return [value] if wire in (1, 5) or (wire == 2 and repeated) else None
    if wire != 2:
        return None
    if kind == "bytes":
        return [value]
    if kind == "text":
        try:
            return [str(value, "utf-8")]
        except UnicodeDecodeError:
            raise OnnxError("a name isn't UTF-8 text") from None
    return [_decode(kind, value, budget)]


def _fields(data: memoryview, budget: _Budget) -> Iterator[tuple[int, int, Any]]:
    """Yield (field number, wire type, value); values with a length are slices of ``data``."""
    position, end = 0, len(data)
    while position < end:
        budget.spend()
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value: Any
            value, position = _varint(data, position)
            yield number, wire, value
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise OnnxError(
                f"byte {position} of a message starts no field: the file is damaged or not ONNX"
            )
        if length > end - position:
            raise OnnxError(
                f"a field of {length:,} bytes in a message that has {end - position:,} left: the "
                "file is cut short or damaged"
            )
        yield number, wire, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return an integer of 7 bits a byte, least first, and the position behind it."""
    result = shift = 0
    for byte in data[position : position + 10]:
        result |= (byte & 0x7F) << shift
        shift += 7
        position += 1
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, position
    raise OnnxError("a number doesn't end: the file is cut short or damaged")


def _packed(data: memoryview, budget: _Budget) -> Iterator[int]:
    position = 0
    while position < len(data):
        budget.spend()
        value, position = _varint(data, position)
        yield _signed(value)


def _signed(value: int) -> int:
    """Return a 64-bit pattern as a signed number."""
    return value - (1 << 64) if value >> 63 else value


def floats(pieces: list[Any]) -> tuple[float, ...]:
    """Return the numbers in pieces of little-endian float32, each as the shortest decimal for it.

    What an exporter wrote as 1e-5 is 1e-5 again, in float64 too.

    Raises
    ------
    OnnxError
        If a number is cut.
    """
    data = b"".join(pieces)
    if len(data) % 4:
        raise OnnxError("a list of floats ends within a number")
    return tuple(float(str(number)) for number in np.frombuffer(data, "<f4"))
