"""What all optimizers share: groups of parameters with settings, and what they remember of each.

A subclass checks its settings in `check_settings` and changes one parameter in `update`; the loop
over groups and parameters is written once, here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import numpy as np

from npresnet.backend import for_arrays
from npresnet.errors import DtypeError, RangeError, WeightsError
from npresnet.tape import enable_grad
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = ["Group", "Optimizer", "Parameters", "UpdateKernels", "at_least_zero", "share"]

Group: TypeAlias = dict[str, Any]
Parameters: TypeAlias = Iterable[Tensor] | Iterable[Mapping[str, Any]]


class UpdateKernels(Protocol):
    """Updates that a training plan lends: the contract's, for the arrays that they take."""

    def takes_update(self, *arrays: Array | None) -> bool:
        """Return whether the updates can do these arrays."""
        ...

    sgd_update_: Callable[..., None]
    adamw_update_: Callable[..., None]


class Optimizer:
    """Base of the optimizers.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        The tensors to change; or groups, ``{"params": tensors, "lr": 0.01, ...}``, each with
        settings of its own.
    defaults : dict
        Settings of the groups that don't give theirs.

    Attributes
    ----------
    param_groups : list of dict
        ``"params"`` and the settings of each group; changing a setting takes effect at the next
        step.
    defaults : dict
        As given.
    state : dict of Tensor to dict
        What the optimizer remembers of each tensor, for instance its momentum.

    Raises
    ------
    DtypeError
        `params` is no iterable of tensors or groups.
    RangeError
        It is empty, a tensor comes twice or is the result of a computation, or a setting is out of
        range.
    """

    def __init__(self, params: Parameters, defaults: Mapping[str, Any]) -> None:
        name = type(self).__name__
        if isinstance(params, Tensor | Mapping) or not isinstance(params, Iterable):
            raise DtypeError(
                f"{name} expected an iterable of tensors or groups, got {type(params).__name__}: "
                "pass model.parameters()"
            )
        given = list(params)
        if not given:
            raise RangeError(
                f"{name} got no parameters: pass model.parameters(), and call it anew for each "
                "optimizer (an iterator can be gone through only once)"
            )
        self.defaults = dict(defaults)
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self._lent: UpdateKernels | None = None
        self.has_stepped = False  # schedules warn when they are stepped before the optimizer
        groups: list[Any] = given if isinstance(given[0], Mapping) else [{"params": given}]
        for group in groups:
            self.add_param_group(group)

    def check_settings(self, group: Group) -> None:
        """Raise a RangeError if a setting of the group is out of range."""
        at_least_zero(self, group, "lr")

    def update(self, param: Tensor, grad: Array, state: dict[str, Any], group: Group) -> None:
        """Change the values of one tensor, in place; `state` is the optimizer's memory of it."""
        raise NotImplementedError(f"{type(self).__name__} must define update")

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Take more tensors in, with settings of their own; what is left out is the default.

        Raises
        ------
        DtypeError, RangeError
            As the constructor.
        """
        name = type(self).__name__
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise DtypeError(
                f'{name} expected a group {{"params": tensors, ...}}, got {param_group!r:.80}'
            )
        group = {**self.defaults, **param_group}
        params = group["params"]
        group["params"] = [params] if isinstance(params, Tensor) else list(params)
        known = {id(param) for old in self.param_groups for param in old["params"]}
        for param in group["params"]:
            if not isinstance(param, Tensor):
                raise DtypeError(f"{name} expected tensors to optimize, got {type(param).__name__}")
            if not param.is_leaf:
                raise RangeError(
                    f"{name} can't change a computed tensor (shape {param.shape}): pass the "
                    "parameters that it was computed from"
                )
            if id(param) in known:
                raise RangeError(
                    f"{name} got a parameter of shape {param.shape} twice: each belongs to one "
                    "group, once"
                )
            known.add(id(param))
        self.check_settings(group)
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients collected so far, or set them to 0."""
        for group in self.param_groups:
            for param in group["params"]:
                if set_to_none or param.grad is None:
                    param.grad = None
                else:
                    with for_arrays([param.grad]).scope():
                        param.grad[...] = 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every tensor that has a gradient, in place.

        Parameters
        ----------
        closure : callable, optional
            Computes the gradients first; what it returns is returned.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    with for_arrays([param.data]).scope():
                        self.update(param, param.grad, self.state[param], group)
                    param._version += 1
        self.has_stepped = True
        return loss

    @contextmanager
    def borrowing(self, kernels: UpdateKernels | None) -> Iterator[None]:
        """Use these kernels within a ``with`` block, for the arrays that they take."""
        before, self._lent = self._lent, kernels
        try:
            yield
        finally:
            self._lent = before

    def kernels_for(self, *arrays: Array | None) -> Any:
        """Return the kernels that update these arrays."""
        lent = self._lent
        if lent is not None and lent.takes_update(*arrays):
            return lent
        return for_arrays(arrays).kernels

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return the settings and the memory, with tensors numbered in order, as torch does.

        Returns
        -------
        dict
            ``{"state": {number: {name: array or number}}, "param_groups": [...]}``; the arrays are
            shared.
        """
        number: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for param in group["params"]:
                number[id(param)] = len(number)
            numbers = [number[id(param)] for param in group["params"]]
            groups.append({**group, "params": numbers})
        state = {number[id(param)]: dict(kept) for param, kept in self.state.items() if kept}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over settings and memory from :meth:`state_dict` of an optimizer of the same form.

        Raises
        ------
        WeightsError
            The groups or shapes differ; then nothing was changed.
        """
        name = type(self).__name__
        try:
            saved_groups, saved_state = state_dict["param_groups"], state_dict["state"]
            numbers = [number for group in saved_groups for number in group["params"]]
            sizes = [len(group["params"]) for group in saved_groups]
        except (KeyError, TypeError):
            raise WeightsError(
                f'{name} expected a state dict with "state" and "param_groups": pass what '
                "optimizer.state_dict() returned"
            ) from None
        own_sizes = [len(group["params"]) for group in self.param_groups]
        if sizes != own_sizes:
            raise WeightsError(
                f"{name} has groups of {own_sizes} parameters, the state dict of {sizes}: make the "
                "optimizer as it was when it was saved"
            )
        params = [param for group in self.param_groups for param in group["params"]]
        state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        for number, param in zip(numbers, params, strict=True):
            for key, value in saved_state.get(number, {}).items():
                state[param][key] = _remembered(name, key, value, param)
        self.state = state
        for group, saved in zip(self.param_groups, saved_groups, strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})

    def __repr__(self) -> str:
        lines = []
        for i, group in enumerate(self.param_groups):
            settings = ", ".join(f"{k}={v}" for k, v in sorted(group.items()) if k != "params")
            lines.append(f"  group {i} ({len(group['params'])} parameters): {settings}")
        return "\n".join([f"{type(self).__name__} (", *lines, ")"])


