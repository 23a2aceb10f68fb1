"""The gpu kernel set with NumPy arrays outside and the stand-in's arrays inside."""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np

from npresnet_kernels import gpu
from tests.shim import fake_cupy


def _in(value: Any) -> Any:
    return fake_cupy.asarray(value) if isinstance(value, np.ndarray) else value


def _out(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_out, value))
    # the very memory, so that its order can be looked at
    return value._values if isinstance(value, fake_cupy.ndarray) else value


def _same(x: np.ndarray, y: np.ndarray) -> bool:
    return np.array_equal(x, y, equal_nan=x.dtype.kind == "f")


def _adapted(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with fake_cupy.installed():
            moved = [_in(a) for a in args]
            result = function(*moved, **{key: _in(v) for key, v in kwargs.items()})
            for old, new in zip(args, moved, strict=True):
                if isinstance(old, np.ndarray) and not _same(old, new._values):
                    old[...] = new._values  # an update in place
        return _out(result)

    return call


gpu_on_host = types.SimpleNamespace(
    __all__=gpu.__all__, **{name: _adapted(getattr(gpu, name)) for name in gpu.__all__}
)
"""Every function of the set, for NumPy arrays."""
