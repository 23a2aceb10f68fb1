"""The compiler behind one typed decorator.

Kernels are compiled without Numba's ``parallel=True``: that costs a second or more of compile time
a function, and its OpenMP threads, which spin while they wait, fight with OpenBLAS's for the cores
(an im2col and a GEMM in turn took 8.3 ms that way, 2.7 ms apart). Instead they are plain loops
over a part of the work, release the GIL, and are shared out by :mod:`.threads`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from npresnet_kernels.cpu.cache import kept

__all__ = ["jit"]

F = TypeVar("F", bound=Callable[..., object])


def jit(function: F) -> F:
    """Compile a function of arrays and numbers at its first call with each set of dtypes.

    What is compiled is kept on disk; see :mod:`.cache`.
    """

    @functools.cache
    def dispatcher() -> Any:
        import numba  # as late as this: plans do without

        compiler: Any = numba.njit
        with kept() as keep:
            return compiler(cache=keep, nogil=True, error_model="numpy")(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> object:
        return dispatcher()(*arguments)

    return cast(F, call)
