"""Tensors made from nothing, and tensors joined: the free functions of torch's face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npresnet import backend as switch
from npresnet import elementary
from npresnet.backend import Backend, current_backend, for_arrays
from npresnet.errors import DtypeError, ShapeError
from npresnet.random import generator
from npresnet.shapes import axis_of, sizes_of
from npresnet.tensor import ArrayLike, Tensor, apply, as_tensor
from npresnet_kernels.contract import Shape

__all__ = [
    "arange",
    "argmax",
    "cat",
    "empty",
    "flatten",
    "from_dlpack",
    "from_numpy",
    "full",
    "matmul",
    "max",
    "mean",
    "ones",
    "ones_like",
    "permute",
    "rand",
    "randint",
    "randn",
    "reshape",
    "stack",
    "sum",
    "transpose",
    "zeros",
    "zeros_like",
]


def full(
    size: Sequence[int], fill_value: float, dtype: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return a tensor of shape ``size`` filled with one value; float32 unless said."""
    return _filled(current_backend(), sizes_of((size,)), fill_value, dtype, requires_grad)


def _filled(
    backend: Backend, size: Shape, fill_value: float, dtype: Any, requires_grad: bool = False
) -> Tensor:
    with backend.scope():
        return Tensor(backend.xp.full(size, fill_value, dtype=dtype or np.float32), requires_grad)


def zeros(*size: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return zeros: ``zeros(2, 3)`` or ``zeros([2, 3])``."""
    return full(sizes_of(size), 0, dtype, requires_grad)


def ones(*size: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return ones: ``ones(2, 3)`` or ``ones([2, 3])``."""
    return full(sizes_of(size), 1, dtype, requires_grad)


def empty(*size: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return zeros: nothing is ever left unset."""
    return full(sizes_of(size), 0, dtype, requires_grad)


def zeros_like(input: Tensor) -> Tensor:
    """Return zeros of the shape and dtype of ``input``, where it lives."""
    return _filled(for_arrays([input.data]), input.shape, 0, input.dtype)


def ones_like(input: Tensor) -> Tensor:
    """Return ones of the shape and dtype of ``input``, where it lives."""
    return _filled(for_arrays([input.data]), input.shape, 1, input.dtype)


def _random(values: Any, dtype: Any, requires_grad: bool) -> Tensor:
    data = current_backend().asarray(np.asarray(values), dtype=dtype or np.float32)
    return Tensor(data, requires_grad)


def randn(*size: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return normally distributed numbers, seeded by ``manual_seed``: ``randn([8, 3, 224, 224])``.

    The draws are NumPy's, not torch's.
    """
    return _random(generator().standard_normal(sizes_of(size)), dtype, requires_grad)


def rand(*size: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return numbers between 0 and 1, seeded by ``manual_seed``."""
    return _random(generator().random(sizes_of(size)), dtype, requires_grad)


def randint(low: int, high: int, size: Sequence[int]) -> Tensor:
    """Return int64 numbers from ``low`` up to, not including, ``high``."""
    return _random(generator().integers(low, high, sizes_of((size,))), np.int64, False)


def arange(*bounds: float, dtype: Any = None) -> Tensor:
    """Return evenly spaced numbers: ``arange(stop)`` or ``arange(start, stop, step)``."""
    values = np.arange(*bounds)
    kind = dtype or (np.int64 if values.dtype.kind == "i" else np.float32)
    return Tensor(current_backend().asarray(values, dtype=kind))


def from_numpy(array: Any) -> Tensor:
    """Return a tensor around an array, without a copy where it already lives on the backend."""
    return as_tensor(np.asarray(array))


def from_dlpack(array: Any) -> Tensor:
    """Return a tensor on another library's memory, on the CPU or a GPU, without a copy.

    Parameters
    ----------
    array : object
        Anything with ``__dlpack__``: an array of PyTorch, CuPy, JAX, TensorFlow.

    Raises
    ------
    DtypeError
        If it has no ``__dlpack__``, or doesn't hand its memory over: it wants a gradient, say.
    BackendError
        If it lives where npresnet has no backend.
    """
    if not hasattr(array, "__dlpack__") or not hasattr(array, "__dlpack_device__"):
        raise DtypeError(
            f"from_dlpack expected an array with __dlpack__, got {type(array).__name__}"
        )
    return Tensor(switch.from_dlpack(array))


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors along a dimension they have; all others must agree.

    Raises
    ------
    ShapeError
        If there are none, or their shapes don't fit.
    """
    parts = [as_tensor(t) for t in tensors]
    if not parts:
        raise ShapeError("cat needs at least one tensor")
    axis = axis_of(dim, parts[0].shape)
    rests = {part.shape[:axis] + part.shape[axis + 1 :] for part in parts}
    if len(rests) > 1:
        raise ShapeError(
            f"cat along dimension {dim}: all other sizes must agree, got shapes "
            f"{', '.join(str(part.shape) for part in parts)}"
        )
    return apply(elementary.Concatenate, *parts, axis=axis)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors of one shape along a new dimension."""
    return cat([as_tensor(t).unsqueeze(dim) for t in tensors], dim)


# torch spells many methods as functions too.


def flatten(input: ArrayLike, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Return ``input`` with dimensions ``start_dim`` to ``end_dim`` made one."""
    return as_tensor(input).flatten(start_dim, end_dim)


def reshape(input: ArrayLike, shape: Sequence[int]) -> Tensor:
    """Return the same elements under another shape."""
    return as_tensor(input).reshape(shape)


def permute(input: ArrayLike, dims: Sequence[int]) -> Tensor:
    """Return the dimensions in another order."""
    return as_tensor(input).permute(dims)


def transpose(input: ArrayLike, dim0: int, dim1: int) -> Tensor:
    """Return ``input`` with two dimensions exchanged."""
    return as_tensor(input).transpose(dim0, dim1)


def matmul(input: ArrayLike, other: ArrayLike) -> Tensor:
    """Return the matrix product."""
    return as_tensor(input).matmul(other)


def sum(input: ArrayLike, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Return the sum over ``dim`` (all of them if None)."""
    return as_tensor(input).sum(dim, keepdim)


def mean(input: ArrayLike, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Return the mean over ``dim`` (all of them if None)."""
    return as_tensor(input).mean(dim, keepdim)


def max(input: ArrayLike, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the maximum; with ``dim``, the pair (values, indices) along it."""
    return as_tensor(input).max(dim, keepdim)


def argmax(input: ArrayLike, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Return the position of the first maximum, in the flat tensor or along ``dim``."""
    return as_tensor(input).argmax(dim, keepdim)
