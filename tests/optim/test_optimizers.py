"""Optimizers against torch: every step to 1e-12 in float64, on both kernel sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import npresnet as nr
from npresnet.errors import DtypeError, RangeError, WeightsError

SHAPES = [(4, 3, 3, 3), (5,), (2, 7), ()]

SGD_SETTINGS = [
    {"lr": 0.1},
    {"lr": 0.05, "momentum": 0.9},
    {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2},
    {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "weight_decay": 1e-3},
    {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4},
    {"lr": 0.0, "momentum": 0.9},
]
ADAMW_SETTINGS = [
    {},
    {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
    {"lr": 0.01, "weight_decay": 0},
]
CASES = [("SGD", s) for s in SGD_SETTINGS] + [("AdamW", s) for s in ADAMW_SETTINGS]


def make(rng):
    values = [rng.standard_normal(shape) for shape in SHAPES]
    mine = [nr.nn.Parameter(v.copy()) for v in values]
    theirs = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    return mine, theirs


def set_grads(mine, theirs, rng, skip=()):
    for i, (p, q) in enumerate(zip(mine, theirs, strict=True)):
        grad = None if i in skip else rng.standard_normal(p.shape)
        p.grad = None if grad is None else nr.tensor(grad).data
        q.grad = None if grad is None else torch.tensor(grad)


def assert_same(mine, theirs):
    for p, q in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_steps_as_torch(name, settings, rng, backend):
    mine, theirs = make(rng)
    arrays = [p.data for p in mine]
    ours = getattr(nr.optim, name)(mine, **settings)
    other = getattr(torch.optim, name)(theirs, **settings)
    for step in range(25):
        set_grads(mine, theirs, rng, skip=(1,) if step in (0, 7) else ())
        ours.step()
        other.step()
        assert_same(mine, theirs)
    assert all(p.data is array for p, array in zip(mine, arrays, strict=True))


def test_defaults_are_torchs():
    p, q = nr.nn.Parameter(np.ones(2)), torch.nn.Parameter(torch.ones(2))
    for name in ("SGD", "AdamW"):
        ours = getattr(nr.optim, name)([p]).defaults
        theirs = getattr(torch.optim, name)([q]).defaults
        assert ours == {key: theirs[key] for key in ours}


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_groups_as_torch(name, rng):
    mine, theirs = make(rng)

    def groups(params):
        return [{"params": params[:2]}, {"params": params[2], "lr": 0.2, "weight_decay": 0.3}]

    ours = getattr(nr.optim, name)(groups(mine), lr=0.01)
    other = getattr(torch.optim, name)(groups(theirs), lr=0.01)
    ours.add_param_group({"params": mine[3:], "lr": 0.5})
    other.add_param_group({"params": theirs[3:], "lr": 0.5})
    for step in range(20):
        if step == 10:
            ours.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 0.3
        set_grads(mine, theirs, rng)
        ours.step()
        other.step()
    assert_same(mine, theirs)
    assert [g["lr"] for g in ours.param_groups] == [0.3, 0.2, 0.5]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_momentum_of_a_frozen_memory_layout(name, rng):
    """Parameters and gradients of any strides take the same step."""
    mine, theirs = make(rng)
    mine[0].data = np.asfortranarray(mine[0].data)
    settings = {"lr": 0.1, "momentum": 0.9} if name == "SGD" else {"lr": 0.1}
    ours = getattr(nr.optim, name)(mine, **settings)
    other = getattr(torch.optim, name)(theirs, **settings)
    for _ in range(3):
        set_grads(mine, theirs, rng)
        mine[0].grad = np.asarray(mine[0].grad.transpose(3, 1, 2, 0), order="C").transpose(
            3, 1, 2, 0
        )
        ours.step()
        other.step()
    assert_same(mine, theirs)


def test_zero_grad_closure_and_repr(rng):
    p = nr.nn.Parameter(np.ones(3))
    opt = nr.optim.SGD([p], lr=0.5)

    def closure():
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with nr.no_grad():
        assert opt.step(closure).item() == 3
    np.testing.assert_array_equal(p.data, 0)
    opt.zero_grad(set_to_none=False)
    np.testing.assert_array_equal(p.grad, 0)
    opt.zero_grad()
    assert p.grad is None
    opt.zero_grad(set_to_none=False)
    assert p.grad is None
    assert "lr=0.5" in repr(opt)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_state_goes_both_ways(name, settings, rng):
    """Half a run here, the other half in an optimizer that took the state over; torch's too."""
    mine, theirs = make(rng)
    ours = getattr(nr.optim, name)(mine, **settings)
    other = getattr(torch.optim, name)(theirs, **settings)
    for _ in range(3):
        set_grads(mine, theirs, rng)
        ours.step()
        other.step()
    for state in (ours.state_dict(), other.state_dict()):
        copies = [nr.nn.Parameter(p.data.copy()) for p in mine]
        again = getattr(nr.optim, name)(copies)
        again.load_state_dict(state)
        twins = [torch.nn.Parameter(q.detach().clone()) for q in theirs]
        torch_again = getattr(torch.optim, name)(twins)
        torch_again.load_state_dict(other.state_dict())
        for _ in range(3):
            set_grads(copies, twins, rng)
            again.step()
            torch_again.step()
        assert_same(copies, twins)
    # what was loaded is the new optimizer's own
    kept = next(iter(ours.state_dict()["state"].values()), {})
    before = {k: np.copy(v) for k, v in kept.items()}
    set_grads(copies, theirs, rng)
    again.step()
    for key, value in before.items():
        np.testing.assert_array_equal(kept[key], value)


