"""Recording kernels as a graph, on the stand-in for CuPy: what is kept, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels.gpu import linear, plan_layout
from npresnet_kernels.gpu.device import empty
from npresnet_kernels.gpu.errors import DeviceError
from npresnet_kernels.gpu.graph import recorder
from tests.shim import build, fake_cupy

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++")


@pytest.fixture
def xp():
    with fake_cupy.installed() as module:
        yield module


def test_a_replay_works_on_the_same_memory(xp, rng):
    x, y = rng.standard_normal((2, 5)).astype(np.float32)
    here, step, total = xp.asarray(x), xp.asarray(y), xp.empty(5, np.float16)

    def run():
        plan_layout.add(here, step, here)
        plan_layout.cast(here, total)

    replay = recorder().record(run)
    expected = x + y  # recording does no work, the run before it does
    np.testing.assert_array_equal(here.get(), expected)
    for _ in range(2):
        step[...] = step * 2
        replay()
        expected = expected + step.get()
        np.testing.assert_array_equal(here.get(), expected)
        np.testing.assert_array_equal(total.get(), expected.astype(np.float16))


def test_nothing_runs_while_recording(xp):
    x = xp.zeros(4, np.float32)
    seen = []

    def run():
        plan_layout.add(x, x, x)
        seen.append(len(fake_cupy.launched))

    before = len(fake_cupy.launched)
    recorder().record(run)
    assert seen == [before + 1, before + 1]


REFUSED = {
    "an allocation": (lambda xp, x: empty((7,), np.float32), "28 bytes of device memory"),
    "cuBLAS": (lambda xp, x: linear.matmul(x, x, out=x), "cuBLAS"),
    "a copy to the host": (lambda xp, x: x.get(), "copy to the host"),
    "a number": (lambda xp, x: float(x[0, 0]), "copy to the host"),
    "a copy from the host": (lambda xp, x: x.__setitem__(0, [1, 2]), "copy from the host"),
    "waiting": (lambda xp, x: xp.cuda.Device().synchronize(), "waiting for the device"),
    "a product": (lambda xp, x: x * 2, "8 bytes|16 bytes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_recorded_is_named(xp, what):
    call, words = REFUSED[what]
    x = xp.ones((2, 2), np.float32)
    first = []

    def run():
        if first:
            call(xp, x)
        first.append(True)

    with pytest.raises(DeviceError, match=rf"can't be recorded as a CUDA graph: .*({words})"):
        recorder().record(run)
    plan_layout.add(x, x, x)  # and all is as before
    np.testing.assert_array_equal(x.get(), 2)


def test_an_error_of_the_first_run_is_its_own(xp):
    def run():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        recorder().record(run)


def test_the_stand_in_notices_freed_memory(xp):
    arrays = [xp.zeros(4, np.float32)]

    def run():
        plan_layout.add(arrays[0], arrays[0], arrays[0])

    replay = recorder().record(run)
    replay()
    arrays.clear()
    with pytest.raises(build.ShimError, match="memory that is freed"):
        replay()
