"""The switch: which kernel set computes, which array module holds the numbers, where they live.

A backend is a kernel set. ``reference`` and ``cpu`` compute on NumPy arrays, ``gpu`` on CuPy's;
each offers the functions of :mod:`npresnet_kernels.contract`. Choosing a backend chooses the
module, and nobody else in npresnet asks which device it is on: code asks :func:`for_arrays` for
the backend of the arrays in its hands and calls ``backend.kernels`` or ``backend.xp``.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np

from npresnet.errors import BackendError
from npresnet_kernels.contract import Array, KernelSet

__all__ = [
    "Backend",
    "current_backend",
    "for_arrays",
    "get_backend",
    "resolve",
    "set_backend",
    "use_backend",
]

_NAMES = "'reference', 'cpu', 'gpu' or 'gpu:N'"


class Backend:
    """A kernel set together with the arrays it works on.

    Attributes
    ----------
    name : str
        ``"reference"``, ``"cpu"`` or ``"gpu:N"``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._kernels: KernelSet | None = None
        self._lock = threading.Lock()

    @property
    def kernels(self) -> KernelSet:
        """The kernel set, loaded when it is first needed (Numba takes longer than all the rest)."""
        if self._kernels is None:
            with self._lock:
                if self._kernels is None:
                    self._kernels = self._load()
        return self._kernels

    @property
    def plan_kernels(self) -> Any:
        """Kernels for plans, which write into given memory, as a module; None if there are none.

        :class:`npresnet.engine.kernels.PlanKernels` says what such a module offers.
        """
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(f"{cast(Any, self.kernels).__name__}.plan")
        return None

    @property
    def xp(self) -> Any:
        """The array module: numpy here, cupy on a GPU."""
        return np

    @property
    def device(self) -> str:
        """Where the arrays live: ``"cpu"`` or ``"gpu:N"``."""
        return "cpu"

    def owns(self, array: object) -> bool:
        """Whether ``array`` lives where this backend computes."""
        return isinstance(array, np.ndarray)

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        """Return ``value`` as an array of this backend, copying only where it must."""
        if not isinstance(value, np.ndarray) and hasattr(value, "get"):  # a CuPy array
            value = value.get()
        return np.asarray(value, dtype=dtype)

    def to_numpy(self, array: Array) -> Array:
        """Return ``array`` as a NumPy array; NumPy arrays are handed through."""
        return array

    def _load(self) -> KernelSet:
        if self.name == "cpu":
            try:
                module = importlib.import_module("npresnet_kernels.cpu")
            except Exception as error:  # a broken Numba raises whatever it likes
                warnings.warn(
                    f"the cpu kernels need Numba, which can't be loaded ({error}): computing with "
                    "the slow reference kernels instead. Mend it with: pip install 'numba>=0.67'",
                    RuntimeWarning,
                    stacklevel=2,
                )
                self.name = "reference"
                module = importlib.import_module("npresnet_kernels.reference")
        else:
            module = importlib.import_module("npresnet_kernels.reference")
        return cast(KernelSet, module)

    def __repr__(self) -> str:
        return f"<backend {self.name}>"


class _GpuBackend(Backend):
    """CuPy arrays on one CUDA device."""

    def __init__(self, index: int) -> None:
        super().__init__(f"gpu:{index}")
        self.index = index
        try:
            self._cupy = importlib.import_module("cupy")
        except Exception as error:
            raise BackendError(
                f"backend 'gpu' needs CuPy, which can't be imported ({error}): "
                "pip install 'npresnet[gpu]', or use backend 'cpu'"
            ) from None
        try:
            count = int(self._cupy.cuda.runtime.getDeviceCount())
        except Exception as error:
            raise BackendError(
                f"backend 'gpu' found no usable CUDA device ({error}): "
                "check the driver with nvidia-smi, or use backend 'cpu'"
            ) from None
        if not 0 <= index < count:
            raise BackendError(
                f"backend 'gpu:{index}' asks for CUDA device {index}, but this machine has "
                f"{count} (numbered from 0)"
            )
        try:
            self._kernels = cast(KernelSet, importlib.import_module("npresnet_kernels.gpu"))
        except ModuleNotFoundError:
            raise BackendError(
                "this version of npresnet has no GPU kernels yet: use backend 'cpu'"
            ) from None

    @property
    def xp(self) -> Any:
        return self._cupy

    @property
    def device(self) -> str:
        return self.name

    def owns(self, array: object) -> bool:
        return isinstance(array, self._cupy.ndarray) and array.device.id == self.index

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        with self._cupy.cuda.Device(self.index):
            return cast(Array, self._cupy.asarray(value, dtype=dtype))

    def to_numpy(self, array: Array) -> Array:
        return cast(Array, self._cupy.asnumpy(array))


