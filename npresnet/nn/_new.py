"""New parameters and buffers, on the backend in force."""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet.backend import current_backend
from npresnet.nn.module import Parameter
from npresnet.tensor import Tensor

__all__ = ["new_buffer", "new_parameter"]


def new_parameter(*shape: int, value: float = 0.0, dtype: Any = None) -> Parameter:
    """Return a parameter filled with ``value``, float32 unless said."""
    xp = current_backend().xp
    return Parameter(Tensor(xp.full(shape, value, dtype=dtype or np.float32)))


def new_buffer(*shape: int, value: float = 0.0, dtype: Any = None) -> Tensor:
    """Return a tensor filled with ``value``, float32 unless said."""
    return Tensor(current_backend().xp.full(shape, value, dtype=dtype or np.float32))
