"""What a plan works out of the parameters once, and how it sees that they changed.

npresnet counts up a tensor's version when it writes to it (optimizers, ``load_state_dict``,
initialisation), and a moved or converted model has other arrays. What users write into arrays
themselves is found by comparing samples of their elements at every call; a change that misses all
samples needs ``plan.refresh()``. On a device, reading samples would make the host wait at every
call: there, what users write into arrays themselves always needs ``plan.refresh()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from npresnet.backend import Backend
from npresnet.engine.graph import Node, Value
from npresnet.engine.steps import Step
from npresnet.tape import Context
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = ["Mark", "Prepared", "prepare"]

WHOLE = 1024
"""Elements up to which an array is compared as a whole."""

SAMPLES = 64
"""Elements that are compared of a larger one."""


class Mark:
    """What a tensor was like."""

    __slots__ = ("_array", "_samples", "_seen", "_tensor", "_version")

    def __init__(self, tensor: Tensor, backend: Backend) -> None:
        array = tensor.data
        self._tensor = tensor
        self._array = array
        self._version = tensor._version
        self._samples = None
        if not backend.reads_at_once:
            return
        # a view: what is written into the array shows here
        flat = array.T if array.flags.f_contiguous else array
        step = 1 if array.size <= WHOLE else array.size // SAMPLES
        self._samples = flat.reshape(-1)[::step] if flat.flags.c_contiguous else array
        self._seen = self._samples.tobytes()

    def holds(self) -> bool:
        """Return whether the tensor is, as far as can be seen, as it was."""
        tensor = self._tensor
        return (
            tensor.data is self._array
            and tensor._version == self._version
            and (self._samples is None or self._samples.tobytes() == self._seen)
        )


@dataclass(frozen=True)
class Prepared:
    """Everything that was worked out of the parameters; replaced where they change.

    On a device that replays recordings the arrays stay the same ones, and are written anew.

    Attributes
    ----------
    values : dict of Value to array
        Parameters, and what depends on them alone, as far as steps read them.
    packs : list
        For each step, what its ``prepare`` returned.
    marks : list of Mark
        Of every tensor that was looked at.
    """

    values: dict[Value, Array]
    packs: list[Any]
    marks: list[Mark]

    def holds(self) -> bool:
        """Return whether no tensor has changed since; without marks it never does."""
        return bool(self.marks) and all([mark.holds() for mark in self.marks])


def prepare(
    outside: Sequence[Value],
    nodes: Sequence[Node],
    steps: Sequence[Step],
    kept: Sequence[Value],
    backend: Backend,
    *,
    own: bool = False,
    over: Prepared | None = None,
) -> Prepared:
    """Work out everything that depends on parameters alone.

    Parameters
    ----------
    outside : sequence of Value
        Parameters, buffers and constants.
    nodes : sequence of Node
        Those that read nothing else.
    steps : sequence of Step
        What the plan runs.
    kept : sequence of Value
        What steps read, or the plan returns.
    backend : Backend
        Where to compute.
    own : bool
        Whether the arrays are to be no parameter's own.
    over : Prepared, optional
        Whose arrays, of ``own``, are written over, in place of new ones.
    """
    tensors = [value.source for value in outside if value.source is not None]
    marks = [
        Mark(tensor, backend) for tensor in tensors
    ]  # first: a change from now on is seen later
    known = {v: backend.asarray(v.source.data) for v in outside if v.source is not None}
    makers = {node.output: node for node in nodes}

    def lookup(value: Value) -> Array:
        """Work out one value; it isn't kept here, since packed copies are as large again."""
        if value in known:
            return known[value]
        node = makers[value]
        arrays = [None if v is None else lookup(v) for v in node.inputs]
        context = Context(backend, (False,) * len(arrays))
        result: Array = context.xp.asarray(
            node.operation.forward(context, *arrays, **node.attributes)
        )
        return result

    if over is not None:
        over.marks.clear()  # where this breaks off, some arrays are new and some old
        for step, pack in zip(steps, over.packs, strict=True):
            step.prepare(lookup, pack)
        for value, array in over.values.items():
            array[...] = lookup(value)
        return Prepared(over.values, over.packs, marks)
    packs = [step.prepare(lookup) for step in steps]
    values = {value: lookup(value) for value in kept}
    if own:
        values = {v: a.copy() if v in known else a for v, a in values.items()}
    return Prepared(values, packs, marks)
