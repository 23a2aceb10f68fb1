"""Arrays without numbers: what flows through a model while it is traced.

A :class:`StandIn` has a shape and a dtype; its memory is a single zero, whatever its size. NumPy's
functions and operators give stand-ins for stand-ins, so that a value derived from one is always
known to be. Its elements can't be read: code that asks for them branches on values that a trace
doesn't have.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from npresnet.errors import GraphError
from npresnet_kernels.contract import Array

__all__ = ["StandIn", "stand_in", "unreadable"]


def unreadable() -> NoReturn:
    """Raise the error for a model that looks at the numbers that flow through it."""
    raise GraphError(
        "the model can't be traced: its forward reads values of its tensors (bool, item, int, "
        'float, numpy() or printing), which differ from input to input: pass fallback="eager" to '
        "run it eagerly"
    )


class StandIn(np.ndarray):
    """An array whose elements nobody may look at; see :func:`stand_in`."""

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: Any, *inputs: Any, out: Any = None, **kwargs: Any
    ) -> Any:
        """Return stand-ins of the result's shapes; what ``out`` names is left as it was."""
        if out is not None:
            return out[0] if len(out) == 1 else out
        plain = [x.view(np.ndarray) if isinstance(x, StandIn) else x for x in inputs]
        with np.errstate(all="ignore"):
            if method == "__call__" and ufunc.signature is None:  # element by element
                shape = np.broadcast_shapes(*(np.shape(x) for x in plain))
                few = [np.ones((1,), x.dtype) if isinstance(x, np.ndarray) else x for x in plain]
                made = ufunc(*few, **kwargs)
                parts = made if isinstance(made, tuple) else (made,)
                results = tuple(stand_in(shape, np.asarray(part).dtype) for part in parts)
                return results if isinstance(made, tuple) else results[0]
            return _wrap(getattr(ufunc, method)(*plain, **kwargs))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Return what NumPy's function returns, as stand-ins."""
        return _wrap(super().__array_function__(func, types, args, kwargs))

    def argmax(self, *args: Any, **kwargs: Any) -> Any:
        """Return a stand-in of the positions' shape."""
        return _wrap(self.view(np.ndarray).argmax(*args, **kwargs))

    def argmin(self, *args: Any, **kwargs: Any) -> Any:
        """Return a stand-in of the positions' shape."""
        return _wrap(self.view(np.ndarray).argmin(*args, **kwargs))

    def item(self, *args: Any) -> Any:
        """Raise: there are no numbers to read."""
        unreadable()

    def tolist(self) -> Any:
        """Raise: there are no numbers to read."""
        unreadable()

    def __bool__(self) -> bool:
        unreadable()

    def __int__(self) -> int:
        unreadable()

    def __float__(self) -> float:
        unreadable()

    def __index__(self) -> int:
        unreadable()


def stand_in(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an array of any size that takes the memory of one element."""
    return np.broadcast_to(np.zeros((), dtype), shape).view(StandIn)


def _wrap(result: Any) -> Any:
    """Return arrays and NumPy's scalars as stand-ins."""
    if isinstance(result, tuple | list):
        return type(result)(_wrap(part) for part in result)
    if isinstance(result, np.ndarray | np.generic):
        return stand_in(result.shape, result.dtype)
    return result
