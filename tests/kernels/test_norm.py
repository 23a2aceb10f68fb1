"""Batch norm against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.kernels.against_torch import LAYOUTS, assert_agrees, is_channels_last

SHAPES = [(4, 3, 5, 7), (1, 6, 2, 2), (2, 1, 9, 1), (3, 70, 40, 33)]
EPS = 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
def test_training(affine, shape, layout, kernels, rng):
    def ours(x, grad, weight, bias):
        mean, var = kernels.batch_norm_statistics(x)
        invstd = 1 / np.sqrt(var + x.dtype.type(EPS))
        w, b = (weight, bias) if affine else (None, None)
        y = kernels.batch_norm(x, mean, invstd, w, b)
        results = kernels.batch_norm_grad(grad, x, mean, invstd, w, True)
        return [mean, var, y, *(results if affine else results[:1])]

    def theirs(x, grad, weight, bias):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = torch.nn.functional.batch_norm(
            leaves[0], None, None, *(leaves[1:] if affine else (None, None)), True, 0.1, EPS
        )
        y.backward(grad)
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        return [mean, var, y, *(t.grad for t in leaves if t.grad is not None)]

    vectors = rng.standard_normal((2, shape[1]))
    x = 2 * rng.standard_normal(shape) + 0.5
    assert_agrees(ours, theirs, [x, rng.standard_normal(shape), *vectors], layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("affine", [True, False])
def test_evaluation(affine, layout, kernels, rng):
    def ours(x, grad, weight, bias, mean, var):
        invstd = 1 / np.sqrt(var + x.dtype.type(EPS))
        w, b = (weight, bias) if affine else (None, None)
        y = kernels.batch_norm(x, mean, invstd, w, b)
        results = kernels.batch_norm_grad(grad, x, mean, invstd, w, False)
        return [y, *(results if affine else results[:1])]

    def theirs(x, grad, weight, bias, mean, var):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = torch.nn.functional.batch_norm(
            leaves[0], mean, var, *(leaves[1:] if affine else (None, None)), False, 0.1, EPS
        )
        y.backward(grad)
        return [y, *(t.grad for t in leaves if t.grad is not None)]

    shape = (4, 6, 5, 7)
    vectors = [*rng.standard_normal((3, 6)), rng.uniform(0.5, 2, 6)]
    assert_agrees(
        ours, theirs, [rng.standard_normal(shape), rng.standard_normal(shape), *vectors], layout
    )


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_statistics_far_from_zero(offset, kernels, rng):
    x = (offset + rng.standard_normal((8, 3, 40, 40))).astype(np.float32)
    mean, var = kernels.batch_norm_statistics(x)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 2, 3)), rtol=1e-7)
    np.testing.assert_allclose(var, exact.var((0, 2, 3)), rtol=1e-6)


def test_channel_sum(kernels, rng):
    for shape in [(5, 7), (0, 7), (3, 7, 4, 5), (0, 7, 2, 2)]:
        x = rng.standard_normal(shape).astype(np.float32)
        known = x.sum((0, *range(2, x.ndim)), dtype=np.float64)
        np.testing.assert_allclose(kernels.channel_sum(x), known, rtol=1e-6, atol=1e-6)
        assert kernels.channel_sum(x).dtype == np.float32


def test_memory_and_empty_batch(kernels):
    for images in (0, 2):
        x = np.ones((images, 3, 4, 4), np.float32)
        mean, var = kernels.batch_norm_statistics(x)
        assert mean.tolist() == [float(images > 0)] * 3
        assert var.tolist() == [0.0] * 3
        y = kernels.batch_norm(x, mean, var + 1, None, None)
        dx, dw, db = kernels.batch_norm_grad(x, x, mean, var + 1, None, True)
        assert y.shape == dx.shape == x.shape
        assert dw.shape == db.shape == (3,)
        assert is_channels_last(y)
        assert is_channels_last(dx)
