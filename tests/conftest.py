"""Fixtures that every test may use."""

from __future__ import annotations

import contextlib
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one of `pytest -n`: threads of several would spin
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import numpy as np
import pytest

import npresnet as nr
from tests.shim import build
from tests.shim.backend import gpu_on_host

with contextlib.suppress(ImportError):  # tests on a device do without
    from hypothesis import settings

    # Compiling a kernel on first use takes longer than hypothesis's usual deadline.
    settings.register_profile("npresnet", deadline=None, derandomize=True)
    settings.load_profile("npresnet")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20151210)


@pytest.fixture(params=["reference", "cpu"])
def host_backend(request):
    """Run the test once a kernel set of the CPU."""
    with nr.use_backend(request.param):
        yield request.param


@pytest.fixture
def device():
    """Run the test on the gpu set, on the host through the shim; on a device from tests/gpu."""
    if build.compiler() is None:
        pytest.skip("the gpu kernels run on the host through g++, which isn't here")
    with gpu_on_host():
        yield "gpu"


@pytest.fixture(params=["reference", "cpu", "gpu"])
def backend(request):
    """Run the test once a kernel set; the gpu set on the host, through the shim."""
    if request.param != "gpu":
        with nr.use_backend(request.param):
            yield request.param
    elif build.compiler() is None:
        pytest.skip("the gpu kernels run on the host through g++, which isn't here")
    else:
        with gpu_on_host():
            yield "gpu"
