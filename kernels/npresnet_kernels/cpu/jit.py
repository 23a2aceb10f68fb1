"""The compiler behind one typed decorator.

Kernels are compiled without Numba's ``parallel=True``: that costs a second or more of compile time
a function, and its OpenMP threads, which spin while they wait, fight with OpenBLAS's for the cores
(an im2col and a GEMM in turn took 8.3 ms that way, 2.7 ms apart). Instead they are plain loops
over a part of the work, release the GIL, and are shared out by :mod:`.threads`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["jit"]

F = TypeVar("F", bound=Callable[..., object])
_warned = False


def jit(function: F) -> F:
    """Compile a function of arrays and numbers at its first call with each set of dtypes.

    What is compiled is kept on disk; where no folder can be written, a warning says so once and
    every process compiles for itself.
    """
    global _warned
    compiler: Any = numba.njit
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return cast(F, compiler(cache=True, **options)(function))
    except RuntimeError as error:  # Numba found no folder to keep its cache in
        if not _warned:
            _warned = True
            warnings.warn(
                f"compiled kernels are not kept between runs ({error}); "
                "set NUMBA_CACHE_DIR to a writable folder",
                RuntimeWarning,
                stacklevel=2,
            )
        return cast(F, compiler(**options)(function))
