"""Cross-entropy against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.kernels.against_torch import LAYOUTS, assert_agrees


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [-100, 2])
def test_against_torch(ignored, weighted, smoothing, rows, layout, kernels, rng):
    def ours(x, target, weight, grad):
        options = (weight if weighted else None, ignored, smoothing)
        loss, p = kernels.cross_entropy(x, target, *options)
        return [loss, p, kernels.cross_entropy_grad(grad, p, target, *options)]

    def theirs(x, target, weight, grad):
        leaf = x.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(
            leaf, target, weight if weighted else None, None, ignored, None, "none", smoothing
        )
        loss.backward(grad)
        return [loss, torch.log_softmax(x, 1), leaf.grad]

    target = rng.integers(0, 5, rows)
    if rows and ignored < 0:
        target[0] = ignored
    inputs = [rng.standard_normal((rows, 5)), target, rng.uniform(0.5, 2, 5)]
    assert_agrees(ours, theirs, [*inputs, rng.standard_normal(rows)], layout)


def test_logits_far_apart(kernels):
    x = np.array([[1e4, 0.0], [1e4, 0.0], [0.0, -np.inf]])
    target = np.array([0, 1, 0])
    loss, p = kernels.cross_entropy(x, target, None, -100, 0.0)
    np.testing.assert_array_equal(loss, [0, 1e4, 0])
    grad = kernels.cross_entropy_grad(np.ones(3), p, target, None, -100, 0.0)
    np.testing.assert_array_equal(grad, [[0, 0], [1, -1], [0, 0]])
