"""Pools and batch norm against NumPy in float64."""

import numpy as np
import pytest

from npresnet_kernels.cpu import threads as pool
from npresnet_kernels.cpu.fast import elementwise
from npresnet_kernels.cpu.fast.norm import (
    batch_norm_backward,
    batch_norm_forward,
    channel_sum,
    moments,
    update_running_,
)
from npresnet_kernels.cpu.fast.pool import (
    average_pool_backward,
    average_pool_forward,
    max_pool_backward,
    max_pool_forward,
)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pooled(x, size, stride, padding):
    """Return the windows' maxima and winners (first, NaN wins), and a gradient function."""
    around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(x, around, constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    windows = windows[:, ::stride, ::stride].reshape(*windows[:, ::stride, ::stride].shape[:4], -1)
    winners = np.argmax(np.where(np.isnan(windows), np.inf, windows), axis=-1)
    return np.take_along_axis(windows, winners[..., None], -1)[..., 0], winners


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((2, 9, 8, 17), (3, 2, 1)),
        ((2, 7, 7, 64), (3, 2, 1)),
        ((1, 5, 5, 3), (2, 2, 0)),
        ((1, 6, 9, 16), (3, 1, 1)),
    ],
)
def test_max_pool(shape, window):
    x = np.round(draw(*shape) * 2) / 2  # full of ties
    x[0, 2, 2, 0] = np.nan
    y_true, winners_true = pooled(x, *window)
    y, y_only = np.empty_like(y_true), np.empty_like(y_true)
    winners = np.empty(y.shape, dtype=np.uint8)
    max_pool_forward(x, y, winners, *window)
    max_pool_forward(x, y_only, None, *window)
    np.testing.assert_array_equal(y, y_true)
    np.testing.assert_array_equal(y_only, y_true)
    np.testing.assert_array_equal(winners, winners_true)

    size, stride, padding = window
    grad_y = draw(*y.shape, seed=1)
    grad_x = np.full_like(x, np.nan)
    max_pool_backward(grad_y, winners, grad_x, *window)
    truth = np.zeros(shape)
    for n, p, q, c in np.ndindex(*y.shape):
        r, s = divmod(int(winners[n, p, q, c]), size)
        truth[n, p * stride - padding + r, q * stride - padding + s, c] += grad_y[n, p, q, c]
    np.testing.assert_allclose(grad_x, truth, atol=1e-6)


def test_average_pool():
    x, grad = draw(2, 7, 5, 17), draw(2, 17, seed=1)
    y, grad_x = np.empty((2, 17), dtype=np.float32), np.empty_like(x)
    average_pool_forward(x, y)
    np.testing.assert_allclose(y, x.astype(np.float64).mean((1, 2)), atol=1e-6)
    average_pool_backward(grad, grad_x)
    np.testing.assert_allclose(
        grad_x, np.broadcast_to(grad[:, None, None] / 35, x.shape), rtol=1e-6
    )


