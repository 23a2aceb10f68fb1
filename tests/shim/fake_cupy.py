"""A stand-in for the module ``cupy`` whose devices are the host, strict where CuPy is strict.

Arrays hold NumPy arrays in guarded memory; raw kernels are compiled by g++ and run by the shim.
What CuPy refuses is refused: NumPy arrays among the operands, implicit conversion to NumPy, arrays
of another device than the current one (CuPy would compute, slowly or not at all). Memory behind
an array that a kernel writes to is noticed, and what it reads there is NaN. While a stream is
captured, launches are kept instead of run, and whatever can't be captured is an error. Work is done
at once, but each stream's in its own time as far as events, synchronizing and copies to the host
don't say otherwise: work of two streams on the same memory in no certain order is an error.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from npresnet_kernels.gpu import tensor_map
from tests.shim import build
from tests.shim.fake_driver import FakeDriver

GUARD = 256
DEVICES = 2
__version__ = "14.2.0"
TOTAL = 1 << 40

_limit = [TOTAL]
_module = sys.modules[__name__]
launched: list[str] = []
"""Names of the kernels that ran, in order."""


class _Thread(threading.local):
    """What CuPy keeps for each thread.

    Attributes
    ----------
    device : int
        The current one.
    streams : list of Stream
        Those in whose ``with`` block it is.
    captured : list
        What the streams that are captured keep: work, and the memory that it uses.
    hooks : list of MemoryHook
        Those in whose ``with`` block it is.
    """

    def __init__(self):
        self.captured: list[list[tuple[Callable[[], object], list[weakref.ref]]]] = []
        self.hooks: list[MemoryHook] = []
        self.device = 0
        self.streams: list[Stream] = []


_thread = _Thread()


# ---------------------------------------------------------------------- memory


class OutOfMemoryError(MemoryError):
    def __init__(self, size, total, limit=0):
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,})")


def set_limit(size: int = TOTAL) -> None:
    """Bytes of the largest array that the devices have room for."""
    _limit[0] = size


class _Memory(np.ndarray):
    """Bytes with guards on both sides; what every guarded array descends from."""


def _allocate(shape, dtype) -> np.ndarray:
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    for hook in _thread.hooks:
        hook.malloc_preprocess(device_id=_thread.device, size=size, mem_size=-(-size // 512) * 512)
    _refuse_capture(f"an allocation of {size:,} bytes")
    if size > _limit[0]:
        raise OutOfMemoryError(size, 0)
    memory = np.full(size + 3 * GUARD, 0xFF, np.uint8).view(_Memory)
    start = GUARD + -(memory.ctypes.data + GUARD) % GUARD  # arrays begin on a multiple of GUARD
    memory.start, memory.size_inside = start, size
    return memory[start : start + size].view(np.ndarray).view(dtype).reshape(shape)


def _guarded(array) -> np.ndarray:
    """The array if it lives in guarded memory, else its copy there."""
    array = np.asarray(array)
    if _memory(array) is not None:
        return array
    order = np.argsort([-s for s in array.strides], kind="stable")
    dense = array.transpose(order)
    copy = _allocate(dense.shape, dense.dtype)
    copy[...] = dense
    return copy.transpose(np.argsort(order))


def _memory(array):
    """The guarded memory that an array is a view of; None if it is none."""
    while isinstance(array, np.ndarray) and not hasattr(array, "start"):
        array = array.base
    return array if isinstance(array, _Memory) else None


def _check_guards(memory: _Memory, shape: tuple[int, ...], name: str) -> None:
    inside = memory.start, memory.start + memory.size_inside
    if (memory[: inside[0]] != 0xFF).any() or (memory[inside[1] :] != 0xFF).any():
        raise build.ShimError(f"{name} wrote outside an array of shape {shape}")


# ---------------------------------------------------------------------- arrays


# what needs no kernel, so works on any device; the last two copy to the host
_VIEWS = ("reshape", "transpose", "swapaxes", "squeeze", "view", "tolist", "item")
_COPIES = _VIEWS[-2:]


class ndarray:
    """An array on one of the stand-in's devices."""

    __array_priority__ = 100
    __hash__ = None

    def __init__(self, values: np.ndarray, device: int) -> None:
        self._values = values
        self._device = device

    def __getattr__(self, name):
        if name in ("__array_interface__", "__array_struct__", "ctypes", "__buffer__"):
            raise AttributeError(name)
        found = getattr(self._values, name)
        if not callable(found):
            return found

        def method(*args, **kwargs):
            if name not in _VIEWS:
                _require_current(self)
            if name == "fill":
                return _do(functools.partial(found, *args), self)
            if name in _COPIES:
                _refuse_capture("a copy to the host")
            with Device(self._device):
                return _call(found, args, kwargs)

        return method

    def copy(self, order="C"):  # from any device to the current one
        return ndarray(_guarded(np.array(self._values, order=order)), _thread.device)

    def __deepcopy__(self, memo):
        with Device(self._device):
            return self.copy()

    def astype(self, dtype, copy=True, **kwargs):
        if self.dtype == dtype and not copy:
            return self
        return _call(self._values_here().astype, (dtype,), kwargs)

    device = property(lambda self: types.SimpleNamespace(id=self._device))
    data = property(lambda self: types.SimpleNamespace(ptr=self._values.ctypes.data))
    T = property(lambda self: ndarray(self._values.T, self._device))
    shape = property(lambda self: self._values.shape)

    def get(self):
        _refuse_capture("a copy to the host")
        _in_order([_memory(self._values)])
        get_current_stream().synchronize()
        return np.array(self._values)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use .get()")

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        return _call(getattr(ufunc, method), args, kwargs)

    def __array_function__(self, function, _, args, kwargs):
        return _call(function, args, kwargs)

    def __dlpack__(self, **_):
        return self._values.__dlpack__()

    def __dlpack_device__(self):
        return (2, self._device)

    def __getitem__(self, index):
        whole = index if isinstance(index, tuple) else (index,)
        if not any(i is ... for i in whole):
            whole = (*whole, ...)  # of one element too a view, not a number as in NumPy
        return _call(operator.getitem, (self._values_here(), whole), {})

    def __setitem__(self, index, value):
        if not isinstance(value, ndarray) and np.ndim(value):
            _refuse_capture("a copy from the host")
        values, place, new = self._values_here(), _plain(index), _plain(value)
        _do(functools.partial(operator.setitem, values, place, new), self, value)

    def _values_here(self):
        _require_current(self)
        return self._values

    def __len__(self):
        return len(self._values)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __index__(self):
        return operator.index(self.get().item())

    def __repr__(self):
        return f"on device {self._device}: {self._values!r}"


