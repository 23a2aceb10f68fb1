"""The optimizer's update inside a recorded training step.

A recording repeats its launches with the numbers that they had, so those that change from step to
step, the learning rate and the count of steps, lie in the device's memory, and are written there
when they are other than what is there. All other settings are part of the recording.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from npresnet.backend import Backend
from npresnet.engine.kernels import RecordedKernels
from npresnet.optim import SGD, AdamW
from npresnet.optim.optimizer import Group, Optimizer
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = ["Update"]

Memory = dict[str, Any]


class _Rule(Protocol):
    """How an optimizer's update is done by the plan kernels."""

    def states(self, group: Group) -> tuple[str, ...]:
        """Return the names of the arrays that it keeps of a tensor."""
        ...

    def settings(self, group: Group) -> tuple[Any, ...]:
        """Return what of a group's settings stays the same for long."""
        ...

    def steps(self, memory: Memory) -> int:
        """Return the steps done before, as far as they matter."""
        ...

    def keep(self, memory: Memory, arrays: Mapping[str, Array], steps: int) -> None:
        """Let an optimizer's memory of a tensor be what it is after so many steps."""
        ...

    def launch(self, kernels: RecordedKernels, table: Any, *numbers: Any) -> None:
        """Update the tensors of a table: clock, scaling, settings."""
        ...


