"""Loss scaling: the factor's rule and the steps that it leaves out, beside torch's."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import npresnet as nr
from npresnet import nn
from npresnet.errors import DtypeError, GraphError, RangeError, TrainingError, WeightsError
from npresnet.optim import GradScaler

# powers of two and others: a scale is a float32
FACTORS = st.sampled_from([(2.0, 0.5), (4.0, 0.25), (1.1, 0.9), (1.7, 0.3)])


def trained(scale, **settings):
    """A parameter, its optimizer and its scaler; and torch's three."""
    values = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    mine, theirs = nr.nn.Parameter(values.copy()), torch.nn.Parameter(torch.tensor(values))
    sgd = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
    return (
        (mine, nr.optim.SGD([mine], **sgd), GradScaler(scale, **settings)),
        (
            theirs,
            torch.optim.SGD([theirs], **sgd),
            torch.amp.GradScaler("cpu", scale, **settings),
        ),
    )


def backward(param, scaler, coefficients):
    """Backward of a scaled loss whose gradient is known."""
    param.grad = None
    if isinstance(param, torch.Tensor):
        coefficients = torch.tensor(coefficients)
    scaler.scale((param * coefficients).sum()).backward()


@given(
    overflows=st.lists(st.booleans(), max_size=40),
    factors=FACTORS,
    interval=st.integers(1, 4),
    scale=st.sampled_from([1.0, 3.0, 2.0**16, 2.0**120]),
)
def test_the_factor_follows_torchs_rule(overflows, factors, interval, scale):
    settings = {"growth_factor": factors[0], "backoff_factor": factors[1]}
    settings["growth_interval"] = interval
    ours, other = GradScaler(scale, **settings), torch.amp.GradScaler("cpu", scale, **settings)
    other.scale(torch.ones(()))  # torch makes its tensors now
    for overflowed in overflows:
        ours.advance(overflowed)
        found = torch.tensor(float(overflowed))
        torch._amp_update_scale_(other._scale, other._growth_tracker, found, *factors, interval)
        assert ours.get_scale() == np.float32(other.get_scale())
        assert ours.state_dict() == other.state_dict()


@given(wrong=st.lists(st.sampled_from([None, np.inf, -np.inf, np.nan]), min_size=1, max_size=12))
def test_steps_and_skipped_steps_are_torchs(wrong):
    ours, theirs = trained(2.0**16, growth_interval=2)
    rng = np.random.default_rng(0)
    for value in wrong:
        coefficients = rng.standard_normal((2, 3)).astype(np.float32)
        if value is not None:
            coefficients[1, 2] = value
        before = ours[0].numpy(), ours[1].state_dict()["state"]
        for param, optimizer, scaler in (ours, theirs):
            backward(param, scaler, coefficients)
            scaler.step(optimizer)
            scaler.update()
        np.testing.assert_allclose(
            ours[0].numpy(), theirs[0].detach().numpy(), rtol=1e-6, atol=1e-7
        )
        assert ours[2].state_dict() == theirs[2].state_dict()
        if value is not None:
            np.testing.assert_array_equal(ours[0].numpy(), before[0])
            assert ours[1].state_dict()["state"].keys() == before[1].keys()


def test_a_step_left_out_changes_nothing(backend, rng):
    """Neither parameters nor momentum, moments and the counter of steps; on every backend."""
    params = [nr.nn.Parameter(nr.tensor(rng.standard_normal(n).astype(np.float32))) for n in (3, 2)]
    optimizer, scaler = nr.optim.AdamW(params, lr=0.1), GradScaler(8.0)
    schedule = nr.optim.StepLR(optimizer, 1)

    def state():
        kept = [dict(optimizer.state[p]) for p in params]
        return [p.numpy() for p in params], [
            {k: v if k == "step" else nr.Tensor(v).numpy() for k, v in one.items()} for one in kept
        ]

    def take(values):
        for param, value in zip(params, values, strict=True):
            param.grad = nr.tensor(np.full(param.shape, value, np.float32)).data
        scaler.step(optimizer)
        scaler.update()

    take([1.0, np.inf])
    assert scaler.get_scale() == 4
    assert not any(optimizer.state[p] for p in params)
    schedule.step()  # without a warning that no step was taken
    take([1.0, 2.0])
    known = state()
    assert known[1][0]["step"] == 1
    np.testing.assert_allclose(known[1][0]["exp_avg"], 0.1 * 1 / 4, rtol=1e-6)  # unscaled
    take([np.nan, 2.0])
    for old, new in zip(known[0], state()[0], strict=True):
        np.testing.assert_array_equal(old, new)
    for old, new in zip(known[1], state()[1], strict=True):
        np.testing.assert_equal(old, new)
    assert scaler.get_scale() == 2


