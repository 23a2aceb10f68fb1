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

from npresnet.errors import BackendError, DeviceMemoryError, DtypeError
from npresnet_kernels.contract import Array, KernelSet

__all__ = [
    "PRECISIONS",
    "Backend",
    "adopt",
    "cuda_devices",
    "current_backend",
    "for_arrays",
    "for_data",
    "from_dlpack",
    "get_backend",
    "in_main_memory",
    "resolve",
    "set_backend",
    "use_backend",
]

_NAMES = "'reference', 'cpu', 'gpu' or 'gpu:N'"

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
"""What a plan may compute in; eager operations compute in their arrays' dtype."""


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
    def reads_at_once(self) -> bool:
        """Whether the host reads an element without waiting for a device."""
        return True

    def computing_in(self, precision: str) -> contextlib.AbstractContextManager[None]:
        """Return a :meth:`scope` in which float32 products are taken as a plan's precision says."""
        return _NO_SCOPE

    def plan_precision(self, precision: str | None) -> str:
        """Return what a plan is to compute in here, one of `PRECISIONS`.

        None stands for how float32 products are taken: see :func:`set_backend`.

        Raises
        ------
        BackendError
            If there is no such precision, or the device can't compute in it.
        """
        if precision is not None and precision not in PRECISIONS:
            raise BackendError(f"precision must be one of {PRECISIONS}, got {precision!r}")
        return self._able(precision)

    def _able(self, precision: str | None) -> str:
        if precision not in (None, "fp32"):
            raise BackendError(
                f"precision {precision!r} needs backend 'gpu', got {self.name!r}: choose that "
                "backend, or precision 'fp32'"
            )
        return "fp32"

    @property
    def xp(self) -> Any:
        """The array module: numpy here, cupy on a GPU."""
        return np

    def scope(self) -> contextlib.AbstractContextManager[None]:
        """Enter this before arrays are made or computed with: on a GPU it makes the device current.

        What fails on the device comes out as an error of npresnet's.
        """
        return _NO_SCOPE

    def make_current(self) -> None:
        """Let what this thread computes outside of npresnet's operations run here too."""

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
        discovery = importlib.import_module("npresnet_kernels.gpu.discovery")
        try:
            self._cupy = discovery.usable(index)
        except RuntimeError as error:
            raise BackendError(f"backend 'gpu:{index}' can't be used: {error}") from None
        self._kernels = cast(KernelSet, importlib.import_module("npresnet_kernels.gpu"))
        self._device = importlib.import_module("npresnet_kernels.gpu.device")

    @property
    def reads_at_once(self) -> bool:
        return False

    @contextlib.contextmanager
    def computing_in(self, precision: str) -> Iterator[None]:
        products = "tf32" if precision == "tf32" else "fp32"
        with self.scope(), _product_settings().use_precision(products):
            yield

    def _able(self, precision: str | None) -> str:
        if precision in ("tf32", "bf16"):
            capability = int(self._cupy.cuda.Device(self.index).compute_capability)
            if capability < 80:
                raise BackendError(
                    f"precision {precision!r} needs compute capability 8.0 (Ampere) or later, "
                    f"{self.name} has {capability / 10}: choose 'fp16' or 'fp32'"
                )
        return precision or cast(str, _product_settings().get_precision())

    @property
    def xp(self) -> Any:
        return self._cupy

    @property
    def device(self) -> str:
        return self.name

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        try:
            with self._cupy.cuda.Device(self.index):
                yield
        except self._device.DeviceMemoryError as error:
            raise DeviceMemoryError(str(error)) from None
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            with self._cupy.cuda.Device(self.index):
                self._device.release_memory()
                asked = re.search(r"[\d,]+ bytes", str(error))
                text = self._device.out_of_memory(asked[0] if asked else "more")
            raise DeviceMemoryError(text) from None
        except self._device.DeviceError as error:
            raise BackendError(str(error)) from error
        except Exception as error:
            if type(error).__module__.startswith(("cupy", "cupy_backends")):
                text = f"{self.name}: {type(error).__name__}: {error}"
                if type(error).__module__.startswith("cupy_backends.cuda"):
                    text += (
                        " (kernels run behind the program: with CUDA_LAUNCH_BLOCKING=1 in the "
                        "environment the error names the one that failed, and its shapes)"
                    )
                raise BackendError(text) from error
            raise

    def make_current(self) -> None:
        """Let what this thread computes outside of npresnet's operations run here too."""
        self._cupy.cuda.Device(self.index).use()

    def owns(self, array: object) -> bool:
        return isinstance(array, self._cupy.ndarray) and array.device.id == self.index

    def asarray(self, value: Any, dtype: Any = None) -> Array:
        with self.scope():
            if isinstance(value, self._cupy.ndarray) and not self.owns(value):
                value = value.copy(order="K")  # onto the current device
            return cast(Array, self._cupy.asarray(value, dtype=dtype))

    def to_numpy(self, array: Array) -> Array:
        with self.scope():
            return cast(Array, self._cupy.asnumpy(array))


_NO_SCOPE = contextlib.nullcontext()
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
        _default.make_current()
    return _default


def get_backend() -> str:
    """Return the name of the backend in force: ``"reference"``, ``"cpu"`` or ``"gpu:N"``."""
    return current_backend().name


