"""The stand-in for CuPy: what it refuses, and what it notices."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels.gpu import activation
from npresnet_kernels.gpu.errors import DeviceError
from tests.shim import build, fake_cupy

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++")


@pytest.fixture
def xp():
    with fake_cupy.installed() as module:
        yield module


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_kernel_runs(xp, rng, dtype):
    x = rng.standard_normal((2, 3, 5, 7)).astype(dtype)
    y = activation.relu(xp.asarray(x))
    assert isinstance(y, xp.ndarray)
    np.testing.assert_array_equal(y.get(), np.maximum(x, 0))


def test_what_cupy_refuses(xp):
    x, plain = xp.zeros(3), np.zeros(3)
    for mix in (lambda: x + plain, lambda: plain + x, lambda: xp.add(x, plain)):
        with pytest.raises(TypeError, match="Unsupported type"):
            mix()
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(x)
    with xp.cuda.Device(1), pytest.raises(ValueError, match="array of device 0"):
        x + 1
    assert isinstance((x + 1).sum(), xp.ndarray)
    assert isinstance(np.exp(x), xp.ndarray)


def test_a_write_outside_an_array_is_noticed(xp):
    code = 'extern "C" __global__ void past(float* x) { x[threadIdx.x + 1] = 0; }'
    kernel = xp.RawModule(code=code).get_function("past")
    with pytest.raises(build.ShimError, match="past wrote outside an array"):
        kernel((1,), (4,), (xp.zeros(4, np.float32),))


def test_integers_are_no_number_for_a_kernel(xp):
    with pytest.raises(DeviceError, match=r"compute in float16, float32.*got int32: convert"):
        activation.relu(xp.zeros(3, np.int32))


def test_streams_in_no_certain_order_are_noticed(xp):
    x = xp.zeros(4, np.float32)
    with xp.cuda.Stream(non_blocking=True):
        x += 1
        event = xp.cuda.Event()
        event.record()
    with xp.cuda.Stream(non_blocking=True) as stream:
        with pytest.raises(build.ShimError, match="two streams"):
            x += 1
        stream.wait_event(event)
        x += 1
    with xp.cuda.Stream(non_blocking=True):
        xp.cuda.Device().synchronize()
        x += 1
        with pytest.raises(build.ShimError, match="two streams"), xp.cuda.Stream.null:
            x.get()
        np.testing.assert_array_equal(x.get(), 3)