def test_state_that_does_not_fit(rng):
    opt = nr.optim.SGD([nr.nn.Parameter(np.ones(3))], lr=1, momentum=0.9)
    opt.param_groups[0]["params"][0].grad = np.ones(3)
    opt.step()
    state = opt.state_dict()
    with pytest.raises(WeightsError, match=r"shape \(3,\) for a parameter of shape \(4,\)"):
        nr.optim.SGD([nr.nn.Parameter(np.ones(4))]).load_state_dict(state)
    two = [nr.nn.Parameter(np.ones(3)) for _ in range(2)]
    with pytest.raises(WeightsError, match="groups of"):
        nr.optim.SGD(two).load_state_dict(state)
    with pytest.raises(WeightsError, match="param_groups"):
        opt.load_state_dict({"weights": 1})


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": -1},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"lr": "fast"},
        {"lr": None},
        {"momentum": -0.1},
        {"weight_decay": -1e-4},
        {"dampening": float("nan"), "momentum": 0.9},
        {"nesterov": True},
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
    ],
)
def test_sgd_settings_out_of_range(settings):
    with pytest.raises(RangeError):
        nr.optim.SGD([nr.nn.Parameter(np.ones(2))], **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": -1},
        {"eps": -1e-8},
        {"weight_decay": -1},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"betas": 0.9},
        {"betas": (0.9,)},
    ],
)
def test_adamw_settings_out_of_range(settings):
    with pytest.raises(RangeError):
        nr.optim.AdamW([nr.nn.Parameter(np.ones(2))], **settings)


def test_parameters_that_are_none():
    p = nr.nn.Parameter(np.ones(2))
    with pytest.raises(RangeError, match="no parameters"):
        nr.optim.SGD([])
    model = nr.nn.Linear(2, 2)
    consumed = model.parameters()
    nr.optim.SGD(consumed)
    with pytest.raises(RangeError, match="only once"):
        nr.optim.SGD(consumed)
    for wrong in (p, 3, {"params": [p]}):
        with pytest.raises(DtypeError, match="iterable of tensors"):
            nr.optim.SGD(wrong)
    with pytest.raises(DtypeError, match="got ndarray"):
        nr.optim.SGD([np.ones(2)])
    with pytest.raises(DtypeError, match="expected a group"):
        nr.optim.SGD([{"weights": [p]}])
    with pytest.raises(RangeError, match="twice"):
        nr.optim.SGD([p, p])
    with pytest.raises(RangeError, match="twice"):
        nr.optim.SGD([{"params": [p]}, {"params": p}])
    with pytest.raises(RangeError, match="computed"):
        nr.optim.SGD([p * 2])
    with pytest.raises(RangeError, match="lr"):
        nr.optim.SGD([{"params": [p], "lr": -2}])


def test_base_class_says_what_to_write():
    class Mine(nr.optim.Optimizer):
        pass

    p = nr.nn.Parameter(np.ones(2))
    p.grad = np.ones(2)
    with pytest.raises(NotImplementedError, match="Mine must define update"):
        Mine([p], {"lr": 0.1}).step()


def test_a_plan_lends_its_kernels_for_the_arrays_they_take():
    class Lent:
        def takes_update(self, *arrays):
            return all(a is None or a.dtype == np.float32 for a in arrays)

    narrow = np.zeros(3, np.float32)
    optimizer = nr.optim.SGD([nr.nn.Parameter(narrow)], lr=0.1)
    own, lent = optimizer.kernels_for(narrow, None), Lent()
    with optimizer.borrowing(lent):
        assert optimizer.kernels_for(narrow, None) is lent
        assert optimizer.kernels_for(narrow.astype(np.float64)) is own
    assert optimizer.kernels_for(narrow) is own
