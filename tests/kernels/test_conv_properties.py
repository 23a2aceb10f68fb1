"""Convolution of any small shape: against a brute-force sum, and its algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npresnet_kernels.shapes import conv_output_size
from tests.kernels.against_torch import is_channels_last
from tests.kernels.sets import SETS
from tests.kernels.test_conv import draw as draw_problem


def brute_force(x, weight, stride, padding, dilation, groups):
    """Seven loops."""
    images, channels, height, width = x.shape
    outs, depth, kernel_h, kernel_w = weight.shape
    p, q = conv_output_size((height, width), (kernel_h, kernel_w), stride, padding, dilation)
    y = np.zeros((images, outs, p, q))
    for n, o, a, b in np.ndindex(*y.shape):
        first = o // (outs // groups) * (channels // groups)
        for c, i, j in np.ndindex(depth, kernel_h, kernel_w):
            h = a * stride[0] - padding[0] + i * dilation[0]
            w = b * stride[1] - padding[1] + j * dilation[1]
            if 0 <= h < height and 0 <= w < width:
                y[n, o, a, b] += x[n, first + c, h, w] * weight[o, c, i, j]
    return y


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def problems(draw):
    """Any small convolution that has an output pixel."""
    groups = draw(st.integers(1, 3))
    kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    size = tuple(
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 4))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    shape = (draw(st.integers(1, 2)), groups * draw(st.integers(1, 2)), *size)
    return shape, groups * draw(st.integers(1, 2)), kernel, stride, padding, dilation, groups


@pytest.mark.parametrize("kernels", SETS.values(), ids=SETS)
@settings(max_examples=60, deadline=None)
@given(case=problems())
def test_against_brute_force_and_adjoint(kernels, case):
    rng = np.random.default_rng(0)
    options = case[3:]
    x, weight, _, grad = draw_problem(case, rng)
    y = kernels.conv2d(x, weight, None, *options)
    np.testing.assert_allclose(y, brute_force(x, weight, *options), rtol=1e-11, atol=1e-11)
    # the gradients are the adjoints of the map from x, and of the map from the weight
    inner = np.vdot(y, grad)
    dx = kernels.conv2d_grad_input(grad, weight, x.shape, *options)
    dw = kernels.conv2d_grad_weight(grad, x, weight.shape[2:], *options)
    np.testing.assert_allclose([np.vdot(x, dx), np.vdot(weight, dw)], inner, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kernels", SETS.values(), ids=SETS)
@settings(max_examples=40, deadline=None)
@given(case=problems(), data=st.data())
def test_columns(kernels, case, data):
    rng = np.random.default_rng(0)
    shape, _, *window, _ = case
    x = rng.standard_normal(shape)
    columns = kernels.im2col(x, *window)
    kernel, stride, padding, dilation = window
    p, q = conv_output_size(shape[2:], *window)
    assert columns.shape == (shape[0] * p * q, kernel[0] * kernel[1] * shape[1])
    assert columns.flags.c_contiguous
    unfolded = torch.nn.functional.unfold(torch.tensor(x), kernel, dilation, padding, stride)
    expected = unfolded.numpy().reshape(shape[0], shape[1], -1, p * q).transpose(0, 3, 2, 1)
    np.testing.assert_array_equal(columns, expected.reshape(columns.shape))
    start = data.draw(st.integers(0, len(columns)))
    stop = data.draw(st.integers(start, len(columns)))
    np.testing.assert_array_equal(kernels.im2col(x, *window, start, stop), columns[start:stop])
    other = rng.standard_normal(columns.shape)
    back = kernels.col2im(other, shape, *window)
    assert back.shape == shape
    assert is_channels_last(back)
    np.testing.assert_allclose(np.vdot(columns, other), np.vdot(x, back), rtol=1e-9, atol=1e-9)
