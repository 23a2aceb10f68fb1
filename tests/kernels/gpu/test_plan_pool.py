"""Pools and memory order of plans on the host shim, against the reference set."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels import reference
from npresnet_kernels.gpu import plan_layout, plan_pool
from npresnet_kernels.shapes import PoolWindow
from tests.kernels.gpu.plan_arrays import ELEMENTS, ROUNDING, decoded, encoded, rounded, storage
from tests.parity import relative_error
from tests.shim import build, fake_cupy

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++")


@pytest.fixture
def xp():
    with fake_cupy.installed() as module:
        yield module


def channels_first(x):
    return x.transpose(0, 3, 1, 2)


WINDOWS = {
    "of a stem": PoolWindow((3, 3), (2, 2), (1, 1)),
    "apart": PoolWindow((2, 2), (2, 2), (0, 0)),
    "wide apart": PoolWindow((5, 5), (3, 3), (2, 2)),
    "other across than down": PoolWindow((2, 3), (1, 2), (1, 0)),
    "dilated": PoolWindow((3, 2), (2, 1), (1, 1), (2, 3)),
    "most taps": PoolWindow((15, 17), (1, 2), (7, 8)),
    "some all in the padding": PoolWindow((2, 1), (1, 1), (1, 0), (10, 1)),
}


# whole vectors of channels, and one channel more
@pytest.mark.parametrize("channels", [8, 9])
@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_max_pool(xp, rng, window, ceil_mode, element, channels):
    x = rounded(rng.standard_normal((3, 9, 8, channels)).round(1), element)  # with ties
    x[1, 2, 3] = np.nan
    x[2, :4] = -np.inf
    truth, places = reference.max_pool2d(channels_first(x), *window, ceil_mode)
    shape = (3, *truth.shape[2:], channels)
    grad = rounded(rng.standard_normal(shape), element)
    grad_truth = reference.max_pool2d_grad(
        channels_first(grad), places, (3, channels, 9, 8), *window
    )
    y, winners = xp.empty(shape, storage(element)), xp.empty(shape, np.uint8)
    grad_x = xp.empty(x.shape, storage(element))
    stored = xp.asarray(encoded(x, element))
    plan_pool.max_pool_forward(stored, y, winners, window)
    np.testing.assert_array_equal(decoded(y.get()), truth.transpose(0, 2, 3, 1))
    plan_pool.max_pool_backward(xp.asarray(encoded(grad, element)), winners, grad_x, window)
    expected = grad_truth.transpose(0, 2, 3, 1)
    assert relative_error(decoded(grad_x.get()), expected) <= ROUNDING[element]
    again = xp.empty(shape, storage(element))
    plan_pool.max_pool_forward(stored, again, None, window)
    np.testing.assert_array_equal(again.get(), y.get())


@pytest.mark.parametrize("channels", [8, 75, 272])
@pytest.mark.parametrize("element", ELEMENTS)
def test_mean(xp, rng, element, channels):
    x = rounded(rng.standard_normal((2, 5, 7, channels)) + 3, element)
    y = xp.empty((2, channels), np.float32)
    plan_pool.average_pool_forward(xp.asarray(encoded(x, element)), y)
    assert relative_error(y.get(), x.mean((1, 2))) <= 1e-6
    grad = rng.standard_normal((2, channels)).astype(np.float32)
    grad_x = xp.empty(x.shape, storage(element))
    plan_pool.average_pool_backward(xp.asarray(grad), grad_x)
    expected = np.broadcast_to(grad[:, None, None] / 35, x.shape)
    np.testing.assert_allclose(decoded(grad_x.get()), expected, rtol=ROUNDING[element])


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(("channels", "padded"), [(3, 4), (3, 8), (9, 9), (11, 16)])
def test_to_channels_last(xp, rng, channels, padded, element):
    x = (rng.standard_normal((2, channels, 5, 3)) * 9 + 99).astype(np.float32)
    out = xp.empty((2, 5, 3, padded), storage(element))
    plan_layout.to_channels_last(xp.asarray(x), out)
    result = decoded(out.get())
    np.testing.assert_array_equal(result[..., :channels], rounded(x, element).transpose(0, 2, 3, 1))
    assert not result[..., channels:].any()


CASTS = [("float32", "float16"), ("float32", "bfloat16"), ("float16", "float32")]


@pytest.mark.parametrize("size", [16, 21])
@pytest.mark.parametrize(("source", "element"), [*CASTS, ("bfloat16", "float32")])
def test_cast(xp, rng, source, element, size):
    x = rounded(rng.standard_normal(size) * 300, source)
    out = xp.empty(size, storage(element))
    plan_layout.cast(xp.asarray(encoded(x, source)), out)
    np.testing.assert_array_equal(out.get(), encoded(x, element))


@pytest.mark.parametrize("size", [16, 21])
@pytest.mark.parametrize("element", ELEMENTS)
def test_add(xp, rng, element, size):
    x, y = (rounded(v, element) for v in rng.standard_normal((2, size)))
    here, total = (xp.asarray(encoded(v, element)) for v in (x, y))
    plan_layout.add(here, total, total)
    expected = encoded((x + y).astype(np.float32), element)
    np.testing.assert_array_equal(total.get(), expected)


def test_empty_batch(xp):
    x, y = xp.empty((0, 4, 4, 8), np.float32), xp.empty((0, 2, 2, 8), np.float32)
    winners = xp.empty(y.shape, np.uint8)
    fake_cupy.launched.clear()
    plan_pool.max_pool_forward(x, y, winners, WINDOWS["apart"])
    plan_pool.max_pool_backward(y, winners, x, WINDOWS["apart"])
    plan_pool.average_pool_forward(x, xp.empty((0, 8), np.float32))
    plan_pool.average_pool_backward(xp.empty((0, 8), np.float32), x)
    plan_layout.to_channels_last(xp.empty((0, 3, 4, 4), np.float32), x)
    assert fake_cupy.launched == []


def test_winners_must_fit_a_byte():
    assert plan_pool.takes_max_pool(WINDOWS["most taps"])
    assert not plan_pool.takes_max_pool(PoolWindow((16, 16), (2, 2), (1, 1)))
