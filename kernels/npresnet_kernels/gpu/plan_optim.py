"""Optimizer steps of plans: many tensors a launch, a step's numbers read from device memory.

``clock`` is a float64 array (2,): the learning rate, and the steps done so far. ``scaling`` is a
float32 array (3,): the loss scale, its inverse, and whether all gradients are finite (1 or 0); None
where the loss isn't scaled and gradients aren't looked at. A step whose gradients aren't finite
changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.device import array_module, launch
from npresnet_kernels.gpu.errors import DeviceError
from npresnet_kernels.gpu.memory import address

__all__ = [
    "UpdateTable",
    "adamw_step_",
    "all_finite",
    "count_step_",
    "sgd_step_",
    "update_table",
]

SOURCE = "plan_optim.cu"
CHUNK = 8192
"""Elements that a block updates, as in plan_optim.cu."""


class UpdateTable:
    """Where parameters, gradients and moments lie, in device memory; keeps them alive.

    Parameters
    ----------
    columns : sequence of sequences of array
        Parameters, their gradients, and what the optimizer keeps of each: float32, C-contiguous.

    Raises
    ------
    DeviceError
        If an array is something else, or sizes differ.
    """

    def __init__(self, columns: Sequence[Sequence[Array]]) -> None:
        self.arrays = [tuple(column) for column in columns]
        self.roles = len(columns)
        entries: list[list[int]] = []
        places: list[tuple[int, int]] = []
        for tensors in zip(*self.arrays, strict=True):
            size = tensors[0].size
            for array in tensors:
                _check(array, size)
            places += [(len(entries), chunk) for chunk in range(-(-size // CHUNK))]
            entries.append([*map(address, tensors), size])
        xp = array_module()
        self.blocks = len(places)
        self.entries: Array = xp.asarray(np.array(entries, np.int64).reshape(-1, self.roles + 1))
        self.places: Array = xp.asarray(np.array(places, np.int32).reshape(-1, 2))


def _check(array: Array, size: int) -> None:
    if array.dtype != np.float32 or not array.flags.c_contiguous or array.size != size:
        raise DeviceError(
            f"an optimizer step expected C-contiguous float32 arrays of {size} elements, got "
            f"{array.dtype}, shape {array.shape}, strides {array.strides}: update it by itself"
        )


def update_table(
    parameters: Sequence[Array], grads: Sequence[Array], *states: Sequence[Array]
) -> UpdateTable:
    """Return the table of tensors that take the same steps; make it before recording."""
    return UpdateTable([parameters, grads, *states])


def _launch(kernel: str, table: UpdateTable, *arguments: Any) -> None:
    if table.blocks:
        first = (table.entries, table.places, np.int32(table.roles))
        launch(SOURCE, kernel, (table.blocks,), (*first, *arguments))


def all_finite(tables: Iterable[UpdateTable], scaling: Array, loss: Array | None = None) -> None:
    """Write into ``scaling[2]`` whether no gradient, nor the loss (1,), is infinite or NaN."""
    launch(SOURCE, "begin_finite", (1,), (scaling, loss), block=(1,))
    for table in tables:
        _launch("find_infinite", table, scaling)


def count_step_(clock: Array, scaling: Array | None) -> None:
    """Count a step, unless its gradients weren't finite."""
    launch(SOURCE, "count_step", (1,), (clock, scaling), block=(1,))


def sgd_step_(
    table: UpdateTable,
    clock: Array,
    scaling: Array | None,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """One step of torch's SGD; the table has momentum buffers exactly if there is momentum."""
    numbers = (float(momentum), float(dampening), float(weight_decay), np.int32(nesterov))
    _launch("sgd_step", table, clock, scaling, *numbers)


def adamw_step_(
    table: UpdateTable,
    clock: Array,
    scaling: Array | None,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """One step of torch's AdamW; the table has means and mean squares of the gradients."""
    numbers = map(float, (beta1, beta2, eps, weight_decay))
    _launch("adamw_step", table, clock, scaling, *numbers)
