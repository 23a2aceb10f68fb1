"""Optimizer steps of plans on the host shim, against the reference set: many tensors a launch."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels import reference
from npresnet_kernels.gpu import plan_optim
from npresnet_kernels.gpu.errors import DeviceError
from tests.shim import build, fake_cupy

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++")

# one element, less than a chunk, a whole one, one more; a matrix; nothing
SHAPES = [(1,), (77,), (plan_optim.CHUNK,), (plan_optim.CHUNK + 1,), (7, 5), (0,)]


@pytest.fixture
def xp():
    with fake_cupy.installed() as module:
        yield module


def made(rng, columns):
    """A column of float32 arrays for each role."""
    return [[rng.standard_normal(s).astype(np.float32) for s in SHAPES] for _ in range(columns)]


class Steps:
    """Some steps on the device, with a loss scale of 8, and the same in float64."""

    def __init__(self, xp, parameters, states):
        self.xp = xp
        self.exact = [[a.astype(np.float64) for a in column] for column in (parameters, *states)]
        self.here = [[xp.asarray(a) for a in column] for column in (parameters, *states)]
        self.grads = [xp.empty(s, np.float32) for s in SHAPES]
        self.table = plan_optim.update_table(self.here[0], self.grads, *self.here[1:])
        self.clock = xp.asarray(np.array([0.05, 0.0]))
        self.scaling = xp.asarray(np.array([8, 1 / 8, 0], np.float32))

    def take(self, rng, update, exact_update, bad=None):
        for i, grad in enumerate(self.grads):
            new = rng.standard_normal(grad.shape).astype(np.float32)
            if bad is not None and grad.size:
                new.flat[-1] = bad
            elif bad is None:
                exact_update(i, new.astype(np.float64), *(column[i] for column in self.exact))
            grad[...] = self.xp.asarray(new * 8)
        plan_optim.all_finite([self.table], self.scaling)
        update(self.table, self.clock, self.scaling)
        plan_optim.count_step_(self.clock, self.scaling)
        assert float(self.scaling[2]) == (bad is None)

    def assert_same(self, steps):
        for here, exact in zip(self.here, self.exact, strict=True):
            for a, b in zip(here, exact, strict=True):
                np.testing.assert_allclose(a.get(), b, rtol=2e-5, atol=2e-6)
        assert float(self.clock[1]) == steps


@pytest.mark.parametrize(
    ("momentum", "dampening", "decay", "nesterov"),
    [(0.0, 0.0, 0.0, False), (0.9, 0.25, 0.01, False), (0.9, 0.0, 0.1, True)],
)
def test_sgd(xp, rng, momentum, dampening, decay, nesterov):
    parameters, *states = made(rng, 2 if momentum else 1)
    steps = Steps(xp, parameters, states)
    rule = (momentum, dampening, decay, nesterov)
    taken = []

    def exact(i, grad, parameter, buffer=None):
        first = len(taken) == 0
        reference.sgd_update_(parameter, grad, buffer, first, 0.05, *rule)

    for bad in (np.nan, None, np.inf, None, -np.inf):  # the first that counts comes second
        steps.take(rng, lambda *a: plan_optim.sgd_step_(*a, *rule), exact, bad)
        taken += [bad] if bad is None else []
    steps.assert_same(2)


def test_adamw(xp, rng):
    parameters, mean, square = made(rng, 3)
    steps = Steps(xp, parameters, [mean, [np.abs(v) for v in square]])
    rule = (0.9, 0.99, 1e-6, 0.1)
    taken = []

    def exact(i, grad, *arrays):
        parameter, exp_avg, exp_avg_sq = arrays
        number = len(taken) + 1
        reference.adamw_update_(parameter, grad, exp_avg, exp_avg_sq, number, 0.05, *rule)

    for bad in (None, np.inf, None):
        steps.take(rng, lambda *a: plan_optim.adamw_step_(*a, *rule), exact, bad)
        taken += [bad] if bad is None else []
    steps.assert_same(2)


def test_without_scaling_nothing_is_looked_at(xp, rng):
    parameter, grad = xp.asarray(np.ones(3, np.float32)), xp.asarray(np.float32([2, np.nan, 4]))
    clock = xp.asarray(np.array([0.5, 7.0]))
    table = plan_optim.update_table([parameter], [grad])
    plan_optim.sgd_step_(table, clock, None, 0.0, 0.0, 0.0, False)
    plan_optim.count_step_(clock, None)
    np.testing.assert_array_equal(parameter.get(), [0, np.nan, -1])
    assert float(clock[1]) == 8


@pytest.mark.parametrize("loss", [1.5, np.nan, np.inf])
def test_a_loss_counts_where_it_is_given(xp, loss):
    scaling = xp.zeros(3, np.float32)
    plan_optim.all_finite([], scaling, xp.asarray(np.float32([loss])))
    assert float(scaling[2]) == np.isfinite(loss)
    plan_optim.all_finite([], scaling)
    assert float(scaling[2]) == 1


def test_what_a_table_refuses(xp):
    x = xp.zeros((4, 6), np.float32)
    for wrong in (xp.zeros((4, 6), np.float64), x.T, xp.zeros(23, np.float32)):
        with pytest.raises(DeviceError, match=r"expected C-contiguous float32 arrays of 24 elem"):
            plan_optim.update_table([x], [wrong])
    plan_optim.all_finite([plan_optim.update_table([], [])], xp.zeros(3, np.float32))
