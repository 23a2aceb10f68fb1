"""What a model is made of, to see whether it is another one than a plan was made for."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from npresnet.nn import Module
from npresnet.nn.module import structure_version
from npresnet.tensor import Tensor

__all__ = ["Structure"]

SETTINGS = (bool, int, float, str, type(None), np.generic)
"""Types of attributes that say how a layer computes: a stride, an eps."""


class Structure:
    """A model's layers, parameters, buffers, hooks, settings and constants, as they are now.

    Settings are attributes that are numbers, strings, functions, other layers, or lists, tuples and
    dicts of them; what changes inside of a list or dict is seen when something else changes, too.
    Modes aren't among them: an inference plan doesn't ask, a training plan looks for itself.

    Parameters
    ----------
    model : Module
    constants : iterable of Tensor
        What the traced graph reads: attributes that are one of these, or its array, are watched.
        Other tensors, like a feature map that forward leaves behind, aren't.
    """

    def __init__(self, model: Module, constants: Iterable[Tensor] = ()) -> None:
        self._model = model
        self._version = structure_version()
        self._constants = list(constants)
        self._parts, self._settings = list(_parts(model)), list(self._found())

    def holds(self) -> bool:
        """Return whether the model is still made of the same."""
        version = structure_version()
        if version == self._version:
            return True
        parts = list(_parts(self._model))
        if len(parts) != len(self._parts) or not all(map(operator.is_, parts, self._parts)):
            return False
        if list(self._found()) != self._settings:
            return False
        self._version = version  # some other model has changed
        return True

    def _found(self) -> Iterator[tuple[str, Any]]:
        """Yield what is the same if it is equal."""
        for module in self._model.modules():
            for name, value in list(module.__dict__.items()):
                if name not in _OWN:
                    yield name, self._compared(value)

    def _compared(self, value: Any) -> Any:
        """Return what stands for an attribute's value; None for what isn't watched."""
        if isinstance(value, SETTINGS) or callable(value):
            return value
        if isinstance(value, list | tuple):
            return [self._compared(each) for each in value]
        if isinstance(value, dict):
            return [(key, self._compared(each)) for key, each in value.items()]
        tensors = enumerate(self._constants)
        return next((("constant", i) for i, t in tensors if value is t or value is t.data), None)


_OWN = frozenset(Module().__dict__)
"""Attributes of every module: its mode, and the tables that `_parts` looks into."""


def _parts(model: Module) -> Iterator[Any]:
    """Yield what is the same only if it is the same object."""
    yield from model.modules()
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        yield from module.__dict__["_forward_hooks"].values()
        yield from module.__dict__["_forward_pre_hooks"].values()
