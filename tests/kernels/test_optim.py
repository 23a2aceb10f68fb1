"""Optimizer updates against torch's, step for step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

SHAPES = [(3, 4), (7,), (), (0, 2), (400, 500)]


def start(shape, dtype, order, rng):
    """A parameter and five gradients."""
    values = rng.standard_normal((6, *shape)).astype(dtype)
    first = values[0].T.copy().T if order == "F" else values[0].copy()
    return np.asarray(first), values[1:]


def follow(parameter, grads, make):
    """The parameter after each of torch's steps."""
    leaf = torch.tensor(parameter.copy(order="C"), requires_grad=True)
    optimizer = make([leaf])
    for grad in grads:
        leaf.grad = torch.tensor(grad)
        optimizer.step()
        yield leaf.detach().numpy()


def tolerance(dtype):
    return {"rtol": 1e-12, "atol": 1e-12} if dtype == np.float64 else {"rtol": 2e-5, "atol": 2e-6}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("momentum", "dampening", "decay", "nesterov"),
    [(0, 0, 0, False), (0, 0, 0.1, False), (0.9, 0, 0, False), (0.9, 0.3, 0.1, False),
     (0.9, 0, 0.1, True)],
)  # fmt: skip
def test_sgd(momentum, dampening, decay, nesterov, shape, dtype, order, kernels, rng):
    parameter, grads = start(shape, dtype, order, rng)
    buffer = np.zeros_like(parameter) if momentum else None
    known = follow(
        parameter,
        grads,
        lambda p: torch.optim.SGD(p, 0.1, momentum, dampening, decay, nesterov),
    )
    for step, (grad, expected) in enumerate(zip(grads, known, strict=True)):
        before = grad.copy()
        done = kernels.sgd_update_(
            parameter, grad, buffer, step == 0, 0.1, momentum, dampening, decay, nesterov
        )
        assert done is None
        np.testing.assert_array_equal(grad, before)
        np.testing.assert_allclose(parameter, expected, **tolerance(dtype))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decay", [0, 0.1])
def test_adamw(decay, shape, dtype, order, kernels, rng):
    parameter, grads = start(shape, dtype, order, rng)
    mean, square = np.zeros_like(parameter), np.zeros_like(parameter)
    known = follow(
        parameter,
        grads,
        lambda p: torch.optim.AdamW(p, 0.01, (0.8, 0.99), 1e-6, decay),
    )
    for step, (grad, expected) in enumerate(zip(grads, known, strict=True), 1):
        kernels.adamw_update_(parameter, grad, mean, square, step, 0.01, 0.8, 0.99, 1e-6, decay)
        np.testing.assert_allclose(parameter, expected, **tolerance(dtype))
