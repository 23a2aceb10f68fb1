"""New parameters and buffers, on the backend in force."""

from __future__ import annotations

from typing import Any

from npresnet.creation import full
from npresnet.nn.module import Parameter
from npresnet.tensor import Tensor

__all__ = ["new_buffer", "new_parameter"]


def new_parameter(*shape: int, value: float = 0.0, dtype: Any = None) -> Parameter:
    """Return a parameter filled with ``value``, float32 unless said."""
    return Parameter(new_buffer(*shape, value=value, dtype=dtype))


def new_buffer(*shape: int, value: float = 0.0, dtype: Any = None) -> Tensor:
    """Return a tensor filled with ``value``, float32 unless said."""
    return full(shape, value, dtype)
