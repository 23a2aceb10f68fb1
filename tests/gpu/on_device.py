"""The gpu kernel set with NumPy arrays outside and CuPy's (or its stand-in's) inside."""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np

from npresnet_kernels import gpu
from npresnet_kernels.gpu.device import array_module


def to_host(array: Any) -> np.ndarray:
    """The values in the memory order that they have on the device."""
    order = np.argsort([-s for s in array.strides], kind="stable")
    dense = array_module().asnumpy(array.transpose(tuple(int(i) for i in order)))
    return dense.transpose(np.argsort(order))


def _adapted(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        xp = array_module()
        moved = [xp.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
        named = {k: xp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}
        result = function(*moved, **named)
        if function.__name__.endswith("_"):  # an update in place
            for old, new in zip(args, moved, strict=True):
                if isinstance(old, np.ndarray):
                    old[...] = to_host(new)
        if isinstance(result, tuple):
            return tuple(map(to_host, result))
        return result if result is None else to_host(result)

    return call


gpu_set = types.SimpleNamespace(
    __all__=gpu.__all__, **{name: _adapted(getattr(gpu, name)) for name in gpu.__all__}
)
