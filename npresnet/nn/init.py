"""Initial values of parameters: the rules and defaults of torch.nn.init.

Each function fills a tensor in place and returns it. Random numbers are float64 draws of
:func:`npresnet.random.generator`, seeded by ``nr.manual_seed``, rounded to the tensor's dtype.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import cast

from numpy.random import PCG64

from npresnet.backend import for_arrays
from npresnet.errors import RangeError, ShapeError
from npresnet.random import generator
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = [
    "calculate_gain",
    "constant_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "pass_uniform",
    "skip_random",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


_skipping: contextvars.ContextVar[bool] = contextvars.ContextVar("skipping", default=False)


@contextlib.contextmanager
def skip_random() -> Iterator[None]:
    """Leave tensors as they are instead of drawing values: for a model that is loaded next.

    Drawing 21 million numbers takes longer than reading them from a file.
    """
    token = _skipping.set(True)
    try:
        yield
    finally:
        _skipping.reset(token)


_passing: contextvars.ContextVar[bool] = contextvars.ContextVar("passing", default=False)


@contextlib.contextmanager
def pass_uniform() -> Iterator[None]:
    """Leave tensors as they are instead of drawing uniform values: for weights drawn anew later.

    The generator passes over the numbers without making them, so all others stay what they were.
    """
    token = _passing.set(True)
    try:
        yield
    finally:
        _passing.reset(token)


def _fill(tensor: Tensor, values: Array | float) -> Tensor:
    backend = for_arrays([tensor.data])
    with backend.scope():
        tensor.data[...] = backend.asarray(values, dtype=tensor.dtype)
    tensor._version += 1
    return tensor


def _fans(tensor: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out): connections into an output and out of an input."""
    if tensor.ndim < 2:
        raise ShapeError(f"fan in and out need at least 2 dimensions, got shape {tensor.shape}")
    taps = math.prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the factor that keeps the variance through a nonlinearity.

    Raises
    ------
    RangeError
        If the nonlinearity is unknown.
    """
    slope = 0.01 if param is None else param
    gains = {
        "linear": 1.0,
        "conv2d": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + slope**2)),
    }
    if nonlinearity not in gains:
        raise RangeError(f"unknown nonlinearity {nonlinearity!r}: choose one of {sorted(gains)}")
    return gains[nonlinearity]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill with numbers between ``a`` and ``b``."""
    if _skipping.get():
        return tensor
    if _passing.get():
        cast(PCG64, generator().bit_generator).advance(tensor.numel())
        return tensor
    return _fill(tensor, generator().uniform(a, b, tensor.shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with normally distributed numbers."""
    if _skipping.get():
        return tensor
    return _fill(tensor, generator().normal(mean, std, tensor.shape))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value."""
    return _fill(tensor, val)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    return constant_(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return constant_(tensor, 1)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise RangeError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = _fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Fill as He et al. 2015 (https://arxiv.org/abs/1502.01852), uniformly."""
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Fill as He et al. 2015 (https://arxiv.org/abs/1502.01852), normally."""
    return normal_(tensor, 0, _kaiming_std(tensor, a, mode, nonlinearity))


def _xavier_std(tensor: Tensor, gain: float) -> float:
    return gain * math.sqrt(2 / max(sum(_fans(tensor)), 1))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill as Glorot and Bengio 2010, uniformly."""
    bound = math.sqrt(3) * _xavier_std(tensor, gain)
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill as Glorot and Bengio 2010, normally."""
    return normal_(tensor, 0, _xavier_std(tensor, gain))
