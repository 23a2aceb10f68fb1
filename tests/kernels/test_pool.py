"""Pooling against torch and against loops, odd values included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.kernels.against_torch import LAYOUTS, assert_agrees, is_channels_last

# name: size, kernel size, stride, padding, dilation, ceil_mode
MAX = {
    "stem": ((9, 11), (3, 3), (2, 2), (1, 1), (1, 1), False),
    "2x2": ((8, 8), (2, 2), (2, 2), (0, 0), (1, 1), False),
    "ceil": ((7, 8), (3, 2), (2, 3), (1, 1), (1, 1), True),
    "overlap": ((6, 5), (3, 3), (1, 1), (1, 1), (1, 1), False),
    "dilated": ((9, 9), (3, 2), (2, 1), (1, 1), (2, 3), True),
    "whole": ((3, 4), (3, 4), (1, 1), (0, 0), (1, 1), False),
    "one pixel": ((1, 1), (1, 1), (1, 1), (0, 0), (1, 1), False),
}

# name: size, kernel size, stride, padding, ceil_mode, count_include_pad, divisor_override
AVERAGE = {
    "2x2": ((8, 6), (2, 2), (2, 2), (0, 0), False, True, None),
    "padded": ((7, 7), (3, 3), (2, 2), (1, 1), False, True, None),
    "padding not counted": ((7, 7), (3, 3), (2, 2), (1, 1), False, False, None),
    "ceil": ((7, 8), (3, 2), (2, 3), (1, 1), True, True, None),
    "ceil, not counted": ((7, 8), (3, 2), (2, 3), (1, 1), True, False, None),
    "divisor": ((7, 8), (3, 2), (2, 3), (1, 1), True, False, 5),
    "gaps": ((9, 9), (2, 2), (3, 4), (0, 0), False, True, None),
    "overlap": ((5, 6), (4, 3), (1, 1), (2, 1), False, False, None),
}


def torch_with_grad(function):
    def run(x, grad):
        x = x.clone().requires_grad_()
        y = function(x)
        y.backward(grad)
        return [y, x.grad]

    return run


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", MAX)
def test_max(case, layout, images, kernels, rng):
    size, *window, ceil_mode = MAX[case]
    x = rng.standard_normal((images, 5, *size))
    shape = F.max_pool2d(torch.tensor(x), *window, ceil_mode).shape

    def ours(x, grad):
        y, indices = kernels.max_pool2d(x, *window, ceil_mode)
        return [y, kernels.max_pool2d_grad(grad, indices, x.shape, *window), indices]

    def theirs(x, grad):
        known = torch_with_grad(lambda t: F.max_pool2d(t, *window, ceil_mode))(x, grad)
        return [*known, F.max_pool2d_with_indices(x, *window, ceil_mode=ceil_mode)[1]]

    assert_agrees(ours, theirs, [x, rng.standard_normal(tuple(shape))], layout)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", MAX)
def test_max_of_odd_values(case, dtype, kernels, rng):
    """Ties, NaN and infinities: values and indices exactly torch's."""
    size, *window, ceil_mode = MAX[case]
    values = np.array([-np.inf, -1, 0, -0.0, 1, 1, np.inf, np.nan], dtype)
    for pool in (values, values[:1], values[:5], values[-1:]):
        x = rng.choice(pool, (4, 3, *size)).astype(dtype)
        y, indices = kernels.max_pool2d(x, *window, ceil_mode)
        known, places = F.max_pool2d_with_indices(torch.from_numpy(x), *window, ceil_mode=ceil_mode)
        np.testing.assert_array_equal(y, known.numpy())
        np.testing.assert_array_equal(indices, places.numpy())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", AVERAGE)
def test_average(case, layout, kernels, rng):
    size, *window = AVERAGE[case]
    x = rng.standard_normal((2, 5, *size))
    shape = F.avg_pool2d(torch.tensor(x), *window).shape
    assert_agrees(
        lambda x, grad: [
            kernels.avg_pool2d(x, *window),
            kernels.avg_pool2d_grad(grad, x.shape, *window),
        ],
        torch_with_grad(lambda x: F.avg_pool2d(x, *window)),
        [x, rng.standard_normal(tuple(shape))],
        layout,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(7, 7), (5, 9), (2, 3), (1, 1)])
@pytest.mark.parametrize("out", [(1, 1), (3, 4), (7, 7)])
def test_adaptive(out, size, layout, kernels, rng):
    assert_agrees(
        lambda x, grad: [
            kernels.adaptive_avg_pool2d(x, out),
            kernels.adaptive_avg_pool2d_grad(grad, x.shape),
        ],
        torch_with_grad(lambda x: F.adaptive_avg_pool2d(x, out)),
        [rng.standard_normal((2, 5, *size)), rng.standard_normal((2, 5, *out))],
        layout,
    )


def test_infinities_stay_in_their_windows(kernels):
    x = np.ones((1, 1, 4, 4))
    x[0, 0, 0, 0] = np.inf
    y = kernels.avg_pool2d(x, (2, 2), (2, 2), (0, 0), False, True, None)
    np.testing.assert_array_equal(y, [[[[np.inf, 1], [1, 1]]]])


def test_large_window_is_summed_accurately(kernels, rng):
    x = (1000 + rng.standard_normal((1, 3, 64, 64))).astype(np.float32)
    y = kernels.adaptive_avg_pool2d(x, (1, 1))
    np.testing.assert_allclose(y[0, :, 0, 0], x.mean((0, 2, 3), dtype=np.float64), rtol=1.2e-7)


def test_memory_and_empty_batch(kernels):
    window = ((3, 3), (2, 2), (1, 1), (1, 1))
    for images in (0, 2):
        x = np.ones((images, 4, 6, 6), np.float32)
        y, indices = kernels.max_pool2d(x, *window, False)
        mean = kernels.avg_pool2d(x, *window[:3], False, True, None)
        results = [
            y,
            indices,
            kernels.max_pool2d_grad(y, indices, x.shape, *window),
            mean,
            kernels.avg_pool2d_grad(mean, x.shape, *window[:3], False, True, None),
            kernels.adaptive_avg_pool2d(x, (2, 2)),
            kernels.adaptive_avg_pool2d_grad(x, (images, 4, 9, 9)),
        ]
        assert indices.dtype == np.int64
        for result in results:
            assert len(result) == images
            assert is_channels_last(result)