def _operator(name):
    function = getattr(operator, name)

    def method(self, *others):
        return _call(function, (self, *others), {})

    def reflected(self, other):
        return _call(function, (other, self), {})

    return method, reflected


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_"):
    _method, _reflected = _operator(_name)
    _plain_name = _name.rstrip("_")
    setattr(ndarray, f"__{_plain_name}__", _method)
    setattr(ndarray, f"__r{_plain_name}__", _reflected)
for _name in ("neg", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ndarray, f"__{_name}__", _operator(_name)[0])


def _in_place(name):
    function = getattr(operator, name)

    def method(self, other):
        _do(functools.partial(function, self._values_here(), _plain(other)), self, other)
        return self

    return method


for _name in ("iadd", "isub", "imul", "itruediv", "iand", "ior"):
    setattr(ndarray, f"__{_name}__", _in_place(_name))


def _require_current(array: ndarray) -> None:
    if array._device != _thread.device:
        raise ValueError(
            f"an array of device {array._device} was used while device {_thread.device} was current"
        )


def _plain(value: Any) -> Any:
    """The NumPy arrays behind the stand-in's."""
    if isinstance(value, ndarray):
        return value._values_here()
    if isinstance(value, np.ndarray) and _memory(value) is None and value.ndim:
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, tuple | list):
        return type(value)(_plain(v) for v in value)
    return value