def test_gradients_may_be_looked_at_before_the_step():
    (param, optimizer, scaler), (theirs, other, reference) = trained(64.0)
    coefficients = np.arange(6, dtype=np.float32).reshape(2, 3)
    backward(param, scaler, coefficients)
    backward(theirs, reference, coefficients)
    scaler.unscale_(optimizer)
    reference.unscale_(other)
    np.testing.assert_array_equal(param.grad, coefficients)
    np.testing.assert_array_equal(param.grad, theirs.grad.numpy())
    with pytest.raises(GraphError, match="unscaled since the last update"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(GraphError, match=r"stepped since the last update: call scaler.update\(\)"):
        scaler.step(optimizer)
    scaler.update(new_scale=3.0)
    assert scaler.get_scale() == 3


def test_several_losses_and_optimizers():
    params = [nr.nn.Parameter(np.ones(2, np.float32)) for _ in range(2)]
    optimizers = [nr.optim.SGD([p], lr=0.5) for p in params]
    scaler = GradScaler(4.0)
    losses = scaler.scale([params[0].sum(), (params[1] * np.float32(np.inf)).sum()])
    assert isinstance(losses, list)
    for loss, optimizer in zip(losses, optimizers, strict=True):
        loss.backward()
        scaler.step(optimizer)
    scaler.update()
    assert [p.tolist() for p in params] == [[0.5, 0.5], [1, 1]]  # each for itself
    assert scaler.get_scale() == 2  # both together


def test_scaling_that_is_off():
    scaler = GradScaler(enabled=False)
    param = nr.nn.Parameter(np.ones(2, np.float32))
    optimizer = nr.optim.SGD([param], lr=0.5)
    loss = param.sum()
    assert scaler.scale(loss) is loss
    loss.backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert param.tolist() == [0.5, 0.5]
    assert scaler.get_scale() == 1
    assert scaler.state_dict() == {}
    assert not scaler.is_enabled()
    assert repr(scaler) == "GradScaler(enabled=False)"


def test_a_run_goes_on_where_it_stopped(rng):
    """With model, optimizer and scaler restored, the rest of a run has the same bits."""
    batches = [rng.standard_normal((2, 3)).astype(np.float32) for _ in range(9)]
    batches[2][0, 0] = batches[6][1, 1] = np.inf

    def go(param, optimizer, scaler, part):
        for batch in part:
            backward(param, scaler, batch)
            scaler.step(optimizer)
            scaler.update()
        return param.numpy(), scaler.state_dict()

    settings = {"growth_interval": 3}
    (param, optimizer, scaler), _ = trained(2.0**10, **settings)
    go(param, optimizer, scaler, batches[:5])
    saved = pickle.dumps((param.numpy(), optimizer.state_dict(), scaler.state_dict()))
    whole = go(param, optimizer, scaler, batches[5:])
    (again, fresh, other), _ = trained(1.0)
    values, steps, state = pickle.loads(saved)
    again.data[...] = values
    fresh.load_state_dict(steps)
    other.load_state_dict(state)
    rest = go(again, fresh, other, batches[5:])
    np.testing.assert_array_equal(whole[0], rest[0])
    assert whole[1] == rest[1]
    theirs = torch.amp.GradScaler("cpu")
    theirs.load_state_dict(state)  # torch reads it, too
    assert theirs.state_dict() == state
    assert pickle.loads(pickle.dumps(scaler)).state_dict() == scaler.state_dict()


def test_wrong_input():
    for settings in (
        {"init_scale": 0},
        {"init_scale": float("nan")},
        {"init_scale": 1e39},
        {"growth_factor": 1},
        {"backoff_factor": 1.0},
        {"backoff_factor": 0},
        {"growth_interval": 0},
        {"growth_interval": 2.0},
        {"init_scale": "big"},
    ):
        with pytest.raises(RangeError, match=f"GradScaler expected {next(iter(settings))} to be"):
            GradScaler(**settings)
    scaler, param = GradScaler(), nr.nn.Parameter(np.ones(2, np.float32))
    optimizer = nr.optim.SGD([param])
    with pytest.raises(GraphError, match=r"no gradients of SGD: call scaler.scale\(loss\)"):
        scaler.step(optimizer)
    with pytest.raises(GraphError, match=r"looked at no gradients .* call scaler.step\(optimizer"):
        scaler.update()
    with pytest.raises(
        RangeError, match=r"new_scale to be a number above 0 and below 3\.4.*, got -1"
    ):
        scaler.update(-1)
    with pytest.raises(DtypeError, match="scales a Tensor or a list of them, got float"):
        scaler.scale(3.0)
    half = nr.nn.Parameter(np.ones(2, np.float16))
    half.grad = np.ones(2, np.float16)
    with pytest.raises(DtypeError, match="gradients in float32, got float16: keep the parameters"):
        scaler.step(nr.optim.SGD([half]))
    state = scaler.state_dict()
    with pytest.raises(WeightsError, match=r"lacks scale, growth_factor, .*, _growth_tracker: "):
        scaler.load_state_dict({})
    with pytest.raises(RangeError, match="growth_factor"):
        scaler.load_state_dict({**state, "scale": 2.0, "growth_factor": 0.5})
    assert scaler.state_dict() == state


def test_no_factor_is_small_enough():
    scaler = GradScaler()
    for _ in range(142):
        scaler.advance(True)
    with pytest.raises(TrainingError, match="gradients overflow although the loss is scaled by"):
        scaler.advance(True)
    assert scaler.get_scale() == 2.0**-126


def test_a_gradient_that_two_parameters_share_is_divided_once():
    shared = np.array([8.0, 16.0], np.float32)
    params = [nn.Parameter(np.zeros(2, np.float32)) for _ in range(2)]
    for param in params:
        param.grad = shared
    nr.optim.GradScaler(8.0).unscale_(nr.optim.SGD(params, lr=1.0))
    assert [param.grad.tolist() for param in params] == [[1.0, 2.0]] * 2
    assert shared.tolist() == [8.0, 16.0]
