"""ReLU, the residual sum, softmax and linear layers against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.kernels.against_torch import LAYOUTS, arrange, assert_agrees, is_channels_last


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (0, 5, 3, 7), (4, 6), (3,), (2, 3, 4)])
def test_relu_and_add(shape, layout, kernels, rng):
    def ours(x, grad):
        y = kernels.relu(x)
        return [y, kernels.relu_grad(grad, y), kernels.add(x, grad)]

    def theirs(x, grad):
        leaf = x.clone().requires_grad_()
        y = torch.relu(leaf)
        y.backward(grad)
        return [y, leaf.grad, x + grad]

    assert_agrees(ours, theirs, [rng.standard_normal(shape), rng.standard_normal(shape)], layout)


def test_relu_of_odd_values(kernels):
    x = np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0]])
    y = kernels.relu(x)
    np.testing.assert_array_equal(y, [[np.nan, np.inf, 0, 0, 0]])
    grad = np.full_like(x, np.inf)
    np.testing.assert_array_equal(kernels.relu_grad(grad, y), [[np.inf, np.inf, 0, 0, 0]])


def test_four_axes_come_back_channels_last(kernels, rng):
    x = rng.standard_normal((2, 3, 4, 5))
    for y in (kernels.relu(x), kernels.relu_grad(x, x), kernels.add(x, arrange(x, "nhwc"))):
        assert is_channels_last(y)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 10), 1), ((4, 10), 0), ((2, 3, 4, 5), 1), ((5,), 0), ((0, 3), 1)]
)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, shape, axis, layout, kernels, rng):
    def ours(x, grad):
        y = getattr(kernels, name)(x, axis)
        return [y, getattr(kernels, f"{name}_grad")(grad, y, axis)]

    def theirs(x, grad):
        leaf = x.clone().requires_grad_()
        y = getattr(torch, name)(leaf, axis)
        y.backward(grad)
        return [y, leaf.grad]

    assert_agrees(
        ours, theirs, [3 * rng.standard_normal(shape), rng.standard_normal(shape)], layout
    )


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_odd_values(name, kernels):
    x = np.array([[1e4, 0, -1e4], [np.inf, 0, 1], [np.nan, 0, 1], [-np.inf, 0, 1], [-np.inf] * 3])
    known = getattr(torch, name)(torch.tensor(x), 1).numpy()
    np.testing.assert_allclose(getattr(kernels, name)(x, 1), known, rtol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_linear(rows, layout, kernels, rng):
    def ours(x, weight, bias, grad):
        return [
            kernels.linear(x, weight, bias),
            kernels.linear(x, weight, None),
            kernels.linear_grad_input(grad, weight),
            kernels.linear_grad_weight(grad, x),
        ]

    def theirs(x, weight, bias, grad):
        return [x @ weight.T + bias, x @ weight.T, grad @ weight, grad.T @ x]

    shapes = ((rows, 6), (4, 6), (4,), (rows, 4))
    assert_agrees(ours, theirs, [rng.standard_normal(s) for s in shapes], layout)