@pytest.mark.parametrize("channels", [3, 17, 64, 150])
@pytest.mark.parametrize(
    ("relu", "residual"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_batch_norm(channels, relu, residual):
    shape = (3, 9, 7, channels)
    x = draw(*shape) * 2 + 30
    other = draw(*shape, seed=1) if residual else None
    grad_y = draw(*shape, seed=2)
    gamma, beta = draw(channels, seed=3), draw(channels, seed=4)
    count = x.size // channels
    mean, variance = moments(x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(variance, wide.var((0, 1, 2)), rtol=1e-9)

    normal = (wide - mean) / np.sqrt(variance + 1e-5)
    truth = normal * gamma + beta + (0 if other is None else other)
    truth = np.maximum(truth, 0) if relu else truth
    y = np.empty_like(x)
    batch_norm_forward(x, mean, variance, gamma, beta, y, other, relu)
    np.testing.assert_allclose(y, truth, atol=3e-6)

    gated = np.where(y > 0, grad_y, 0).astype(np.float64) if relu else grad_y.astype(np.float64)
    grad_gamma_true, grad_beta_true = (gated * normal).sum((0, 1, 2)), gated.sum((0, 1, 2))
    slope = gamma / np.sqrt(variance + 1e-5)
    grad_true = slope * (gated - (grad_beta_true + normal * grad_gamma_true) / count)
    gate = y if relu and residual else None
    for wants_residual in (residual, False):
        # once into memory of its own, once over grad_y, as plans do
        for in_place in (False, True):
            given = grad_y.copy()
            free = given if in_place else np.full_like(x, np.nan)
            grad_residual = free if wants_residual else None
            grad_x = np.full_like(x, np.nan) if wants_residual else free
            grads = batch_norm_backward(
                given, x, mean, variance, gamma, beta, grad_x, relu, gate, grad_residual
            )
            np.testing.assert_allclose(grad_x, grad_true, atol=3e-6)
            np.testing.assert_allclose(grads[0], grad_gamma_true, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(grads[1], grad_beta_true, rtol=1e-5, atol=1e-5)
            if wants_residual:
                np.testing.assert_array_equal(grad_residual, gated.astype(np.float32))


def test_moments_far_from_zero():
    """A mean of ten thousand deviations costs no digits."""
    x = draw(4, 20, 20, 24) + np.float32(1e4)
    wide = x.astype(np.float64)
    mean, variance = moments(x)
    np.testing.assert_allclose(mean, wide.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(variance, wide.var((0, 1, 2)), rtol=1e-6)


def test_norm_has_the_same_bits_on_any_threads():
    x, grad = draw(4, 40, 40, 64), draw(4, 40, 40, 64, seed=1)
    gamma, beta = draw(64, seed=2), draw(64, seed=3)

    def results():
        found = moments(x)
        grad_x = np.empty_like(x)
        grads = batch_norm_backward(grad, x, *found, gamma, beta, grad_x, relu=True)
        return [found, grad_x, *grads]

    before = pool.get_num_threads()
    try:
        pool.set_num_threads(1)
        alone = results()
        pool.set_num_threads(3)
        together = results()
    finally:
        pool.set_num_threads(before)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("residual", [True, False])
def test_a_relu_of_nan_lets_its_gradient_pass(residual):
    """As torch's, whose ReLU stops gradients where y <= 0."""
    x, grad = draw(1, 4, 4, 17), draw(1, 4, 4, 17, seed=1)
    gamma, beta = np.ones(17, dtype=np.float32), np.full(17, np.nan, dtype=np.float32)
    mean, variance = np.zeros(17), np.ones(17)
    y = np.full_like(x, np.nan)
    _, grad_beta = batch_norm_backward(
        grad, x, mean, variance, gamma, beta, np.empty_like(x), True, y if residual else None
    )
    np.testing.assert_allclose(grad_beta, grad.sum((0, 1, 2)), rtol=1e-5, atol=1e-5)


def test_nan_travels_through_norm():
    x = draw(1, 4, 4, 17)
    x[0, 1, 1, 3] = np.nan
    y = np.empty_like(x)
    zeros, ones = np.zeros(17, dtype=np.float32), np.ones(17, dtype=np.float32)
    batch_norm_forward(x, zeros, ones, ones, zeros, y, relu=True)
    assert np.isnan(y[0, 1, 1, 3])
    assert np.isnan(y).sum() == 1


@pytest.mark.parametrize("shape", [(3, 9, 7, 17), (5, 64), (1, 1), (2000, 150)])
def test_channel_sum(shape):
    x = draw(*shape) + 3
    out = np.full(shape[-1], np.nan, np.float32)
    channel_sum(x, out)
    axes = tuple(range(len(shape) - 1))
    np.testing.assert_array_equal(out, x.sum(axes, dtype=np.float64).astype(np.float32))


def test_running_statistics():
    found = np.stack([draw(17).astype(np.float64), draw(17, seed=1) ** 2])
    mean, var = draw(17, seed=2), draw(17, seed=3) ** 2
    before = mean.astype(np.float64), var.astype(np.float64)
    update_running_(found, mean, var, 0.3, 5)
    np.testing.assert_allclose(mean, 0.7 * before[0] + 0.3 * found[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(var, 0.7 * before[1] + 0.3 * 5 / 4 * found[1], rtol=1e-6)


@pytest.mark.parametrize("size", [0, 1, 17, 100_001])
def test_copies_and_sums(size):
    x, other = draw(size), draw(size, seed=1)
    out = np.full_like(x, np.nan)
    elementwise.write(x, out)
    np.testing.assert_array_equal(out, x)
    elementwise.write(out, out, other)
    np.testing.assert_array_equal(out, x + other)