def _wrapped(result: Any) -> Any:
    if isinstance(result, np.ndarray | np.generic):
        return ndarray(_guarded(result), _thread.device)
    if isinstance(result, tuple | list):
        return type(result)(_wrapped(r) for r in result)
    return result


def _call(function, args, kwargs):
    values = _plain(args)
    named = {key: _plain(value) for key, value in kwargs.items()}
    if _thread.captured and "out" in named and not _is_product(function):
        _do(functools.partial(function, *values, **named), *args, *kwargs.values())
        return kwargs["out"]
    if not _thread.captured:
        _in_order([_memory(a._values) for a in args if isinstance(a, ndarray)])
    if _is_product(function):
        _refuse_capture("a product by cuBLAS")
        return _matmul(*values, **named)
    with np.errstate(all="ignore"):
        return _wrapped(function(*values, **named))


def _is_product(function):
    return function is operator.matmul or function is np.matmul


def _matmul(x, y, out=None):
    """float16 as cuBLAS does it: products summed in float32."""
    products.append(COMPUTE_TYPES.get(x.dtype.name, "default"))
    wide = np.float32 if x.dtype == np.float16 else x.dtype
    product = np.matmul(x.astype(wide), y.astype(wide)).astype(x.dtype)
    if out is None:
        return _wrapped(product)
    out[...] = product
    return _wrapped(out)


def __getattr__(name):
    """The rest of NumPy's functions, dtypes and constants."""
    found = getattr(np, name)
    if isinstance(found, type) or not callable(found):
        return found
    return _Function(found)


