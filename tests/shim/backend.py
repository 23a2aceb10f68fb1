"""The backend ``gpu`` on a machine without a device: CuPy's place is taken by its stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import npresnet as nr
from npresnet import backend as switch
from npresnet_kernels.gpu import discovery
from tests.shim import fake_cupy


@contextlib.contextmanager
def gpu_machine() -> Iterator[None]:
    """Let this machine seem to have GPUs."""
    with (
        fake_cupy.installed(),
        fake_cupy.Device(0),
        mock.patch.object(switch, "_made", {}),
        mock.patch.object(discovery, "_installed", return_value=["cupy-cuda13x 14.2.0"]),
    ):
        yield


@contextlib.contextmanager
def gpu_on_host(name: str = "gpu") -> Iterator[None]:
    """Compute on one of them."""
    with gpu_machine(), nr.use_backend(name):
        yield
