"""What users ask of a plan, checked: a shape, a precision, an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npresnet.backend import Backend, adopt, for_arrays
from npresnet.errors import BackendError, DtypeError, GraphError, ShapeError
from npresnet.nn import Module
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = [
    "checked_shape",
    "chosen_precision",
    "home",
    "received",
    "takes_fallback",
]

SIXTEEN_BITS = ("fp16", "bf16")


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a plan's shape as a tuple.

    Raises
    ------
    ShapeError
        If it isn't a batch and the sizes of an image, all at least 1.
    """
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if len(sizes) < 2 or not all(isinstance(n, int | np.integer) and n >= 1 for n in sizes):
        raise ShapeError(
            f"a plan needs the shape of a batch, for instance (8, 3, 224, 224), got {shape!r}"
        )
    return tuple(int(n) for n in sizes)


def home(model: Module) -> tuple[Backend, np.dtype[Any]]:
    """Return the backend that a model lives on, and the dtype it computes in.

    Raises
    ------
    DtypeError
        If it is no Module.
    """
    if not isinstance(model, Module):
        raise DtypeError(f"a plan is made of a Module, got {type(model).__name__}")
    tensors = [*model.parameters(), *model.buffers()]
    floats = [t.dtype for t in tensors if t.dtype.kind == "f"]
    return for_arrays([t.data for t in tensors]), floats[0] if floats else np.dtype(np.float32)


def chosen_precision(model: Module, precision: str | None) -> str:
    """Return what a plan of a model is to compute in, checked; None: as its backend does.

    Raises
    ------
    BackendError
        If there is no such precision, or the model's backend can't compute in it.
    DtypeError
        If it has 16 bits and the model isn't in float32.
    """
    backend, dtype = home(model)
    word = backend.plan_precision(precision)
    if word in SIXTEEN_BITS and dtype != np.float32:
        raise DtypeError(
            f"precision {word!r} is for models in float32, whose weights the plan rounds itself, "
            f"got {dtype}: call model.float()"
        )
    return word


def takes_fallback(fallback: str | None, precision: str, error: GraphError) -> None:
    """Raise the error that kept a model from becoming a plan, unless it may run eagerly."""
    if fallback is None:
        raise error
    if precision in SIXTEEN_BITS:
        raise GraphError(
            f"precision {precision!r} needs a plan, and there is none: {error}"
        ) from error


def received(x: Any, shape: tuple[int, ...], dtype: Any, backend: Backend) -> Array:
    """Return the array in ``x``, checked against what a plan was made for.

    Raises
    ------
    ShapeError, DtypeError, BackendError
        If it doesn't fit.
    """
    array = x.data if isinstance(x, Tensor) else adopt(x)
    if not hasattr(array, "dtype") or not hasattr(array, "shape"):
        raise DtypeError(f"a plan takes an array or a Tensor, got {type(x).__name__}")
    if not backend.owns(array):
        raise BackendError(
            f"the input doesn't live on the {backend.device}, where the plan runs: call the plan "
            f'with {"x" if isinstance(x, Tensor) else "nr.tensor(x)"}.to("{backend.device}")'
        )
    if array.dtype != dtype:
        raise DtypeError(
            f"the plan was made for {dtype}, got {array.dtype}: convert the input "
            f'(x.astype("{dtype}")), or compile the model in that dtype'
        )
    if array.ndim != len(shape) or array.shape[1:] != shape[1:]:
        raise ShapeError(
            f"the plan was made for inputs of shape (up to {shape[0]}, "
            f"{', '.join(map(str, shape[1:]))}), got {array.shape}: compile one for that shape"
        )
    if len(array) > shape[0]:
        raise ShapeError(
            f"the plan was made for batches of up to {shape[0]}, got {len(array)}: split the "
            "batch, or compile a plan for it"
        )
    result: Array = array
    return result
