"""The globals that a pickle of torch's may name, and what stands for each here.

The list is exact: what isn't on it is an error. Nothing on it is imported or called; functions of
torch's that rebuild tensors are stood for by functions of ours that only write down what they were
given. From what ``torch.save`` writes in versions 0.1 to 2.13.
"""

from __future__ import annotations

from typing import Any

from npresnet.weights.torch_file.values import (
    Function,
    Inert,
    OrderedDict,
    Storage,
    StorageType,
    Tensor,
    TorchDtype,
    damaged,
)

__all__ = ["allowed"]

_DTYPES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
    # not for models here, but they lie beside weights
    "complex128": 16,
    "complex64": 8,
    "complex32": 4,
    "float8_e5m2": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2fnuz": 1,
    "float8_e4m3fnuz": 1,
    "float8_e8m0fnu": 1,
    "quint8": 1,
    "qint8": 1,
    "qint32": 4,
}
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "QUInt8": "quint8",
    "QInt8": "qint8",
    "QInt32": "qint32",
}

# Objects beside the weights: arguments of the command line, milestones of a schedule, metrics as
# NumPy's numbers, and what these are made of. They are read over.
_INERT = {
    "argparse": ("Namespace",),
    "collections": ("Counter", "defaultdict"),
    "pathlib": (
        "Path",
        "PosixPath",
        "PurePosixPath",
        "WindowsPath",
        "PureWindowsPath",
    ),
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("scalar",),
    "numpy._core.multiarray": ("scalar",),
    "_codecs": ("encode",),
    "torch": ("device", "per_tensor_affine", "per_channel_affine"),
    "torch.serialization": ("_get_layout",),
    **dict.fromkeys(
        ("builtins", "__builtin__"),
        ("set", "frozenset", "complex", "bytearray", "dict", "list", "int", "float", "str"),
    ),
}


def allowed() -> dict[tuple[str, str], Any]:
    """Return what stands for each (module, name)."""
    table: dict[tuple[str, str], Any] = {
        (module, name): Inert(f"{module}.{name}")
        for module, names in _INERT.items()
        for name in names
    }
    dtypes = {name: TorchDtype(name, size) for name, size in _DTYPES.items()}
    table |= {("torch", name): dtype for name, dtype in dtypes.items()}
    for short, dtype in _STORAGES.items():
        kind = StorageType(f"torch.{short}Storage", dtypes[dtype])
        table["torch", f"{short}Storage"] = kind
        # tar files name a tensor's class; its dtype is its storage's
        for module in ("torch", "torch.cuda"):
            table[module, f"{short}Tensor"] = Inert(f"{module}.{short}Tensor")
    for module in ("torch", "torch.storage"):
        for name in ("UntypedStorage", "_UntypedStorage"):
            table[module, name] = StorageType(f"{module}.{name}", None)
    for module, name in (("torch", "Tensor"), ("torch.nn.parameter", "Parameter")):
        table[module, name] = Inert(f"{module}.{name}", "is a tensor of a class of its own")
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[module, "_reconstruct"] = Inert("numpy.ndarray", "is NumPy's: save it as a tensor")
    for (module, name), function in _FUNCTIONS.items():
        table[module, name] = Function(f"{module}.{name}", function)
    return table


def _ordered_dict(items: Any = ()) -> OrderedDict:
    """Make a dictionary; Python 2 pickled its items as a list of pairs."""
    made = OrderedDict()
    _expect(isinstance(items, list | tuple), "a list of pairs", items)
    for item in items:
        _expect(isinstance(item, list | tuple) and len(item) == 2, "a pair", item)
        _expect(is_key(item[0]), "a key that is text or a number", item[0])
        made[item[0]] = item[1]
    return made


def is_key(value: Any) -> bool:
    """Whether a value may be a dictionary's key.

    Not a tuple, whose hash goes down as deep as it is nested; nor an integer over 64 bits, of which
    any number can be made that fall into one another's place.
    """
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    return isinstance(value, str | float | None)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor | Inert:
    """Stand for a tensor as torch 0.3 and earlier pickled it."""
    return _tensor_v2(storage, offset, shape, strides)


def _tensor_v2(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor | Inert:
    """Stand for a tensor of a typed storage."""
    _expect(isinstance(storage, Storage), "a storage", storage)
    if storage.type.dtype is None:
        raise damaged("a tensor of untyped bytes doesn't say its dtype")
    return _make(storage, storage.type.dtype, offset, shape, strides, metadata)


def _tensor_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor | Inert:
    """Stand for a tensor of an untyped storage: torch's newer dtypes, uint16 for instance."""
    _expect(isinstance(storage, Storage), "a storage", storage)
    _expect(isinstance(dtype, TorchDtype), "a dtype", dtype)
    return _make(storage, dtype, offset, shape, strides, metadata)


def _make(
    storage: Storage, dtype: TorchDtype, offset: Any, shape: Any, strides: Any, metadata: Any
) -> Tensor | Inert:
    for lengths in (shape, strides):
        _expect(
            isinstance(lengths, tuple) and all(type(n) is int for n in lengths),
            "a tuple of whole numbers",
            lengths,
        )
    _expect(type(offset) is int, "a whole number", offset)
    if metadata:
        return Inert("torch.Tensor", "is conjugated or negated lazily: save tensor.clone()")
    return Tensor(storage, dtype, offset, shape, strides)


def _parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> Any:
    """Stand for a parameter: its tensor."""
    _expect(isinstance(data, Tensor | Inert), "a tensor", data)
    return data


def _from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """Stand for a tensor with attributes of its own, which are left out."""
    _expect(isinstance(function, Function), "a function that rebuilds a tensor", function)
    _expect(isinstance(arguments, tuple), "a tuple", arguments)
    if function.apply is _from_type:  # itself among its arguments
        raise damaged("a tensor is rebuilt by what rebuilds tensors, for ever")
    return function(arguments)


def _size(lengths: Any) -> tuple[Any, ...]:
    _expect(isinstance(lengths, tuple), "a tuple", lengths)
    return tuple(lengths)


def _unreadable(kind: str) -> Any:
    def stand_in(*_: Any) -> Inert:
        return Inert("torch.Tensor", f"is {kind}: save it as an ordinary tensor")

    return stand_in


def _expect(fits: bool, what: str, value: Any) -> None:
    if not fits:
        raise damaged(f"expected {what}, got {type(value).__name__}")


_FUNCTIONS = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._utils", "_rebuild_qtensor"): _unreadable("quantized"),
    ("torch._utils", "_rebuild_sparse_tensor"): _unreadable("sparse"),
    ("torch._utils", "_rebuild_nested_tensor"): _unreadable("nested"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _unreadable("without values (meta)"),
    ("torch._tensor", "_rebuild_from_type"): _from_type,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch.tensor", "_rebuild_from_type"): _from_type,
}
