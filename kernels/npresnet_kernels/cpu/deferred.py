"""Numba, when something has to be compiled: a process that finds its kernels on disk needs none.

Importing Numba and waking up its typing takes longer than all else between a process's start and
its first logits. So a decorator only notes here what a function is, and :func:`for_numba` hands
Numba what it knows how to call when the time has come.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from types import FunctionType
from typing import Any, TypeVar

__all__ = ["Intrinsic", "for_numba", "helper"]

F = TypeVar("F", bound=Callable[..., Any])

_helpers: set[Callable[..., Any]] = set()


class Intrinsic:
    """LLVM IR that compiled code calls like a function.

    Parameters
    ----------
    name : str
    arguments : sequence of str
        Numba's names of their types.
    result : str
        Likewise.
    generate : callable
        ``generate(context, builder, signature, values)`` emits the code and returns its value.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], result: str, generate: Callable[..., Any]
    ) -> None:
        self.name, self.arguments, self.result = name, tuple(arguments), result
        self.generate = generate

    @functools.cached_property
    def known(self) -> Any:
        """What Numba calls."""
        from numba import types
        from numba.extending import intrinsic

        kinds = [getattr(types, kind) for kind in self.arguments]
        signature = getattr(types, self.result)(*kinds)

        def typed(typing_context: Any, *values: Any) -> Any:
            return signature, self.generate

        # Numba reads the number of arguments off the signature
        kind = Parameter.POSITIONAL_OR_KEYWORD
        parameters = [Parameter(f"argument{i}", kind) for i in range(1 + len(kinds))]
        typed.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        typed.__name__ = typed.__qualname__ = self.name
        return intrinsic(typed)


def helper(function: F) -> F:
    """Let kernels call a function; called from Python it stays what it is. A decorator."""
    _helpers.add(function)
    return function


def for_numba(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with all that it calls made known to Numba."""
    known = {}
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, Intrinsic):
            known[name] = value.known
        elif isinstance(value, FunctionType) and value in _helpers:
            known[name] = _known_helper(value)
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **known},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__qualname__ = function.__qualname__
    return copy


@functools.cache
def _known_helper(function: Callable[..., Any]) -> Any:
    from numba.extending import register_jitable

    return register_jitable(for_numba(function))
