"""Convolution against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from npresnet_kernels.shapes import conv_output_size
from tests.kernels.against_torch import LAYOUTS, arrange, assert_agrees, is_channels_last

# name: x shape, output channels, kernel size, stride, padding, dilation, groups
CASES = {
    "3x3": ((2, 4, 7, 9), 5, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "stem": ((2, 3, 17, 15), 4, (7, 7), (2, 2), (3, 3), (1, 1), 1),
    "1x1": ((3, 4, 5, 5), 6, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "1x1 stride 2": ((2, 4, 7, 6), 6, (1, 1), (2, 2), (0, 0), (1, 1), 1),
    "1x1 groups": ((2, 4, 3, 5), 6, (1, 1), (1, 1), (0, 0), (1, 1), 2),
    "1x1 padded": ((2, 4, 3, 5), 6, (1, 1), (1, 1), (1, 2), (1, 1), 1),
    "3x3 stride 2": ((2, 4, 8, 9), 6, (3, 3), (2, 2), (1, 1), (1, 1), 1),
    "uneven": ((2, 4, 9, 8), 6, (2, 5), (2, 1), (1, 2), (1, 2), 2),
    "dilated": ((2, 3, 11, 12), 4, (3, 3), (1, 1), (2, 2), (2, 3), 1),
    "dilated and strided": ((2, 4, 9, 9), 4, (3, 3), (4, 3), (2, 1), (3, 2), 1),
    "dilation 2, stride 2": ((2, 4, 9, 9), 4, (3, 3), (2, 2), (2, 2), (2, 2), 1),
    "depthwise": ((2, 5, 6, 6), 10, (3, 3), (2, 2), (1, 1), (1, 1), 5),
    "skips pixels": ((1, 2, 10, 9), 3, (2, 2), (3, 3), (0, 0), (1, 1), 1),
    "one pixel": ((3, 8, 1, 1), 6, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "two pixels": ((3, 8, 2, 2), 6, (3, 3), (2, 2), (1, 1), (1, 1), 1),
    "mostly padding": ((1, 2, 1, 2), 3, (3, 3), (2, 2), (4, 3), (1, 1), 1),
    "one of all": ((1, 1, 3, 3), 1, (3, 3), (1, 1), (0, 0), (1, 1), 1),
    "many rows": ((9, 3, 24, 25), 8, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "deep": ((2, 160, 5, 5), 70, (3, 3), (1, 1), (1, 1), (1, 1), 1),
}


def draw(case, rng):
    """Random x, weight, bias and grad_output."""
    shape, outs, kernel, stride, padding, dilation, groups = case
    size = conv_output_size(shape[2:], kernel, stride, padding, dilation)
    shapes = (shape, (outs, shape[1] // groups, *kernel), (outs,), (shape[0], outs, *size))
    return [rng.standard_normal(s) for s in shapes]


def all_of(kernels, x, weight, bias, grad, *, options):
    """Output and the three gradients."""
    stride, padding, dilation, groups = options
    return [
        kernels.conv2d(x, weight, bias, *options),
        kernels.conv2d_grad_input(grad, weight, x.shape, *options),
        kernels.conv2d_grad_weight(grad, x, weight.shape[2:], stride, padding, dilation, groups),
        kernels.channel_sum(grad),
    ]


def torch_of(x, weight, bias, grad, *, options):
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = torch.nn.functional.conv2d(*leaves, *options)
    y.backward(grad)
    return [y, *(t.grad for t in leaves)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_against_torch(case, layout, kernels, rng):
    options = CASES[case][3:]
    assert_agrees(
        lambda *a: all_of(kernels, *a, options=options),
        lambda *a: torch_of(*a, options=options),
        draw(CASES[case], rng),
        layout,
    )


def test_results_are_channels_last(kernels, rng):
    case = CASES["3x3"]
    y, dx, dw, _ = all_of(kernels, *draw(case, rng), options=case[3:])
    assert is_channels_last(y)
    assert is_channels_last(dx)
    assert dw.flags.c_contiguous


def test_without_bias(kernels, rng):
    case = CASES["uneven"]
    x, weight, bias, _ = draw(case, rng)
    y = kernels.conv2d(x, weight, None, *case[3:])
    np.testing.assert_allclose(
        y + bias.reshape(-1, 1, 1), kernels.conv2d(x, weight, bias, *case[3:]), rtol=1e-12
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_empty_batch(dtype, kernels):
    x, grad = np.zeros((0, 4, 5, 5), dtype), np.zeros((0, 6, 5, 5), dtype)
    weight, bias = np.ones((6, 4, 3, 3), dtype), np.ones(6, dtype)
    y, dx, dw, db = all_of(kernels, x, weight, bias, grad, options=((1, 1), (1, 1), (1, 1), 1))
    assert (y.shape, dx.shape) == (grad.shape, x.shape)
    assert not dw.any()
    assert not db.any()
    assert kernels.im2col(x, (3, 3), (1, 1), (1, 1), (1, 1)).shape == (0, 36)


def test_col2im_against_torch(kernels, rng):
    window = ((3, 2), (2, 1), (1, 1), (1, 2))
    columns = rng.standard_normal((2 * 4 * 6, 6 * 5))
    ours = kernels.col2im(columns, (2, 5, 7, 6), *window)
    folded = torch.tensor(columns.reshape(2, 24, 6, 5).transpose(0, 3, 2, 1).reshape(2, 30, 24))
    theirs = torch.nn.functional.fold(folded, (7, 6), (3, 2), (1, 2), (1, 1), (2, 1))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 4])
def test_an_image_keeps_its_result_in_any_batch(groups, kernels, rng):
    x = arrange(rng.standard_normal((6, 16, 9, 9)).astype(np.float32), "nhwc")
    weight = rng.standard_normal((8, 16 // groups, 3, 3)).astype(np.float32)
    options = ((1, 1), (1, 1), (1, 1), groups)
    together = kernels.conv2d(x, weight, None, *options)
    alone = kernels.conv2d(x[3:4], weight, None, *options)
    np.testing.assert_allclose(together[3:4], alone, rtol=1e-5, atol=1e-5)
