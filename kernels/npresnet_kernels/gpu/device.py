"""The device under the gpu kernel set: its array module, its memory, its launches.

Launchers say what to run; only this file speaks to CuPy's modules and memory pools. CuPy compiles
a source with NVRTC when a kernel of it is first launched on a device, and keeps the binary on disk
(``CUPY_CACHE_DIR``, by default ``~/.cupy/kernel_cache``).
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from npresnet_kernels.contract import Array, Shape
from npresnet_kernels.gpu.errors import DeviceError, DeviceMemoryError
from npresnet_kernels.gpu.source import read_source

__all__ = [
    "THREADS",
    "DeviceError",
    "DeviceMemoryError",
    "array_module",
    "blocks",
    "empty",
    "launch",
    "out_of_memory",
    "release_memory",
    "scalar_type",
]

THREADS = 256
"""Threads a block, where a kernel has no wish of its own."""

MOST_BLOCKS = 1 << 20
"""Blocks a grid; kernels stride over what is left."""

FREE_SHARED = 48 * 1024
"""Bytes of dynamic shared memory that a kernel may use without asking."""

_SCALARS = {"float16": "half16", "float32": "float", "float64": "double", "uint16": "bfloat16"}


def array_module() -> Any:
    """Return CuPy."""
    return importlib.import_module("cupy")


def scalar_type(array: Array) -> str:
    """Return what CUDA C calls the elements of ``array``; bfloat16 is kept as uint16.

    Raises
    ------
    DeviceError
        If the kernels don't compute in its dtype.
    """
    try:
        return _SCALARS[array.dtype.name]
    except KeyError:
        raise DeviceError(
            f"the gpu kernels compute in {', '.join(_SCALARS)}, got {array.dtype}: convert it first"
        ) from None


def blocks(total: int, threads: int = THREADS) -> tuple[int]:
    """Return a grid with a thread for each of ``total`` elements, as far as a grid goes."""
    return (max(1, min(-(-total // threads), MOST_BLOCKS)),)


def empty(shape: Shape, dtype: Any) -> Array:
    """Return an uninitialised array on the current device.

    Where memory is short, what the pools hold unused is given back and the request repeated once.

    Raises
    ------
    DeviceMemoryError
        If there is no room even so.
    """
    xp = array_module()
    try:
        array: Array = xp.empty(shape, dtype)
    except xp.cuda.memory.OutOfMemoryError:
        release_memory()
        try:
            array = xp.empty(shape, dtype)
        except xp.cuda.memory.OutOfMemoryError:
            asked = math.prod(shape) * np.dtype(dtype).itemsize
            raise DeviceMemoryError(out_of_memory(f"{asked:,} bytes for {shape}")) from None
    return array


def release_memory() -> None:
    """Give what CuPy's pools hold unused back to the device."""
    xp = array_module()
    xp.get_default_memory_pool().free_all_blocks()
    xp.get_default_pinned_memory_pool().free_all_blocks()


def out_of_memory(asked: str) -> str:
    """Return the message of a request that failed."""
    free, total = array_module().cuda.runtime.memGetInfo()
    return (
        f"out of device memory: asked for {asked}, {free:,} of {total:,} bytes are free: use a "
        "smaller batch, or end other programs on this GPU (nvidia-smi lists them)"
    )


@functools.cache
def _module(
    cupy: Any, source: str, defines: tuple[tuple[str, str], ...], architecture: str | None
) -> Any:
    """The compiled source; CuPy compiles when a kernel is first launched, once a device.

    CuPy adds the device's architecture to the options; NVRTC goes by the first one that it finds.
    """
    options = ("-std=c++14", *(f"-D{name}={value}" for name, value in defines))
    if architecture is not None:
        options = (f"-arch={architecture}", *options)
    return cupy.RawModule(code=read_source(source), options=options)


@functools.cache
def _kernel(
    cupy: Any,
    device: int,
    source: str,
    name: str,
    defines: tuple[tuple[str, str], ...],
    shared: int,
    architecture: str | None,
) -> Any:
    """A kernel whose shared memory is set; CuPy sets it for the current ``device`` alone."""
    kernel = _module(cupy, source, defines, architecture).get_function(name)
    if shared > FREE_SHARED:
        kernel.max_dynamic_shared_size_bytes = shared
    return kernel


def _argument(value: Any) -> Any:
    """An argument as CuPy passes it: Python integers are ``long long``, floats ``double``."""
    if value is None:
        return np.int64(0)  # a null pointer
    if isinstance(value, int):
        return np.int64(value)
    return np.float64(value) if isinstance(value, float) else value


def launch(
    source: str,
    name: str,
    grid: Sequence[int],
    arguments: Sequence[Any],
    *,
    block: Sequence[int] = (THREADS,),
    shared: int = 0,
    defines: Mapping[str, str | int] | None = None,
    architecture: str | None = None,
) -> None:
    """Queue a kernel on the current stream of the current device; a grid of no blocks is no work.

    Parameters
    ----------
    source : str
        A file of this folder, such as ``"pool.cu"``.
    name : str
        One of its ``extern "C"`` kernels.
    grid, block : sequence of int
        One to three sizes each.
    arguments : sequence
        Arrays (their first element's address is passed, so contiguous ones), None (a null
        pointer), Python integers (``long long``), Python floats (``double``) and NumPy scalars
        (their own type).
    shared : int
        Bytes of dynamic shared memory.
    defines : mapping, optional
        Macros to compile with; ``SCALAR`` is the element type.
    architecture : str, optional
        What to compile for, such as ``"sm_90a"``, if that isn't the device's plain one.

    Raises
    ------
    DeviceError
        If the source can't be compiled, or the launch fails.
    """
    if not all(grid):
        return
    cupy = array_module()
    macros = tuple((key, str(value)) for key, value in (defines or {}).items())
    try:
        device = cupy.cuda.runtime.getDevice()
        kernel = _kernel(cupy, device, source, name, macros, shared, architecture)
        kernel(tuple(grid), tuple(block), tuple(map(_argument, arguments)), shared_mem=shared)
    except Exception as error:  # CuPy has half a dozen kinds, from compiler, driver and runtime
        raise DeviceError(_failure(source, name, grid, block, arguments, error)) from error


def _failure(
    source: str,
    name: str,
    grid: Sequence[int],
    block: Sequence[int],
    arguments: Sequence[Any],
    error: Exception,
) -> str:
    shown = ", ".join(
        f"{a.dtype}{list(a.shape)}" if getattr(a, "ndim", 0) else str(a) for a in arguments
    )
    return (
        f"CUDA kernel {name} of {source} failed with grid {tuple(grid)}, block {tuple(block)}, "
        f"arguments ({shown}): {error} (kernels run behind the program: where the fault lies in an "
        "earlier one, CUDA_LAUNCH_BLOCKING=1 in the environment finds it)"
    )
