"""Tests that need a CUDA device; skipped, with the reason, where there is none.

They are the tests of the CPU's kernel sets, operations and networks, run on the device, and what
only a device can show. ``NPRESNET_GPU_TESTS=shim`` runs them on the host shim instead, to see
that the tests themselves are sound.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

import npresnet as nr
from npresnet_kernels.gpu import discovery
from npresnet_kernels.gpu.device import array_module
from npresnet_kernels.gpu.errors import DeviceError
from tests.gpu.on_device import gpu_set
from tests.shim.backend import gpu_machine

SHIM = os.environ.get("NPRESNET_GPU_TESTS") == "shim"


def _problem() -> str | None:
    if SHIM:
        return None
    try:
        discovery.usable(0)
    except DeviceError as error:
        return str(error)
    return None


def pytest_collection_modifyitems(items):
    here = os.path.dirname(__file__)
    ours = [item for item in items if str(item.path).startswith(here + os.sep)]
    problem = _problem() if ours else None
    for item in ours:
        item.add_marker(pytest.mark.gpu)
        if problem is not None:
            item.add_marker(pytest.mark.skip(reason=f"no CUDA device: {problem}"))


@pytest.fixture(autouse=SHIM)
def _shim():
    with gpu_machine():
        yield


@pytest.fixture
def kernels():
    """The gpu set, taking and giving NumPy arrays."""
    return gpu_set


@pytest.fixture
def xp():
    """CuPy, or its stand-in."""
    return array_module()


@pytest.fixture
def backend():
    with nr.use_backend("gpu"):
        yield "gpu"


@pytest.fixture
def host_backend(backend):
    """What runs once a CPU kernel set elsewhere runs on the device here."""
    return backend


@pytest.fixture
def device(backend):
    """What runs on the shim elsewhere runs on the device here."""
    return backend


@pytest.fixture
def rng():
    return np.random.default_rng(20151210)