def _remembered(optimizer: str, key: str, value: Any, param: Tensor) -> Any:
    """A value of the saved memory as the optimizer keeps it: an own array beside the tensor."""
    if value is None or isinstance(value, int | float):
        return value
    backend = for_arrays([param.data])
    array = value.data if isinstance(value, Tensor) else value
    if not hasattr(array, "dtype"):
        array = np.asarray(array)
    if key == "step":  # a tensor without dimensions in torch's state
        return array.item()
    if array.shape != param.shape:
        raise WeightsError(
            f"{optimizer} remembers {key!r} of shape {array.shape} for a parameter of shape "
            f"{param.shape}: make the optimizer as it was when it was saved"
        )
    with backend.scope():
        kept = np.empty_like(param.data)
        kept[...] = backend.asarray(array)
    return kept


def at_least_zero(optimizer: Optimizer, group: Group, *names: str) -> None:
    """Raise a RangeError unless these settings are finite numbers of at least 0."""
    for name in names:
        value = group[name]
        if not _is_number(value) or not 0 <= value < math.inf:
            raise RangeError(
                f"{type(optimizer).__name__} expected {name} to be a number of at least 0, "
                f"got {value!r}"
            )


def share(optimizer: Optimizer, name: str, value: Any) -> None:
    """Raise a RangeError unless `value` is a number from 0 up to, not including, 1."""
    if not _is_number(value) or not 0 <= value < 1:
        raise RangeError(
            f"{type(optimizer).__name__} expected {name} to be at least 0 and below 1, "
            f"got {value!r}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
