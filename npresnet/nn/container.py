"""Modules that hold other modules."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

from npresnet.errors import ModuleError
from npresnet.nn.module import Module

__all__ = ["ModuleList", "Sequential"]


class _Numbered(Module):
    """Children named "0", "1", ... and picked by position."""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def _key(self, index: int) -> str:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} modules")
        return list(self._modules)[position]

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            picked = type(self)()
            for name, module in list(self._modules.items())[index]:
                picked.add_module(name, module)
            return picked
        return self._modules[self._key(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(self._key(index), _module(module))

    def append(self, module: Module) -> Any:
        """Add a module at the end; return the container."""
        self.add_module(str(len(self)), _module(module))
        return self


class Sequential(_Numbered):
    """Modules applied one after the other.

    Parameters
    ----------
    *modules : Module, or one dict
        The modules in order; a dict gives them names.
    """

    def __init__(self, *modules: Module | dict[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], dict):
            for name, module in modules[0].items():
                self.add_module(name, _module(module))
        else:
            for child in modules:
                self.append(_module(child))

    def forward(self, input: Any) -> Any:
        """Hand the input through the modules."""
        for module in self.children():
            input = module(input)
        return input


class ModuleList(_Numbered):
    """A list of modules; it has no forward of its own."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Add several modules at the end; return the list."""
        for module in modules:
            self.append(module)
        return self


def _module(value: Any) -> Module:
    """Return ``value`` if it is a module."""
    if not isinstance(value, Module):
        raise ModuleError(f"expected a Module, got {type(value).__name__}: {value!r:.60}")
    return value