_lock = threading.Lock()
_made: dict[str, Backend] = {}
_default: Backend | None = None
_scoped: contextvars.ContextVar[Backend | None] = contextvars.ContextVar(
    "npresnet_backend", default=None
)


def resolve(name: str | Backend) -> Backend:
    """Return the backend called ``name``.

    Raises
    ------
    BackendError
        If there is no such backend, or it can't be used on this machine.
    """
    if isinstance(name, Backend):
        return name
    if not isinstance(name, str):
        raise BackendError(f"a backend is named by a string, {_NAMES}; got {name!r}")
    if name == "gpu":
        name = "gpu:0"
    gpu = re.fullmatch(r"gpu:(\d+)", name)
    if not gpu and name not in ("reference", "cpu"):
        raise BackendError(f"unknown backend {name!r}: choose {_NAMES}")
    with _lock:
        if name not in _made:
            _made[name] = _GpuBackend(int(gpu[1])) if gpu else Backend(name)
        return _made[name]


def current_backend() -> Backend:
    """Return the backend in force: that of the innermost :func:`use_backend`, else the default."""
    global _default
    scoped = _scoped.get()
    if scoped is not None:
        return scoped
    if _default is None:
        _default = resolve(os.environ.get("NPRESNET_BACKEND") or "cpu")
    return _default


def get_backend() -> str:
    """Return the name of the backend in force: ``"reference"``, ``"cpu"`` or ``"gpu:N"``."""
    return current_backend().name


def set_backend(name: str) -> None:
    """Choose the backend for the whole process.

    Parameters
    ----------
    name : str
        ``"reference"`` (plain NumPy, slow, to be read), ``"cpu"`` (Numba; the default), ``"gpu"``
        or ``"gpu:N"``. The environment variable ``NPRESNET_BACKEND`` sets the one to begin with.

    Raises
    ------
    BackendError
        If there is no such backend, or it can't be used on this machine.
    """
    global _default
    _default = resolve(name)


@contextlib.contextmanager
def use_backend(name: str | Backend) -> Iterator[None]:
    """Choose the backend for a ``with`` block, in this thread only.

    Raises
    ------
    BackendError
        If there is no such backend, or it can't be used on this machine.
    """
    token = _scoped.set(resolve(name))
    try:
        yield
    finally:
        _scoped.reset(token)


def for_arrays(arrays: Iterable[Array | None]) -> Backend:
    """Return the backend that computes on ``arrays``, which must all live in one place.

    NumPy arrays are computed on by the backend in force if that is a CPU one, else by ``cpu``.

    Raises
    ------
    BackendError
        If the arrays live on different devices.
    """
    backend = current_backend()
    places = {}
    for array in arrays:
        if array is not None and not backend.owns(array):
            places[_home(array)] = array
        elif array is not None:
            places[backend.device] = array
    if len(places) > 1:
        first, *others = places
        raise BackendError(
            f"one input lives on the {first}, another on {', '.join(others)}: "
            f'call model.to("{first}") or tensor.to("{others[0]}")'
        )
    if not places or backend.device in places:
        return backend
    return resolve(next(iter(places)))


def _home(array: object) -> str:
    """Return where ``array`` lives: ``"cpu"`` or ``"gpu:N"``."""
    if isinstance(array, np.ndarray):
        return "cpu"
    device = getattr(array, "device", None)
    if hasattr(array, "get") and device is not None and hasattr(device, "id"):
        return f"gpu:{device.id}"
    raise BackendError(f"expected a NumPy or CuPy array, got {type(array).__name__}")
