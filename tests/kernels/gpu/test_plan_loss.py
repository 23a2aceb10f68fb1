"""Mean cross-entropy of plans on the host shim, against the reference set in float64."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels import reference
from npresnet_kernels.gpu import plan_loss
from tests.parity import relative_error
from tests.shim import build, fake_cupy

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++")


@pytest.fixture
def xp():
    with fake_cupy.installed() as module:
        yield module


def run(xp, x, target, scale=None, ignore_index=-100, smoothing=0.0):
    loss, grad = xp.empty(1, np.float32), xp.empty(x.shape, np.float32)
    scratch = xp.empty(len(x), np.float32)
    scale = None if scale is None else xp.asarray(np.float32([scale]))
    given = (xp.asarray(x.astype(np.float32)), xp.asarray(target))
    plan_loss.cross_entropy(*given, loss, grad, scale, ignore_index, smoothing, scratch)
    return float(loss[0]), grad.get()


@pytest.mark.parametrize("integer", [np.int64, np.int32])
@pytest.mark.parametrize(("rows", "classes"), [(5, 3), (3, 1000), (300, 33)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient(xp, rng, smoothing, rows, classes, integer):
    x = rng.standard_normal((rows, classes)).astype(np.float32) * 5
    target = rng.integers(0, classes, rows).astype(integer)
    target[::3] = 2
    exact, rule = x.astype(np.float64), (None, 2, smoothing)
    losses, p = reference.cross_entropy(exact, target, *rule)
    kept = (target != 2).sum()
    expected = reference.cross_entropy_grad(np.full(rows, 64 / kept), p, target, *rule)
    loss, grad = run(xp, x, target, 64.0, 2, smoothing)
    assert loss == pytest.approx(losses.sum() / kept, rel=1e-6)
    assert relative_error(grad, expected) <= 1e-6


def test_odd_logits_and_targets(xp):
    x = np.array([[1000.0, -1000.0, 0.0], [-np.inf, 2.0, 2.0]])
    loss, grad = run(xp, x, np.array([0, 1]))
    assert loss == pytest.approx(np.log(2) / 2)
    np.testing.assert_allclose(grad, [[0, 0, 0], [0, -0.25, 0.25]], atol=1e-12)
    for wrong in (3, -1, 1 << 30):
        loss, grad = run(xp, x, np.array([0, wrong]))
        assert np.isnan(loss)
        assert np.isnan(grad[1]).all()
        np.testing.assert_array_equal(grad[0], 0)
    loss, grad = run(xp, x, np.array([-100, -100]))
    assert np.isnan(loss)
    np.testing.assert_array_equal(grad, 0)