class _Sgd:
    def states(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def settings(self, group: Group) -> tuple[Any, ...]:
        numbers = (float(group[name]) for name in ("momentum", "dampening", "weight_decay"))
        return (*numbers, bool(group["nesterov"]))

    def steps(self, memory: Memory) -> int:
        return int(memory.get("momentum_buffer") is not None)

    def keep(self, memory: Memory, arrays: Mapping[str, Array], steps: int) -> None:
        memory.update(arrays)

    def launch(self, kernels: RecordedKernels, table: Any, *numbers: Any) -> None:
        kernels.sgd_step_(table, *numbers)


class _AdamW:
    def states(self, group: Group) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"

    def settings(self, group: Group) -> tuple[Any, ...]:
        numbers = (*group["betas"], group["eps"], group["weight_decay"])
        return tuple(float(number) for number in numbers)

    def steps(self, memory: Memory) -> int:
        return int(memory.get("step", 0))

    def keep(self, memory: Memory, arrays: Mapping[str, Array], steps: int) -> None:
        memory.update(step=steps, **arrays)

    def launch(self, kernels: RecordedKernels, table: Any, *numbers: Any) -> None:
        kernels.adamw_step_(table, *numbers)


_RULES: dict[type[Optimizer], _Rule] = {SGD: _Sgd(), AdamW: _AdamW()}


@dataclass(eq=False)
class _Part:
    """Tensors that are updated alike: with the same settings, after as many steps.

    Attributes
    ----------
    settings : tuple
        As its rule says.
    arrays : list of array
        Parameters, gradients and what the optimizer keeps, in one row.
    tensors : list of Tensor
        The parameters.
    states : list of dict
        For each, the arrays that the optimizer keeps of it.
    table : object
        What the kernels know them by.
    clock : array
        The learning rate and the steps done before, on the device.
    written : (float, int)
        What stands there.
    """

    settings: tuple[Any, ...]
    arrays: list[Array]
    tensors: list[Tensor]
    states: list[dict[str, Array]]
    table: Any
    clock: Array
    written: tuple[float, int] = (-1.0, -1)

    def is_for(self, settings: tuple[Any, ...], arrays: list[Array]) -> bool:
        """Return whether it updates these arrays with these settings."""
        same = self.settings == settings and len(self.arrays) == len(arrays)
        return same and all(map(operator.is_, self.arrays, arrays))


class Update:
    """The update of one optimizer for the gradients of one program.

    Parameters
    ----------
    optimizer : Optimizer
        One that :meth:`knows`.
    kernels : RecordedKernels
        Of the program.
    backend : Backend
        Where it runs.
    """

    def __init__(self, optimizer: Optimizer, kernels: RecordedKernels, backend: Backend) -> None:
        self._optimizer, self._kernels, self._backend = optimizer, kernels, backend
        self._rule = _RULES[type(optimizer)]
        self._parts: list[_Part] = []
        # arrays for tensors that no step was taken with yet
        self._fresh: dict[Tensor, dict[str, Array]] = {}

    @staticmethod
    def knows(optimizer: Optimizer) -> bool:
        """Return whether the kernels have this optimizer's rule."""
        return type(optimizer) in _RULES

    def prepare(self, grads: Mapping[Tensor, Array]) -> list[Any] | None:
        """Bring the device's memory up to what the optimizer's settings and memory say now.

        Parameters
        ----------
        grads : mapping of Tensor to array
            Where the gradients will be.

        Returns
        -------
        list or None
            What a recording of :meth:`run` depends on; None if the kernels can't update these
            arrays.
        """
        wanted = []
        for group in self._optimizer.param_groups:
            by_steps: dict[int, list[Tensor]] = {}
            for tensor in group["params"]:
                if tensor in grads:
                    steps = self._rule.steps(self._optimizer.state.get(tensor, {}))
                    by_steps.setdefault(steps, []).append(tensor)
            wanted += [(group, steps, tensors) for steps, tensors in by_steps.items()]
        parts = []
        for place, (group, steps, tensors) in enumerate(wanted):
            states = [self._arrays(tensor, group) for tensor in tensors]
            arrays = [
                [tensor.data for tensor in tensors],
                [grads[tensor] for tensor in tensors],
                *([state[name] for state in states] for name in self._rule.states(group)),
            ]
            row = [array for kind in arrays for array in kind]
            if not all(map(_plain, row)):
                return None
            settings = self._rule.settings(group)
            part = self._parts[place] if place < len(self._parts) else None
            if part is None or not part.is_for(settings, row):
                clock = self._kernels.memory(16).view(np.float64)
                table = self._kernels.update_table(*arrays)
                part = _Part(settings, row, tensors, states, table, clock)
            shows = float(group["lr"]), steps
            if part.written != shows:
                part.clock[...] = self._backend.asarray(np.array(shows, np.float64))
                part.written = shows
            parts.append(part)
        self._parts = parts
        return list(parts)

    def run(self, scaling: Array, loss: Array | None = None) -> None:
        """Change the parameters, if all gradients are finite, and the loss if it is given.

        On the device alone.
        """
        kernels = self._kernels
        kernels.all_finite([part.table for part in self._parts], scaling, loss)
        for part in self._parts:
            self._rule.launch(kernels, part.table, part.clock, scaling, *part.settings)
            kernels.count_step_(part.clock, scaling)

    def finish(self, stepped: bool) -> None:
        """Note a step that :meth:`run` took, or, of gradients that weren't finite, did not."""
        self._optimizer.has_stepped = True
        if not stepped:
            return
        for part in self._parts:
            lr, steps = part.written
            for tensor, arrays in zip(part.tensors, part.states, strict=True):
                memory = self._optimizer.state[tensor]
                self._rule.keep(memory, arrays, steps + 1)
                part.written = lr, self._rule.steps(memory)  # the device has counted too
                self._fresh.pop(tensor, None)
                tensor._version += 1

    def _arrays(self, tensor: Tensor, group: Group) -> dict[str, Array]:
        """Return what the optimizer keeps of a tensor, made if there is nothing yet."""
        names = self._rule.states(group)
        memory = self._optimizer.state.get(tensor, {})
        if all(memory.get(name) is not None for name in names):
            return {name: memory[name] for name in names}
        if set(self._fresh.get(tensor, ())) != set(names):
            xp = self._backend.xp
            self._fresh[tensor] = {name: xp.zeros_like(tensor.data) for name in names}
        return self._fresh[tensor]


def _plain(array: Array) -> bool:
    """Return whether the kernels can update an array."""
    return array.dtype == np.float32 and bool(array.flags.c_contiguous)