class _Function:
    """A function of NumPy's, or a method of one of its functions, on the stand-in's arrays."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *args, **kwargs):
        return _call(self._function, args, kwargs)

    def __getattr__(self, name):
        return _Function(getattr(self._function, name))


class _OpenGrid:
    def __getitem__(self, index):
        return _wrapped(np.ogrid[index])


ogrid = _OpenGrid()


def empty(shape, dtype=float, order="C"):
    return ndarray(_allocate(shape, dtype), _thread.device)


def asarray(value, dtype=None, order=None):
    if isinstance(value, ndarray):
        value = value._values_here()
    else:
        _refuse_capture("a copy from the host")
    return ndarray(_guarded(np.asarray(value, dtype=dtype, order=order)), _thread.device)


def array(value, dtype=None, copy=True, order="K"):
    plain = value._values if isinstance(value, ndarray) else value
    return ndarray(_guarded(np.array(plain, dtype=dtype, order=order)), _thread.device)


def asnumpy(value):
    return value.get() if isinstance(value, ndarray) else np.asarray(value)


def from_dlpack(value):
    kind, device = value.__dlpack_device__()
    if kind != 2:
        raise ValueError("not on a CUDA device")
    return ndarray(np.asarray(getattr(value, "_values", value)), device)


# ---------------------------------------------------------------------- devices, pools


class Device:
    def __init__(self, index=None):
        self.id = _thread.device if index is None else index

    def __enter__(self):
        self._before = _thread.device
        _thread.device = self.id
        return self

    def __exit__(self, *_):
        _thread.device = self._before

    def use(self):
        _thread.device = self.id

    def synchronize(self):
        _refuse_capture("waiting for the device")
        _finished(dict.fromkeys(_latest, _ticks[0]))

    compute_capability = "90"
    mem_info = (TOTAL, TOTAL)


class Event:
    def __init__(self, block=False, disable_timing=False):
        pass

    def record(self, stream=None):
        self.time = time.perf_counter()
        self.seen = dict((stream or get_current_stream()).tick())

    def synchronize(self):
        _refuse_capture("waiting for an event")
        _finished(self.seen)


class MemoryHook:
    """Told of every allocation in its ``with`` block."""

    def __enter__(self):
        _thread.hooks.append(self)
        return self

    def __exit__(self, *_):
        _thread.hooks.remove(self)


class _Pool:
    freed = 0

    def free_all_blocks(self):
        _Pool.freed += 1

    def used_bytes(self):
        return 0


pool = _Pool()


def get_default_memory_pool():
    return pool


def get_default_pinned_memory_pool():
    return pool


# ---------------------------------------------------------------------- streams, graphs


class CUDARuntimeError(RuntimeError):
    """An error that CUDA reports."""


CUDARuntimeError.__module__ = "cupy_backends.cuda.api.runtime"


def _refuse_capture(what: str) -> None:
    if _thread.captured:
        raise CUDARuntimeError(
            f"cudaErrorStreamCaptureUnsupported: {what} is not permitted when stream is capturing"
        )


def _do(work: Callable[[], object], *arrays: Any) -> None:
    """Do work that takes its place in a stream; keep it if that is captured."""
    memory = [_memory(a._values) for a in arrays if isinstance(a, ndarray)]
    if not _thread.captured:
        _in_order(memory)
        with np.errstate(all="ignore"):
            work()
        return
    _thread.captured[-1].append((work, [weakref.ref(m) for m in memory if m is not None]))


class Graph:
    """Captured work; it holds addresses, and doesn't keep their memory alive."""

    def __init__(self, work):
        self._work = work

    def launch(self, stream=None):
        _refuse_capture("a launch of a graph")
        for work, memory in self._work:
            if any(reference() is None for reference in memory):
                raise build.ShimError("a graph was launched on memory that is freed")
            _in_order([reference() for reference in memory])
            with np.errstate(all="ignore"):
                work()

    def upload(self, stream=None):
        _refuse_capture("an upload of a graph")


# What work of a stream comes behind: by stream, the number of its last piece that is surely done.
_ticks = [0]
_latest: dict[int, int] = {}
_done: dict[int, int] = {}  # as the host has seen


def _merge(seen: dict[int, int], other: dict[int, int]) -> None:
    for stream, tick in other.items():
        seen[stream] = max(seen.get(stream, 0), tick)


def _finished(seen: dict[int, int]) -> None:
    """The host has waited for some work."""
    _merge(_done, seen)


def _in_order(memory: list[Any]) -> None:
    """Refuse work on memory that another stream may still be working on."""
    stream = get_current_stream()
    seen = stream.tick()
    for block in memory:
        if block is None:
            continue
        last, tick = getattr(block, "used", (stream.number, 0))
        if seen.get(last, 0) < tick:
            raise build.ShimError("two streams work on the same memory in no certain order")
        block.used = stream.number, _ticks[0]


class Stream:
    _number = itertools.count()

    def __init__(self, null=False, non_blocking=False):
        self._can_capture = non_blocking and not null
        self.number = next(Stream._number)
        self._seen: dict[int, int] = {}

    def tick(self):
        """What the next piece of its work comes behind, that piece included."""
        _ticks[0] += 1
        _merge(self._seen, {**_done, self.number: _ticks[0]})
        _latest[self.number] = _ticks[0]
        return self._seen

    def __enter__(self):
        _thread.streams.append(self)
        return self

    def __exit__(self, *_):
        _thread.streams.pop()

    def synchronize(self):
        _refuse_capture("waiting for a stream")
        _finished(self._seen)

    def begin_capture(self, mode=None):
        if not self._can_capture:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        _thread.captured.append([])

    def end_capture(self):
        return Graph(_thread.captured.pop())

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        _merge(self._seen, event.seen)


Stream.null = Stream(null=True)


