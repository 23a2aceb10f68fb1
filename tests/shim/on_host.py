"""The gpu kernel set on the host, with NumPy arrays outside and the stand-in's arrays inside."""

from __future__ import annotations

import functools
import types
from typing import Any

from tests.gpu.on_device import gpu_set
from tests.shim import fake_cupy


def _installed(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with fake_cupy.installed():
            return function(*args, **kwargs)

    return call


gpu_on_host = types.SimpleNamespace(
    __all__=gpu_set.__all__,
    **{name: _installed(getattr(gpu_set, name)) for name in gpu_set.__all__},
)
"""Every function of the set, for NumPy arrays."""
