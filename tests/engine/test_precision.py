"""Precision and loss scaling of plans, as far as no GPU is needed."""

from __future__ import annotations

import numpy as np
import pytest

import npresnet as nr
from npresnet import functional as F
from npresnet.engine import EagerPlan, EagerStep
from npresnet.errors import BackendError, DtypeError, GraphError
from npresnet.optim import GradScaler
from tests.engine.networks import Branching
from tests.shim import build
from tests.shim.backend import gpu_machine
from tests.tiny import Tiny

SHAPE = (4, 3, 9, 9)


def problem(make=Tiny):
    """A model in training mode, its optimizer, images and labels: the same each time."""
    nr.manual_seed(4)
    model = make().train()
    optimizer = nr.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    rng = np.random.default_rng(0)
    return model, optimizer, rng.standard_normal(SHAPE).astype(np.float32), rng.integers(0, 4, 4)


def state(model, optimizer):
    momentum = [kept["momentum_buffer"] for kept in optimizer.state.values() if kept]
    return [array.copy() for array in (*(p.data for p in model.parameters()), *momentum)]


def test_a_scaled_loss_changes_no_step():
    """A factor that is a power of two only moves exponents: plan and eager keep every bit."""
    results = []
    for scaler in (GradScaler(enabled=False), GradScaler(growth_interval=2)):
        model, optimizer, x, y = problem()
        step = nr.compile_step(model, F.cross_entropy, optimizer, SHAPE, scaler=scaler)
        assert step.scaler is scaler
        losses = [step(x, y) for _ in range(5)]
        results.append((losses, state(model, optimizer)))
    assert scaler.get_scale() == 2.0**18
    assert results[0][0] == results[1][0]
    assert losses[-1] < losses[0]
    for one, other in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", [Tiny, Branching])
def test_a_step_that_overflows_is_left_out(kind):
    """By plans and by eager steps; the loss comes out unscaled, and schedules go on."""
    model, optimizer, x, y = problem(kind)
    schedule, scaler = nr.optim.StepLR(optimizer, 1, gamma=1.0), GradScaler(2.0**127)

    def steep(output, target):
        return F.cross_entropy(output, target) * 8.0  # its gradient is lifted too far

    step = nr.compile_step(
        model, steep, optimizer, SHAPE, fallback="eager", precision="fp32", scaler=scaler
    )
    assert isinstance(step, EagerStep) == (kind is Branching)
    assert step.precision == "fp32"
    before = state(model, optimizer)
    with np.errstate(over="ignore", invalid="ignore"):
        known = step(x, y)
    assert np.isfinite(known)
    schedule.step()
    for one, other in zip(before, state(model, optimizer), strict=True):
        np.testing.assert_array_equal(one, other)
    assert scaler.get_scale() == 2.0**126
    assert all(p.grad is None for p in model.parameters())
    if kind is Tiny:
        assert int(model.bn1.num_batches_tracked) == 1  # forward has been: as in torch
    scaler.update(new_scale=1.0)
    assert step(x, y) == pytest.approx(known)
    assert step(x, y) < known


@pytest.mark.parametrize("word", ["tf32", "fp16", "bf16"])
def test_what_a_cpu_does_not_compute_in(word):
    model, optimizer, _, _ = problem()
    with pytest.raises(BackendError, match=f"'{word}' needs backend 'gpu', got 'cpu': choose that"):
        nr.compile(model, SHAPE, fallback="eager", precision=word)
    with pytest.raises(BackendError, match=f"'{word}' needs backend 'gpu', got 'cpu': choose that"):
        nr.compile_step(model, F.cross_entropy, optimizer, SHAPE, precision=word)


@pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++")
def test_what_does_not_run_in_16_bits():
    with gpu_machine(), nr.use_backend("gpu"):
        model, optimizer, _, _ = problem(Branching)
        message = "precision 'bf16' needs a plan, and there is none: "
        with pytest.raises(GraphError, match=message):
            nr.compile(model, SHAPE, fallback="eager", precision="bf16")
        with pytest.raises(GraphError, match=message):
            nr.compile_step(
                model, F.cross_entropy, optimizer, SHAPE, fallback="eager", precision="bf16"
            )
        plan = nr.compile(model, SHAPE, fallback="eager", precision="tf32")
        assert isinstance(plan, EagerPlan)
        assert plan.precision == "tf32"
        with nr.use_backend("gpu", precision="tf32"):
            assert nr.compile(model, SHAPE, fallback="eager").precision == "tf32"
        with pytest.raises(DtypeError, match=r"'fp16' is for models in float32, .* got float64: "):
            nr.compile(model.double(), SHAPE, precision="fp16")
