"""Batch norm of plans on the host shim, with residual and ReLU, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels import reference
from npresnet_kernels.gpu import plan_norm
from tests.kernels.gpu.plan_arrays import ELEMENTS, ROUNDING, decoded, encoded, rounded, storage
from tests.parity import relative_error
from tests.shim import build, fake_cupy

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++")

EPS = 1e-5
# (N, H, W, C): vectors less and more than a warp's, several chunks of rows, a lone channel
SHAPES = [(2, 3, 5, 8), (7, 5, 5, 24), (1, 3, 3, 272), (3, 7, 9, 1), (2, 5, 3, 37)]


@pytest.fixture
def xp():
    with fake_cupy.installed() as module:
        yield module


def scratch_for(xp, shape):
    rows, channels = int(np.prod(shape[:-1])), shape[-1]
    return xp.empty(plan_norm.norm_scratch_bytes(rows, channels) // 4, np.float32)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_sums(xp, rng, shape, element):
    x = rounded(rng.standard_normal(shape) * 3 + 100, element)
    stored, scratch = xp.asarray(encoded(x, element)), scratch_for(xp, shape)
    total, out = xp.empty(shape[-1], np.float32), xp.empty((2, shape[-1]), np.float32)
    plan_norm.channel_sum(stored, total, scratch)
    assert relative_error(total.get(), x.sum((0, 1, 2))) <= 1e-6
    plan_norm.moments(stored, out, scratch)
    np.testing.assert_allclose(out.get()[0], x.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(out.get()[1], x.var((0, 1, 2)), rtol=1e-5)


def test_running_statistics(xp, rng):
    new, mean, var = rng.random((2, 37)), rng.random(37), rng.random(37)
    here = [xp.asarray(v.astype(np.float32)) for v in (new, mean, var)]
    plan_norm.update_running_(*here, 0.3, 5)
    np.testing.assert_allclose(here[1].get(), 0.7 * mean + 0.3 * new[0], rtol=1e-6)
    np.testing.assert_allclose(here[2].get(), 0.7 * var + 0.3 * new[1] * 5 / 4, rtol=1e-6)


class Problem:
    """Batch norm, residual sum and ReLU in float64."""

    def __init__(self, rng, shape, element, relu, with_residual, affine):
        channels = shape[-1]
        self.relu = relu
        self.x = rounded(rng.standard_normal(shape) * 2 + 1, element)
        self.grad_y = rounded(rng.standard_normal(shape), element)
        self.residual = rounded(rng.standard_normal(shape), element) if with_residual else None
        self.gamma = self.beta = None
        if affine:
            self.gamma, self.beta = rng.standard_normal((2, channels)).astype(np.float32)
        self.mean, self.var = self.x.mean((0, 1, 2)), self.x.var((0, 1, 2))

    def forward(self):
        weight = (self.gamma, self.beta)
        invstd = 1 / np.sqrt(self.var + EPS)
        y = reference.batch_norm(self.x.transpose(0, 3, 1, 2), self.mean, invstd, *weight)
        y = y.transpose(0, 2, 3, 1)
        y = y if self.residual is None else y + self.residual
        return np.maximum(y, 0) if self.relu else y

    def backward(self, y):
        g = np.where(y <= 0, 0, self.grad_y) if self.relu else self.grad_y
        first = (v.transpose(0, 3, 1, 2) for v in (g, self.x))
        invstd = 1 / np.sqrt(self.var + EPS)
        grad_x, *rest = reference.batch_norm_grad(*first, self.mean, invstd, self.gamma, True)
        return grad_x.transpose(0, 2, 3, 1), g, *rest


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(
    ("shape", "relu", "with_residual", "affine"),
    [
        (SHAPES[0], True, True, True),
        (SHAPES[1], True, False, True),
        (SHAPES[2], False, True, False),
        (SHAPES[3], True, True, False),
        (SHAPES[4], True, False, True),
    ],
)
def test_forward_and_backward(xp, rng, shape, relu, with_residual, affine, element):
    problem = Problem(rng, shape, element, relu, with_residual, affine)

    def here(v):
        return None if v is None else xp.asarray(encoded(v, element))

    x, residual, grad_y = map(here, (problem.x, problem.residual, problem.grad_y))
    vectors = [
        None if v is None else xp.asarray(v.astype(np.float32))
        for v in (problem.mean, problem.var, problem.gamma, problem.beta)
    ]
    y = xp.empty(shape, storage(element))
    plan_norm.batch_norm_forward(x, *vectors, y, residual, relu, EPS)
    truth = problem.forward()
    assert relative_error(decoded(y.get()), truth) <= ROUNDING[element] + 1e-6

    # the ReLU's edge as the kernel saw it, lest a value on it counts in one and not in the other
    grad_x, grad_residual, gamma, beta = problem.backward(decoded(y.get()))
    made = [xp.empty(shape[-1], np.float32) for _ in range(2)]
    target = xp.empty(shape, storage(element))
    other = grad_y if with_residual else None  # in place of grad_y
    plan_norm.batch_norm_backward(
        grad_y,
        x,
        *vectors,
        target,
        relu,
        y if with_residual else None,
        other,
        EPS,
        *made,
        scratch_for(xp, shape),
    )
    assert relative_error(decoded(target.get()), grad_x) <= ROUNDING[element] + 4e-6
    assert relative_error(made[0].get(), gamma) <= 4e-6
    assert relative_error(made[1].get(), beta) <= 4e-6
    if other is not None:
        np.testing.assert_array_equal(decoded(other.get()), grad_residual)


def test_a_nan_travels(xp, rng):
    x = rng.standard_normal((1, 2, 2, 4)).astype(np.float32)
    x[0, 1, 1, 2] = np.nan
    ones, y = xp.ones(4, np.float32), xp.empty(x.shape, np.float32)
    plan_norm.batch_norm_forward(xp.asarray(x), ones, ones, None, None, y, None, True)
    np.testing.assert_array_equal(np.isnan(y.get()), np.isnan(x))
    out = xp.empty((2, 4), np.float32)
    plan_norm.moments(xp.asarray(x), out, scratch_for(xp, x.shape))
    np.testing.assert_array_equal(np.isnan(out.get()), [[False, False, True, False]] * 2)


def test_no_rows(xp):
    x, ones = xp.empty((0, 2, 2, 4), np.float32), xp.ones(4, np.float32)
    made, scratch = [xp.ones(4, np.float32) for _ in range(3)], xp.empty(0, np.float32)
    plan_norm.channel_sum(x, made[0], scratch)
    plan_norm.batch_norm_forward(x, ones, ones, None, None, x)
    rest = (x, False, None, None, EPS, *made[1:], scratch)
    plan_norm.batch_norm_backward(x, x, ones, ones, None, None, *rest)
    for total in made:
        np.testing.assert_array_equal(total.get(), 0)
