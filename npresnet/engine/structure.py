"""What a model is made of, to see whether it is another one than a plan was made for."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from npresnet.nn import Module
from npresnet.nn.module import structure_version

__all__ = ["Structure"]

SETTINGS = (bool, int, float, str, type(None))
"""Types of attributes that say how a layer computes, and tuples of them: a stride, an eps."""


class Structure:
    """A model's layers, parameters, buffers, hooks and settings, as they are now.

    Modes aren't among them: an inference plan doesn't ask, a training plan looks for itself.
    """

    def __init__(self, model: Module) -> None:
        self._model = model
        self._version = structure_version()
        self._parts, self._settings = list(_parts(model)), list(_settings(model))

    def holds(self) -> bool:
        """Return whether the model is still made of the same."""
        version = structure_version()
        if version == self._version:
            return True
        parts = list(_parts(self._model))
        if len(parts) != len(self._parts) or not all(map(operator.is_, parts, self._parts)):
            return False
        if list(_settings(self._model)) != self._settings:
            return False
        self._version = version  # some other model has changed
        return True


def _parts(model: Module) -> Iterator[Any]:
    """Yield what is the same only if it is the same object."""
    yield from model.modules()
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        yield from module.__dict__["_forward_hooks"].values()
        yield from module.__dict__["_forward_pre_hooks"].values()


def _settings(model: Module) -> Iterator[tuple[str, Any]]:
    """Yield what is the same if it is equal."""
    for module in model.modules():
        for name, value in list(module.__dict__.items()):
            if name != "training" and _is_setting(value):
                yield name, value


def _is_setting(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_setting, value))
    return isinstance(value, SETTINGS)
