"""What stands alone in plans, on the host shim, against the formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels.gpu import plan_elementwise, plan_layout
from npresnet_kernels.gpu.softmax import softmax_backward, softmax_forward
from tests.kernels.gpu.plan_arrays import ELEMENTS, ROUNDING, decoded, encoded, rounded, storage
from tests.parity import relative_error
from tests.shim import build, fake_cupy

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++")


@pytest.fixture
def xp():
    with fake_cupy.installed() as module:
        yield module


@pytest.mark.parametrize("size", [16, 21])
@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_elementwise(xp, rng, name, element, size):
    x, grad = (rounded(v * 3, element) for v in rng.standard_normal((2, size)))
    x[:3] = 0, -0.0, np.nan
    truth = np.maximum(x, 0) if name == "relu" else 1 / (1 + np.exp(-x))
    y = xp.empty(size, storage(element))
    getattr(plan_elementwise, name)(xp.asarray(encoded(x, element)), y)
    np.testing.assert_allclose(decoded(y.get()), truth, ROUNDING[element], 1e-7)
    seen = decoded(y.get())
    slope = np.where(seen <= 0, 0, 1) if name == "relu" else seen * (1 - seen)
    here = xp.asarray(encoded(grad, element))  # the gradient may be written over
    getattr(plan_elementwise, f"{name}_grad")(here, y, here)
    np.testing.assert_allclose(decoded(here.get()), grad * slope, ROUNDING[element], 1e-7)


@pytest.mark.parametrize("channels", [8, 75, 272])
@pytest.mark.parametrize("element", ELEMENTS)
def test_gate(xp, rng, element, channels):
    x, grad = (rounded(v, element) for v in rng.standard_normal((2, 3, 5, 4, channels)))
    gates = rng.uniform(0, 1, (3, channels)).astype(np.float32)
    there, weights = xp.asarray(encoded(x, element)), xp.asarray(gates)
    y, grad_gates = xp.empty(x.shape, storage(element)), xp.empty(gates.shape, np.float32)
    plan_elementwise.gate(there, weights, y)
    by_pixel = gates[:, None, None].astype(np.float64)
    np.testing.assert_allclose(decoded(y.get()), x * by_pixel, ROUNDING[element], 1e-7)
    here = xp.asarray(encoded(grad, element))
    plan_elementwise.gate_grad(here, there, weights, here, grad_gates)
    np.testing.assert_allclose(decoded(here.get()), grad * by_pixel, ROUNDING[element], 1e-7)
    assert relative_error(grad_gates.get(), (grad * x).sum((1, 2))) <= 1e-6


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [16, 21])
@pytest.mark.parametrize("element", ELEMENTS)
def test_scale(xp, rng, element, size, known):
    x = rounded(rng.standard_normal(size), element)
    x[0] = np.nan
    here = xp.asarray(encoded(x, element))
    number = np.array(-1.7, np.float32)
    plan_elementwise.scale(here, number if known else xp.asarray(number), here)
    truth = x * np.float64(np.float32(-1.7))
    np.testing.assert_allclose(decoded(here.get()), truth, ROUNDING[element], 1e-7)


@pytest.mark.parametrize("widths", [(8, 16), (3, 8, 1), (5,)])
@pytest.mark.parametrize("element", ELEMENTS)
def test_move_channels(xp, rng, element, widths):
    """Joined, and taken apart again."""
    parts = [encoded(rng.standard_normal((2, 3, 5, w)), element) for w in widths]
    joined = xp.empty((2, 3, 5, sum(widths)), storage(element))
    places = np.cumsum([0, *widths])
    for part, first in zip(parts, places, strict=False):
        plan_elementwise.move_channels(xp.asarray(part), 0, joined, first, part.shape[3])
    np.testing.assert_array_equal(joined.get(), np.concatenate(parts, 3))
    for part, first in zip(parts, places, strict=False):
        alone = xp.empty(part.shape, storage(element))
        plan_elementwise.move_channels(joined, first, alone, 0, part.shape[3])
        np.testing.assert_array_equal(alone.get(), part)


@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_rows(xp, rng, log):
    x, grad = rng.standard_normal((2, 5, 37)).astype(np.float32)
    y, here = xp.empty(x.shape, np.float32), xp.asarray(grad)
    softmax_forward(xp.asarray(x), y, log)
    share = np.exp(x.astype(np.float64))
    share /= share.sum(1, keepdims=True)
    assert relative_error(y.get(), np.log(share) if log else share) <= 1e-6
    softmax_backward(here, y, here, log)
    behind = grad - share * grad.sum(1, keepdims=True)
    if not log:
        behind = share * (grad - (share * grad).sum(1, keepdims=True))
    assert relative_error(here.get(), behind) <= 1e-6


@pytest.mark.parametrize("element", ELEMENTS)
def test_to_channels_first(xp, rng, element):
    x = rounded(rng.standard_normal((2, 5, 3, 9)), element)
    out = xp.empty((2, 9, 5, 3), np.float32)
    plan_layout.to_channels_first(xp.asarray(encoded(x, element)), out)
    np.testing.assert_array_equal(out.get(), x.transpose(0, 3, 1, 2))


def test_empty_batch(xp):
    maps, rows = xp.empty((0, 4, 4, 8), np.float32), xp.empty((0, 8), np.float32)
    fake_cupy.launched.clear()
    plan_elementwise.relu(maps, maps)
    plan_elementwise.scale(maps, xp.empty((), np.float32), maps)
    plan_elementwise.move_channels(maps, 0, maps, 0, 8)
    plan_elementwise.gate(maps, rows, maps)
    plan_elementwise.gate_grad(maps, maps, rows, maps, rows)
    plan_layout.to_channels_first(maps, xp.empty((0, 128), np.float32))
    softmax_forward(rows, rows, log=False)
    assert fake_cupy.launched == []
