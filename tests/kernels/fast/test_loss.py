"""Mean cross-entropy of plans on the CPU, against the reference set in float64."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels import reference
from npresnet_kernels.cpu import threads
from npresnet_kernels.cpu.fast.loss import cross_entropy
from tests.parity import relative_error


def run(x, target, scale=1.0, ignore_index=-100, label_smoothing=0.0):
    logits, target = x.astype(np.float32), np.asarray(target, np.int64)
    loss, grad = np.empty(1, np.float32), np.full(x.shape, np.nan, np.float32)
    scratch, factor = np.empty(len(x), np.float32), np.float32([scale])
    settings = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    cross_entropy(logits, target, loss, grad, factor, scratch=scratch, **settings)
    np.testing.assert_array_equal(logits, x.astype(np.float32))
    return float(loss[0]), grad


@pytest.mark.parametrize(("rows", "classes"), [(5, 3), (8, 1000), (300, 33), (1, 1)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient(rng, smoothing, rows, classes):
    x = rng.standard_normal((rows, classes)).astype(np.float32) * 5
    target = rng.integers(0, classes, rows)
    target[1::3] = -7
    losses, p = reference.cross_entropy(x.astype(np.float64), target, None, -7, smoothing)
    kept = (target != -7).sum()
    slopes = np.full(rows, 64 / kept)
    expected = reference.cross_entropy_grad(slopes, p, target, None, -7, smoothing)
    loss, grad = run(x, target, 64.0, -7, smoothing)
    assert loss == pytest.approx(losses.sum() / kept, rel=1e-6, abs=1e-7)
    if classes > 1:
        assert relative_error(grad, expected) <= 1e-6
    else:
        np.testing.assert_array_equal(grad, 0)


def test_a_row_has_the_same_bits_in_any_batch_and_on_any_threads(rng):
    x, target = rng.standard_normal((64, 100)) * 3, rng.integers(0, 100, 64)
    before = threads.get_num_threads()
    try:
        threads.set_num_threads(3)
        _, together = run(x, target, 64.0)
        threads.set_num_threads(1)
        _, alone = run(x[5:6], target[5:6])
    finally:
        threads.set_num_threads(before)
    np.testing.assert_array_equal(together[5], alone[0])


def test_odd_logits_and_targets():
    x = np.array([[1000.0, -1000.0, 0.0], [-np.inf, 2.0, 2.0]])
    loss, grad = run(x, [0, 1])
    assert loss == pytest.approx(np.log(2) / 2)
    np.testing.assert_allclose(grad, [[0, 0, 0], [0, -0.25, 0.25]], atol=1e-12)
    for odd in (np.nan, np.inf):
        x[1, 2] = odd
        loss, grad = run(x, [0, 1])
        assert np.isnan(loss)
        assert np.isnan(grad[1]).any()
        np.testing.assert_allclose(grad[0], 0, atol=1e-12)
    loss, grad = run(x, [-100, -100])
    assert np.isnan(loss)
    np.testing.assert_array_equal(grad, 0)
