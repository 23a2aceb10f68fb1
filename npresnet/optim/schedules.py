"""Learning-rate schedules, step for step as torch.optim.lr_scheduler's.

A schedule sets the ``lr`` of every group of an optimizer each time it is stepped: once an epoch, or
once a batch for `OneCycleLR`, always after the optimizer's own step. Schedules are chainable: each
step changes the rate that it finds, so that several can work on one optimizer.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from npresnet.errors import DtypeError, RangeError, WeightsError
from npresnet.optim.optimizer import Group, Optimizer

__all__ = [
    "CosineAnnealingLR",
    "LRScheduler",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "SequentialLR",
    "StepLR",
]


class LRScheduler:
    """Base of the schedules: subclass it and write `get_lr`.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates are set.
    last_epoch : int
        Number of the last step taken; -1 begins anew.

    Attributes
    ----------
    last_epoch : int
        Steps taken since the first.
    base_lrs : list of float
        Learning rate of each group at the beginning.

    Raises
    ------
    DtypeError
        `optimizer` isn't one.
    RangeError
        `last_epoch` isn't -1 but the optimizer has seen no schedule before.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise DtypeError(
                f"{type(self).__name__} expected an optimizer, got {type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise RangeError(
                    f"last_epoch={last_epoch} goes on with an earlier schedule, but the optimizer "
                    "has none: load its state dict first, or leave last_epoch out"
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._start()

    def _start(self) -> None:
        """Set the learning rates of the first epoch."""
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    @property
    def _groups(self) -> list[Group]:
        return self.optimizer.param_groups

    def _current(self) -> list[float]:
        return [group["lr"] for group in self._groups]

    def get_lr(self) -> list[float]:
        """Return the learning rates of epoch ``last_epoch`` from those of the one before."""
        raise NotImplementedError(f"{type(self).__name__} must define get_lr")

    def _closed_form(self) -> list[float]:
        """Return the learning rates of epoch ``last_epoch`` from `base_lrs`, where there is a form.

        `SequentialLR` begins a schedule in the middle of a run with it.
        """
        return self.get_lr()

    def get_last_lr(self) -> list[float]:
        """Return the learning rate of each group as this schedule set it last."""
        return self._last_lr

    def step(self) -> None:
        """Set the learning rates of the next epoch (or batch).

        Warns
        -----
        UserWarning
            The optimizer hasn't taken a step yet: the first learning rate would be skipped.
        """
        if self._step_count == 1 and not self.optimizer.has_stepped:
            warnings.warn(
                "the schedule was stepped before the optimizer, which skips the first learning "
                "rate: call optimizer.step() first, then scheduler.step()",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        self.last_epoch += 1
        self._set(self.get_lr())

    def _begin_at(self, epoch: int) -> None:
        """Set the learning rates of one epoch, whatever they were before."""
        self.last_epoch = epoch
        self._set(self._closed_form())

    def _set(self, rates: list[float]) -> None:
        for group, rate in zip(self._groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = self._current()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the schedule knows but the optimizer."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises
        ------
        WeightsError
            It isn't that of such a schedule.
        """
        unknown = set(state_dict) ^ set(self.state_dict())
        if unknown:
            raise WeightsError(
                f"the state dict isn't that of a {type(self).__name__}: they differ in "
                f"{', '.join(sorted(map(str, unknown)))}"
            )
        self.__dict__.update(state_dict)


class StepLR(LRScheduler):
    """Multiply the learning rate by `gamma` every `step_size` epochs.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates are set.
    step_size : int
        Epochs between two changes, at least 1.
    gamma : float
        The factor.
    last_epoch : int
        -1 begins anew.
    """

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.step_size = _at_least_one("step_size", step_size)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the learning rates of epoch ``last_epoch``."""
        if self.last_epoch == 0 or self.last_epoch % self.step_size:
            return self._current()
        return [rate * self.gamma for rate in self._current()]

    def _closed_form(self) -> list[float]:
        return [base * self.gamma ** (self.last_epoch // self.step_size) for base in self.base_lrs]


class MultiStepLR(LRScheduler):
    """Multiply the learning rate by `gamma` at each of the given epochs.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates are set.
    milestones : iterable of int
        The epochs; one that comes twice counts twice.
    gamma : float
        The factor.
    last_epoch : int
        -1 begins anew.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the learning rates of epoch ``last_epoch``."""
        if self.last_epoch not in self.milestones:
            return self._current()
        factor = self.gamma ** self.milestones[self.last_epoch]
        return [rate * factor for rate in self._current()]

    def _closed_form(self) -> list[float]:
        passed = bisect_right(sorted(self.milestones.elements()), self.last_epoch)
        return [base * self.gamma**passed for base in self.base_lrs]


class LinearLR(LRScheduler):
    """Change the learning rate evenly from one factor to another: a warm-up.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates are set.
    start_factor : float
        What the learning rate is multiplied by in the first epoch, above 0 and at most 1.
    end_factor : float
        What it is multiplied by from epoch `total_iters` on, 0 to 1.
    total_iters : int
        Epochs from one to the other.
    last_epoch : int
        -1 begins anew.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise RangeError(f"start_factor expected above 0 and at most 1, got {start_factor}")
        if not 0 <= end_factor <= 1:
            raise RangeError(f"end_factor expected from 0 to 1, got {end_factor}")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = _at_least_one("total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the learning rates of epoch ``last_epoch``."""
        if self.last_epoch == 0:
            return [rate * self.start_factor for rate in self._current()]
        if self._is_initial or self.last_epoch > self.total_iters:
            return self._current()
        rise = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self.last_epoch - 1) * rise
        return [rate * (1.0 + rise / before) for rate in self._current()]

    def _closed_form(self) -> list[float]:
        done = min(self.total_iters, self.last_epoch) / self.total_iters
        factor = self.start_factor + (self.end_factor - self.start_factor) * done
        return [base * factor for base in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
    """Lower the learning rate along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates are set.
    T_max : int
        Epochs from the first learning rate down to `eta_min`; beyond, it rises again.
    eta_min : float
        The lowest learning rate.
    last_epoch : int
        -1 begins anew.
    """

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_max = _at_least_one("T_max", T_max)
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the learning rates of epoch ``last_epoch``."""
        if self._is_initial:
            return self._current()
        if self._step_count == 1 and self.last_epoch > 0:  # begun in the middle
            return self._closed_form()
        low, angle = self.eta_min, math.pi / self.T_max
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:
            # the epoch before was the lowest: the ratio below would divide by 0
            rise = (1 - math.cos(angle)) / 2
            return [
                rate + (base - low) * rise
                for rate, base in zip(self._current(), self.base_lrs, strict=True)
            ]
        now = 1 + math.cos(angle * self.last_epoch)
        before = 1 + math.cos(angle * (self.last_epoch - 1))
        return [now / before * (rate - low) + low for rate in self._current()]

    def _closed_form(self) -> list[float]:
        share = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [self.eta_min + (base - self.eta_min) * share for base in self.base_lrs]


class SequentialLR(LRScheduler):
    """Schedules one after the other.

    Parameters
    ----------
    optimizer : Optimizer
        That of all the schedules.
    schedulers : sequence of LRScheduler
        In the order in which they run.
    milestones : sequence of int
        The epochs at which the second, the third and so on begin; each begins at its own epoch 0.
    last_epoch : int
        -1 begins anew.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        if not schedulers:
            raise RangeError("SequentialLR expected at least one schedule, got none")
        for scheduler in schedulers:
            if not isinstance(scheduler, LRScheduler):
                raise DtypeError(f"SequentialLR expected schedules, got {type(scheduler).__name__}")
            if isinstance(scheduler, SequentialLR):
                raise RangeError("SequentialLR can't hold another one: give all schedules in a row")
            if scheduler.optimizer is not optimizer:
                raise RangeError(
                    f"SequentialLR expected schedules of its own optimizer, but "
                    f"{type(scheduler).__name__} belongs to another"
                )
        if len(milestones) != len(schedulers) - 1:
            raise RangeError(
                f"SequentialLR with {len(schedulers)} schedules expected {len(schedulers) - 1} "
                f"milestones, got {len(milestones)}"
            )
        self.optimizer = optimizer
        self._schedulers = list(schedulers)
        self._milestones = list(milestones)
        self.last_epoch = last_epoch + 1
        # Making the schedules stepped each of them once: take that back, and start the first.
        for group in self._groups:
            group["lr"] = group["initial_lr"]
        for scheduler in self._schedulers:
            scheduler.last_epoch -= 1
        active = self._schedulers[bisect_right(self._milestones, 0)]
        active._start()
        self._last_lr = active.get_last_lr()

    def step(self) -> None:
        """Step the schedule whose turn it is."""
        self.last_epoch += 1
        index = bisect_right(self._milestones, self.last_epoch)
        active = self._schedulers[index]
        if index > 0 and self._milestones[index - 1] == self.last_epoch:
            active._begin_at(0)
        else:
            active.step()
        self._last_lr = active.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the schedules know but the optimizer."""
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises
        ------
        WeightsError
            If it is that of another schedule, or of another number of them.
        """
        own = self._schedulers
        parts = state_dict.get("_schedulers", ())
        if len(parts) != len(own):
            raise WeightsError(f"the state dict holds {len(parts)} schedules, expected {len(own)}")
        for scheduler, part in zip(own, parts, strict=True):
            scheduler.load_state_dict(part)
        super().load_state_dict({**state_dict, "_schedulers": own})


Annealing = Literal["cos", "linear"]


class OneCycleLR(LRScheduler):
    """Raise the learning rate to a peak, then lower it to almost nothing; stepped once a batch.

    The momentum (or AdamW's first beta) goes the other way. Smith and Topin 2017,
    https://arxiv.org/abs/1708.07120; phases and defaults are torch's.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates are set.
    max_lr : float or sequence of float
        The peak, or one for each group.
    total_steps : int, optional
        Batches in the whole run; else `epochs` times `steps_per_epoch`.
    epochs, steps_per_epoch : int, optional
        In place of `total_steps`.
    pct_start : float
        Share of the run in which the rate rises, 0 to 1.
    anneal_strategy : {"cos", "linear"}
        Form of the rise and fall.
    cycle_momentum : bool
        Whether to change the momentum too.
    base_momentum, max_momentum : float or sequence of float
        Momentum at the peak, and at both ends.
    div_factor : float
        The first rate is ``max_lr / div_factor``,
    final_div_factor : float
        the last is the first divided by this.
    three_phase : bool
        Whether to come down to the first rate in as many steps as it rose, and use the rest of the
        run for the last fall.
    last_epoch : int
        -1 begins anew.

    Raises
    ------
    RangeError
        A setting is out of range, or `step` is called more than `total_steps` times.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Annealing = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise DtypeError(f"OneCycleLR expected an optimizer, got {type(optimizer).__name__}")
        if total_steps is not None:
            self.total_steps = _at_least_one("total_steps", total_steps)
        elif epochs is not None and steps_per_epoch is not None:
            self.total_steps = _at_least_one("epochs", epochs) * _at_least_one(
                "steps_per_epoch", steps_per_epoch
            )
        else:
            raise RangeError("OneCycleLR needs total_steps, or epochs and steps_per_epoch")
        if not 0 <= pct_start <= 1:
            raise RangeError(f"pct_start expected from 0 to 1, got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise RangeError(f"anneal_strategy expected 'cos' or 'linear', got {anneal_strategy!r}")
        self._anneal_strategy = anneal_strategy
        self._phases = _phases(self.total_steps, pct_start, three_phase)
        self.cycle_momentum = cycle_momentum
        self._use_beta1 = "betas" in optimizer.defaults
        if cycle_momentum and not self._use_beta1 and "momentum" not in optimizer.defaults:
            raise RangeError(
                f"{type(optimizer).__name__} has neither momentum nor betas to cycle: pass "
                "cycle_momentum=False"
            )
        if last_epoch == -1:
            groups = optimizer.param_groups
            peaks = _for_each("max_lr", max_lr, groups)
            for group, peak in zip(groups, peaks, strict=True):
                group["initial_lr"] = peak / div_factor
                group["max_lr"] = peak
                group["min_lr"] = group["initial_lr"] / final_div_factor
            if cycle_momentum:
                highs = _for_each("max_momentum", max_momentum, groups)
                lows = _for_each("base_momentum", base_momentum, groups)
                for group, high, low in zip(groups, highs, lows, strict=True):
                    group["max_momentum"], group["base_momentum"] = high, low
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the learning rates of batch ``last_epoch``; set the momentum on the way.

        Raises
        ------
        RangeError
            If all steps have been made.
        """
        step = self.last_epoch
        if step > self.total_steps:
            raise RangeError(
                f"OneCycleLR was made for {self.total_steps} steps and stepped once more: count "
                "the batches of all epochs into total_steps"
            )
        start = 0.0
        for phase in self._phases[:-1]:
            if step <= phase[0]:
                break
            start = phase[0]
        else:
            phase = self._phases[-1]
        end, rate_from, rate_to, momentum_from, momentum_to = phase
        done = (step - start) / (end - start) if end != start else 1.0
        rates = []
        for group in self._groups:
            rates.append(self._between(group[rate_from], group[rate_to], done))
            if self.cycle_momentum:
                momentum = self._between(group[momentum_from], group[momentum_to], done)
                if self._use_beta1:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum
        return rates

    def _between(self, start: float, end: float, done: float) -> float:
        if self._anneal_strategy == "cos":
            return end + (start - end) / 2.0 * (math.cos(math.pi * done) + 1)
        return (end - start) * done + start


_Phase = tuple[float, str, str, str, str]


def _phases(steps: int, rising: float, three: bool) -> list[_Phase]:
    """Last step of each phase, and the settings between which rate and momentum go in it."""
    up: _Phase = (rising * steps - 1, "initial_lr", "max_lr", "max_momentum", "base_momentum")
    if not three:
        return [up, (steps - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")]
    back = (2 * rising * steps - 2, "max_lr", "initial_lr", "base_momentum", "max_momentum")
    return [up, back, (steps - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum")]


def _for_each(name: str, value: float | Sequence[float], groups: list[Group]) -> list[float]:
    """One value for each group."""
    if not isinstance(value, Sequence):
        return [value] * len(groups)
    if len(value) != len(groups):
        raise RangeError(f"{name} expected a value for each of {len(groups)} groups, got {value}")
    return list(value)


def _at_least_one(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RangeError(f"{name} expected an int of at least 1, got {value!r}")
    return value