def get_current_stream():
    return _thread.streams[-1] if _thread.streams else Stream.null


# ---------------------------------------------------------------------- cupy.cuda


def _properties(index):
    return {"name": b"Host shim", "major": 9, "minor": 0, "totalGlobalMem": TOTAL}


cuda = types.SimpleNamespace(
    Device=Device,
    Event=Event,
    Graph=Graph,
    MemoryHook=MemoryHook,
    Stream=Stream,
    get_current_stream=get_current_stream,
    get_elapsed_time=lambda begin, end: (end.time - begin.time) * 1e3,
    runtime=types.SimpleNamespace(
        getDeviceCount=lambda: DEVICES,
        getDevice=lambda: _thread.device,
        getDeviceProperties=_properties,
        memGetInfo=lambda: (TOTAL // 2, TOTAL),
        runtimeGetVersion=lambda: 13000,
        driverGetVersion=lambda: 13000,
        streamCaptureModeThreadLocal=1,
    ),
    memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
)


# products keep a record of what precision they were taken in
COMPUTE_TYPES = {"float32": "default"}
products: list[str] = []
_core = types.SimpleNamespace(
    _routines_linalg=types.SimpleNamespace(
        COMPUTE_TYPE_TF32="tf32",
        COMPUTE_TYPE_FP32="fp32",
        get_compute_type=lambda dtype: COMPUTE_TYPES[np.dtype(dtype).name],
        set_compute_type=lambda dtype, kind: COMPUTE_TYPES.update({np.dtype(dtype).name: kind}),
    )
)


# ---------------------------------------------------------------------- kernels


class RawModule:
    """A CUDA source, compiled by g++ with the shim's bodies of the device's functions."""

    def __init__(self, *, code, options=(), **_):
        self._library = build.compiled(build.on_host(code), tuple(options))

    def get_function(self, name):
        return RawKernel(self._library, name)


class RawKernel:
    max_dynamic_shared_size_bytes = 48 * 1024
    num_regs = 0

    def __init__(self, library, name):
        self._library, self.name = library, name

    def __call__(self, grid, block, args, *, shared_mem=0):
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise build.ShimError(f"{self.name}: {shared_mem} bytes of shared memory not asked for")
        values = [_argument(a) for a in args]
        memory = [_memory(a._values) for a in args if isinstance(a, ndarray)]
        shapes = [a.shape for a in args if isinstance(a, ndarray)]
        guarded = [(weakref.ref(m), s) for m, s in zip(memory, shapes, strict=True)]
        _do(functools.partial(self._run, grid, block, values, shared_mem, guarded), *args)

    def _run(self, grid, block, values, shared_mem, guarded):
        build.launch(self._library, self.name, grid, block, values, shared_mem)
        launched.append(self.name)
        for memory, shape in guarded:
            _check_guards(memory(), shape, self.name)


def _argument(value) -> tuple[str, bytes]:
    if isinstance(value, ndarray):
        _require_current(value)
        return "p", np.uint64(value._values.ctypes.data).tobytes()
    if isinstance(value, np.ndarray) and value.dtype == "V128":  # NumPy's arrays go by value
        return "m", value.tobytes()
    if not isinstance(value, np.generic):
        raise TypeError(f"Unsupported type {type(value)}")
    kind = {"f4": "f", "f8": "d", "i4": "i", "u4": "i", "i8": "q", "u8": "q"}[value.dtype.str[1:]]
    return kind, value.tobytes()


# ---------------------------------------------------------------------- in place of CuPy


@contextlib.contextmanager
def installed():
    """Let ``import cupy`` find the stand-in."""
    before = {"cupy": sys.modules["cupy"]} if "cupy" in sys.modules else {}
    sys.modules["cupy"] = _module
    try:
        with mock.patch.object(tensor_map, "driver", FakeDriver):
            yield _module
    finally:
        del sys.modules["cupy"]
        sys.modules.update(before)
