"""Loss scaling: small gradients are kept from vanishing in 16-bit floats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from npresnet.backend import for_arrays
from npresnet.errors import DtypeError, GraphError, RangeError, TrainingError, WeightsError
from npresnet.optim.optimizer import Optimizer
from npresnet.tensor import Tensor

__all__ = ["GradScaler"]

Loss = TypeVar("Loss", Tensor, list[Tensor], tuple[Tensor, ...])

_GREATEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass
class _Seen:
    """What is known of an optimizer's gradients since the last update of the scale."""

    overflowed: bool
    stepped: bool = False


class GradScaler:
    """Scale losses so that gradients fit 16-bit floats, by torch.amp.GradScaler's rules.

    The loss is multiplied by a factor before backward, and the gradients, kept in float32, are
    divided by it before the step (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2). The
    factor finds itself: a step whose gradients aren't all finite is left out and lowers it;
    `growth_interval` steps in a row without one raise it. float16 needs this; bfloat16, whose
    range is float32's, doesn't.

    `npresnet.compile_step` does all of it: pass it a scaler, or none and ``precision="fp16"``.
    By hand::

        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    Parameters
    ----------
    init_scale : float
        The factor to begin with, above 0.
    growth_factor : float
        By what the factor is raised, above 1.
    backoff_factor : float
        By what it is multiplied after an overflow, above 0 and below 1.
    growth_interval : int
        Steps in a row without an overflow after which it is raised, at least 1.
    enabled : bool
        False makes `step` the optimizer's own, and everything else do nothing.

    Raises
    ------
    RangeError
        A number is out of range.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if (
            isinstance(growth_interval, bool)
            or not isinstance(growth_interval, int)
            or growth_interval < 1
        ):
            raise RangeError(
                "GradScaler expected growth_interval to be an int of at least 1, got "
                f"{growth_interval!r}"
            )
        self._scale = float(np.float32(_number("init_scale", init_scale, 0, _GREATEST)))
        self._growth_factor = _number("growth_factor", growth_factor, 1, math.inf)
        self._backoff_factor = _number("backoff_factor", backoff_factor, 0, 1)
        self._growth_interval = growth_interval
        self._growth_tracker = 0
        self._enabled = bool(enabled)
        self._seen: dict[Optimizer, _Seen] = {}

    # ------------------------------------------------------------------ by hand

    def scale(self, outputs: Loss) -> Loss:
        """Return a loss, or each of several, times the factor."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._scale
        if not isinstance(outputs, list | tuple):
            raise DtypeError(
                f"GradScaler scales a Tensor or a list of them, got {type(outputs).__name__}: pass "
                "the loss before item()"
            )
        return type(outputs)(self.scale(output) for output in outputs)

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the factor, and see whether all are finite.

        `step` does this unless it was done before, to clip the gradients, for instance.

        Raises
        ------
        GraphError
            It was done since the last `update`, or there are no gradients.
        DtypeError
            A gradient is a float16: parameters belong in float32.
        """
        if not self._enabled:
            return
        if optimizer in self._seen:
            raise GraphError(
                f"the gradients of this {type(optimizer).__name__} were unscaled since the last "
                "update: call scaler.update() after each scaler.step(optimizer)"
            )
        groups = optimizer.param_groups
        params = [p for group in groups for p in group["params"] if p.grad is not None]
        if not params:
            raise GraphError(
                f"GradScaler found no gradients of {type(optimizer).__name__}: call "
                "scaler.scale(loss).backward() first"
            )
        for param in params:
            if param.grad.dtype.itemsize < 4:
                raise DtypeError(
                    f"GradScaler expected gradients in float32, got {param.grad.dtype}: keep the "
                    'parameters in float32, as compile_step(..., precision="fp16") does'
                )
        inverse = float(np.float32(1 / self._scale))
        wrong: list[Any] = []  # a flag each, where the gradient lives: it is waited for only once
        for param in params:
            backend = for_arrays([param.grad])
            with backend.scope():
                wrong.append(~backend.xp.isfinite(param.grad).all())
                with np.errstate(all="ignore"):
                    param.grad = param.grad * inverse  # a new one: the old may be shared
        self._seen[optimizer] = _Seen(any(map(bool, wrong)))

    def step(self, optimizer: Optimizer) -> None:
        """Take the optimizer's step, unless a gradient isn't finite; then nothing changes.

        Raises
        ------
        GraphError
            The step was taken since the last `update`; else as `unscale_`.
        DtypeError
            As `unscale_`.
        """
        if not self._enabled:
            optimizer.step()
            return
        if optimizer not in self._seen:
            self.unscale_(optimizer)
        seen = self._seen[optimizer]
        if seen.stepped:
            raise GraphError(
                f"this {type(optimizer).__name__} was stepped since the last update: call "
                "scaler.update() after each scaler.step(optimizer)"
            )
        seen.stepped = True
        if not seen.overflowed:
            optimizer.step()
        optimizer.has_stepped = True  # a schedule goes on, whether or not the step was left out

    def update(self, new_scale: float | None = None) -> None:
        """Let the factor follow what `step` found, or set it to ``new_scale``.

        Raises
        ------
        GraphError
            No optimizer was stepped or unscaled since the last `update`.
        RangeError
            ``new_scale`` isn't above 0.
        """
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(np.float32(_number("new_scale", new_scale, 0, _GREATEST)))
        elif not self._seen:
            raise GraphError(
                "GradScaler has looked at no gradients since the last update: call "
                "scaler.step(optimizer) first"
            )
        else:
            self.advance(any(seen.overflowed for seen in self._seen.values()))
        self._seen = {}

    # ------------------------------------------------------------------ the rule

    def advance(self, overflowed: bool) -> None:
        """Let the factor follow one step, of which it is known whether a gradient overflowed.

        That is all that `update` does; plans look at the gradients themselves. The factor is a
        float32, and isn't raised beyond the greatest of them.

        Raises
        ------
        TrainingError
            Gradients overflowed so often in a row that no factor is small enough.
        """
        if not self._enabled:
            return
        if overflowed:
            lower = float(np.float32(self._scale * self._backoff_factor))
            if lower < _SMALLEST:
                raise TrainingError(
                    f"gradients overflow although the loss is scaled by {self._scale:g} only: look "
                    "for NaN or infinity in the images and weights, or lower the learning rate"
                )
            self._scale, self._growth_tracker = lower, 0
            return
        self._growth_tracker += 1
        if self._growth_tracker == self._growth_interval:
            self._growth_tracker = 0
            if self._scale * self._growth_factor <= _GREATEST:
                self._scale = float(np.float32(self._scale * self._growth_factor))

    def get_scale(self) -> float:
        """Return the factor; 1 if scaling is off."""
        return self._scale if self._enabled else 1.0

    def is_enabled(self) -> bool:
        """Return whether scaling is on."""
        return self._enabled

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to go on, under torch's names; empty if scaling is off.

        Returns
        -------
        dict
            ``scale``, ``growth_factor``, ``backoff_factor``, ``growth_interval`` and
            ``_growth_tracker``, the steps since the last overflow or growth.
        """
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, here or in torch; nothing if scaling is off.

        Raises
        ------
        WeightsError
            An entry is missing.
        RangeError
            A number is out of range. In either case nothing was changed.
        """
        if not self._enabled:
            return
        names = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
        missing = [name for name in names if name not in state_dict]
        if missing:
            raise WeightsError(
                f"the state dict of a GradScaler lacks {', '.join(missing)}: pass what "
                "scaler.state_dict() of one that was enabled returned"
            )
        *numbers, steps = (state_dict[name] for name in names)
        checked = GradScaler(*numbers)
        checked._growth_tracker, checked._seen = int(steps), self._seen
        vars(self).update(vars(checked))

    def __repr__(self) -> str:
        if not self._enabled:
            return "GradScaler(enabled=False)"
        state = self.state_dict()
        return f"GradScaler({', '.join(f'{name}={value:g}' for name, value in state.items())})"


def _number(name: str, value: Any, low: float, high: float) -> float:
    """Return a number, checked to lie strictly between two."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        value = math.nan
    if not low < value < high:
        raise RangeError(
            f"GradScaler expected {name} to be a number above {low:g}"
            f"{f' and below {high:g}' if math.isfinite(high) else ''}, got {value!r}"
        )
    return float(value)