def set_backend(name: str, precision: str | None = None) -> None:
    """Choose the backend for the whole process.

    Parameters
    ----------
    name : str
        ``"reference"`` (plain NumPy, slow, to be read), ``"cpu"`` (Numba; the default), ``"gpu"``
        or ``"gpu:N"``. The environment variable ``NPRESNET_BACKEND`` sets the one to begin with.
    precision : {None, "fp32", "tf32"}
        How a GPU takes float32 products: exactly (None, ``"fp32"``), or in TF32, which keeps 10
        bits of each factor's mantissa and is several times faster (compute capability 8.0 or
        later). A plan that is given no precision of its own is made with this one.

    Raises
    ------
    BackendError
        If there is no such backend, or it can't be used on this machine.
    """
    global _default
    backend = resolve(name)
    _check_products(backend, precision)
    if isinstance(backend, _GpuBackend):
        _product_settings().set_precision(precision or "fp32")
    backend.make_current()
    _default = backend


@contextlib.contextmanager
def use_backend(name: str | Backend, precision: str | None = None) -> Iterator[None]:
    """Choose the backend for a ``with`` block, in this thread only.

    Parameters
    ----------
    name, precision
        As for :func:`set_backend`; a precision that isn't given stays as it is.

    Raises
    ------
    BackendError
        If there is no such backend, or it can't be used on this machine.
    """
    backend = resolve(name)
    _check_products(backend, precision)
    with contextlib.ExitStack() as stack:
        if isinstance(backend, _GpuBackend):
            stack.enter_context(backend.xp.cuda.Device(backend.index))
            if precision is not None:
                stack.enter_context(_product_settings().use_precision(precision))
        token = _scoped.set(backend)
        try:
            yield
        finally:
            _scoped.reset(token)


def _product_settings() -> Any:
    """Return the module that keeps how a GPU takes float32 products."""
    return importlib.import_module("npresnet_kernels.gpu.precision")


def _check_products(backend: Backend, precision: str | None) -> None:
    """Raise a BackendError if float32 products can't be taken so."""
    if precision not in (None, "fp32", "tf32"):
        raise BackendError(
            f"precision must be 'fp32' or 'tf32', got {precision!r}: 16 bits are for plans, as in "
            'compile(model, shape, precision="fp16")'
        )
    backend.plan_precision(precision)


def for_data(value: object) -> Backend:
    """Return the backend for numbers that a user gives: an array on a device stays there.

    NumPy arrays, numbers and sequences go to the backend in force.
    """
    backend = current_backend()
    if backend.owns(value) or not _on_device(value):
        return backend
    return resolve(_home(value))


def adopt(value: Any) -> Any:
    """Return an array of PyTorch, JAX or another library as one of NumPy's or CuPy's.

    It stays where it lives, and shares its memory where its library allows that. Anything but such
    an array is handed through.

    Raises
    ------
    BackendError
        If it lives where npresnet has no backend, or that can't be used.
    DtypeError
        If its library doesn't hand its values over: it wants a gradient, say.
    """
    if isinstance(value, np.ndarray) or _on_device(value):
        return value
    return from_dlpack(value) if hasattr(value, "__dlpack_device__") else value


def from_dlpack(value: Any) -> Array:
    """Return the memory of another library's array as an array, without a copy; see `adopt`.

    Raises
    ------
    BackendError
        If it lives on a device that can't be used.
    DtypeError
        If the other library doesn't hand it over.
    """
    kind, index = value.__dlpack_device__()
    if kind not in (1, 2, 13):  # kDLCPU, kDLCUDA, kDLCUDAManaged
        raise BackendError(f"from_dlpack takes arrays of the CPU or of a CUDA device, got {kind=}")
    try:
        if kind == 1:
            return np.from_dlpack(value)
        backend = resolve(f"gpu:{index}")
        with backend.scope():
            return cast(Array, backend.xp.from_dlpack(value))
    except BackendError as error:
        raise BackendError(
            f"the {type(value).__name__} lives on gpu:{index}, which npresnet can't use ({error}): "
            "move it to the CPU first, by .cpu() in PyTorch or jax.device_get"
        ) from None
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DtypeError(f"can't share the memory of a {type(value).__name__}: {reason}") from None


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


def cuda_devices() -> list[Any]:
    """Return what is known of each CUDA device, usable or not.

    Returns
    -------
    list of npresnet_kernels.gpu.discovery.DeviceReport
        With index, name, capability, free and total bytes, and the problem, if there is one.

    Raises
    ------
    BackendError
        If there is none, or none can be reached; the message says why.
    """
    discovery = importlib.import_module("npresnet_kernels.gpu.discovery")
    try:
        return list(discovery.reports())
    except RuntimeError as error:
        raise BackendError(str(error)) from None


def in_main_memory(value: Any) -> Any:
    """Return a GPU's array as a NumPy array; anything else as it is."""
    return resolve(_home(value)).to_numpy(value) if _on_device(value) else value


def _on_device(value: object) -> bool:
    """Whether ``value`` is an array on a GPU."""
    return hasattr(value, "get") and hasattr(getattr(value, "device", None), "id")


def _home(array: Any) -> str:
    """Return where ``array`` lives: ``"cpu"`` or ``"gpu:N"``."""
    if isinstance(array, np.ndarray):
        return "cpu"
    if _on_device(array):
        return f"gpu:{array.device.id}"
    raise BackendError(f"expected a NumPy or CuPy array, got {type(array).__name__}")
