"""Schedules against torch, over whole runs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import npresnet as nr
from npresnet.errors import DtypeError, RangeError, WeightsError


def optimizers(kind="SGD", groups=1, **settings):
    rates = [0.1, 0.02, 0.5][:groups]
    mine = [{"params": [nr.nn.Parameter(np.ones(2))], "lr": lr} for lr in rates]
    theirs = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr} for lr in rates]
    return getattr(nr.optim, kind)(mine, **settings), getattr(torch.optim, kind)(theirs, **settings)


def assert_same_run(make, steps, kind="SGD", groups=2, **settings):
    """Step both schedules; compare rates and momenta of every group at every step."""
    ours, other = optimizers(kind, groups, **settings)
    mine = make(nr.optim.lr_scheduler, ours)
    theirs = make(torch.optim.lr_scheduler, other)
    for step in range(steps + 1):
        for g, h in zip(ours.param_groups, other.param_groups, strict=True):
            for key in ("lr", "momentum", "betas", "initial_lr"):
                if key in h:
                    np.testing.assert_allclose(g[key], h[key], rtol=1e-13, atol=1e-18)
        np.testing.assert_allclose(mine.get_last_lr(), theirs.get_last_lr(), rtol=1e-13, atol=1e-18)
        assert mine.last_epoch == theirs.last_epoch
        if step < steps:
            for optimizer, scheduler in ((ours, mine), (other, theirs)):
                optimizer.step()
                scheduler.step()


SCHEDULES = {
    "step": lambda s, o: s.StepLR(o, 3),
    "step, gamma": lambda s, o: s.StepLR(o, step_size=4, gamma=0.5),
    "multi": lambda s, o: s.MultiStepLR(o, [2, 5, 5, 11], gamma=0.3),
    "multi at 0": lambda s, o: s.MultiStepLR(o, [0, 4]),
    "linear": lambda s, o: s.LinearLR(o),
    "linear down": lambda s, o: s.LinearLR(o, 1.0, 0.2, total_iters=9),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, 10),
    "cosine, past its end": lambda s, o: s.CosineAnnealingLR(o, 6, eta_min=0.003),
    "warm-up, cosine": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, total_iters=4), s.CosineAnnealingLR(o, 16)], [4]
    ),
    "three in a row": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.5), s.StepLR(o, 2, 0.7), s.MultiStepLR(o, [3])], [3, 9]
    ),
    "begins with the second": lambda s, o: s.SequentialLR(
        o, [s.StepLR(o, 2), s.LinearLR(o, 0.25)], [0]
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("groups", [1, 3])
def test_whole_run_as_torch(name, groups):
    assert_same_run(SCHEDULES[name], 25, groups=groups)


def test_two_schedules_on_one_optimizer():
    ours, other = optimizers(groups=2)
    pairs = []
    for optimizer, module in ((ours, nr.optim.lr_scheduler), (other, torch.optim.lr_scheduler)):
        pairs.append([module.LinearLR(optimizer, 0.1), module.StepLR(optimizer, 3, 0.5)])
    for _ in range(12):
        for optimizer, pair in zip((ours, other), pairs, strict=True):
            optimizer.step()
            for schedule in pair:
                schedule.step()
        rates = [[g["lr"] for g in optimizer.param_groups] for optimizer in (ours, other)]
        np.testing.assert_allclose(*rates, rtol=1e-13)


ONE_CYCLE = [
    {"total_steps": 20},
    {"epochs": 4, "steps_per_epoch": 5},
    {"total_steps": 20, "pct_start": 0.1, "div_factor": 4.0, "final_div_factor": 10.0},
    {"total_steps": 20, "anneal_strategy": "linear", "base_momentum": 0.5, "max_momentum": 0.9},
    {"total_steps": 20, "three_phase": True},
    {"total_steps": 20, "cycle_momentum": False},
    {"total_steps": 20, "pct_start": 0.0},
    {"total_steps": 20, "pct_start": 1.0},
    {"total_steps": 1},
]


@pytest.mark.parametrize("settings", ONE_CYCLE)
@pytest.mark.parametrize(("kind", "options"), [("SGD", {"momentum": 0.9}), ("AdamW", {})])
def test_one_cycle_as_torch(settings, kind, options):
    steps = settings.get("total_steps", 20) - 1
    assert_same_run(lambda s, o: s.OneCycleLR(o, 0.3, **settings), steps, kind, **options)


def test_one_cycle_with_a_peak_for_each_group():
    assert_same_run(
        lambda s, o: s.OneCycleLR(o, [0.3, 0.7], total_steps=12, base_momentum=[0.8, 0.6]), 11
    )


def test_one_cycle_whose_rise_is_one_step():
    """torch divides by zero here; we begin at the peak."""
    ours, _ = optimizers()
    assert nr.optim.OneCycleLR(ours, 0.3, total_steps=10, pct_start=0.1).get_last_lr() == [0.3]


def test_one_cycle_ends():
    ours, _ = optimizers()
    schedule = nr.optim.OneCycleLR(ours, 0.3, total_steps=3)
    ours.step()
    for _ in range(3):
        schedule.step()
    with pytest.raises(RangeError, match="made for 3 steps"):
        schedule.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_state_goes_on_where_it_was(name):
    first, second = optimizers()[0], optimizers()[0]
    one = SCHEDULES[name](nr.optim.lr_scheduler, first)
    two = SCHEDULES[name](nr.optim.lr_scheduler, second)
    first.has_stepped = second.has_stepped = True
    for _ in range(5):
        one.step()
    two.load_state_dict(one.state_dict())
    second.load_state_dict(first.state_dict())
    for _ in range(8):
        one.step()
        two.step()
        assert one.get_last_lr() == two.get_last_lr()
        assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"]


def test_going_on_with_last_epoch():
    ours, other = optimizers(groups=2)
    for group in (*ours.param_groups, *other.param_groups):
        group["initial_lr"] = 2 * group["lr"]
    for module, optimizer in ((nr.optim.lr_scheduler, ours), (torch.optim.lr_scheduler, other)):
        module.CosineAnnealingLR(optimizer, 10, last_epoch=4)
    rates = [[g["lr"] for g in optimizer.param_groups] for optimizer in (ours, other)]
    np.testing.assert_allclose(*rates, rtol=1e-13)


def test_warns_when_stepped_before_the_optimizer():
    said = []
    for stepped in (False, True):
        ours, _ = optimizers()
        ours.has_stepped = stepped
        schedule = nr.optim.StepLR(ours, 2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            schedule.step()
            schedule.step()
        said.append([str(warning.message) for warning in caught])
    once, never = said
    assert len(once) == 1
    assert "call optimizer.step() first" in once[0]
    assert never == []


def test_wrong_settings():
    ours, _ = optimizers(groups=2)
    other = optimizers()[0]
    s = nr.optim
    wrong = [
        lambda: s.StepLR(ours, 0),
        lambda: s.StepLR(ours, 1.5),
        lambda: s.StepLR(ours, 2, last_epoch=3),
        lambda: s.LinearLR(ours, start_factor=0),
        lambda: s.LinearLR(ours, end_factor=1.5),
        lambda: s.LinearLR(ours, total_iters=0),
        lambda: s.CosineAnnealingLR(ours, 0),
        lambda: s.SequentialLR(ours, [], []),
        lambda: s.SequentialLR(ours, [s.StepLR(ours, 2)], [3]),
        lambda: s.SequentialLR(ours, [s.StepLR(other, 2)], []),
        lambda: s.SequentialLR(ours, [s.SequentialLR(ours, [s.StepLR(ours, 2)], [])], []),
        lambda: s.OneCycleLR(ours, 0.1),
        lambda: s.OneCycleLR(ours, 0.1, total_steps=0),
        lambda: s.OneCycleLR(ours, 0.1, epochs=3),
        lambda: s.OneCycleLR(ours, 0.1, total_steps=5, pct_start=1.2),
        lambda: s.OneCycleLR(ours, 0.1, total_steps=5, anneal_strategy="sin"),
        lambda: s.OneCycleLR(ours, [0.1, 0.2, 0.3], total_steps=5),
    ]
    for make in wrong:
        with pytest.raises(RangeError):
            make()
    for make in (
        lambda: s.StepLR("sgd", 2),
        lambda: s.OneCycleLR(None, 0.1, total_steps=5),
        lambda: s.SequentialLR(ours, ["step"], []),
    ):
        with pytest.raises(DtypeError):
            make()
    with pytest.raises(WeightsError, match="isn't that of a StepLR"):
        s.StepLR(ours, 2).load_state_dict(s.LinearLR(ours).state_dict())
    both = s.SequentialLR(ours, [s.StepLR(ours, 2), s.StepLR(ours, 3)], [1])
    with pytest.raises(WeightsError, match="holds 0 schedules, expected 2"):
        both.load_state_dict(s.StepLR(ours, 2).state_dict())


def test_base_class_says_what_to_write():
    ours, _ = optimizers()
    with pytest.raises(NotImplementedError, match="must define get_lr"):
        nr.optim.LRScheduler(ours)
