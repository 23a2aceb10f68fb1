"""What devices there are, and why one can't be used."""

from __future__ import annotations

import importlib
import importlib.metadata
from dataclasses import dataclass
from typing import Any

from npresnet_kernels.gpu.errors import DeviceError

__all__ = ["DeviceReport", "find_cupy", "reports", "usable"]

OLDEST_CAPABILITY = (7, 5)
"""Turing, 2018: the oldest that CUDA 13 compiles for."""

OLDEST_CUDA = 12000

_PACKAGES = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x", "cupy-rocm-7-0")

_INSTALL = (
    "pip install 'npresnet[cuda13]', or 'npresnet[cuda12]' for a driver older than 580 (the forms "
    "'cuda13-ctk' and 'cuda12-ctk' bring the CUDA libraries too)"
)


@dataclass(frozen=True)
class DeviceReport:
    """One CUDA device.

    Attributes
    ----------
    index : int
        Its number, from 0.
    name : str
        What its maker calls it.
    capability : tuple of int
        Major and minor compute capability.
    free, total : int
        Bytes of its memory.
    problem : str or None
        Why it can't be used.
    """

    index: int
    name: str
    capability: tuple[int, int]
    free: int
    total: int
    problem: str | None


def _installed() -> list[str]:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def find_cupy() -> Any:
    """Return the module ``cupy``.

    Raises
    ------
    DeviceError
        If it isn't installed, is there twice, or can't be imported.
    """
    packages = _installed()
    if len(packages) > 1:
        names = " ".join(package.split()[0] for package in packages)
        raise DeviceError(
            f"several CuPy packages are installed ({', '.join(packages)}) and spoil each other: "
            f"pip uninstall {names}, then {_INSTALL}"
        )
    try:
        return importlib.import_module("cupy")
    except Exception as error:  # a broken installation raises whatever it likes
        raise DeviceError(f"CuPy can't be imported ({error}): {_INSTALL}") from None


def _count(cupy: Any) -> int:
    """Return the number of devices, at least 1."""
    runtime = cupy.cuda.runtime
    try:
        version, driver = int(runtime.runtimeGetVersion()), int(runtime.driverGetVersion())
        if not driver:
            raise DeviceError(
                "there is no NVIDIA driver: install one (nvidia-smi shows it); in a container, "
                "start it with --gpus all"
            )
        if version < OLDEST_CUDA:
            raise DeviceError(
                f"CuPy uses CUDA {_dotted(version)}, npresnet needs 12.0 or later: {_INSTALL}"
            )
        if driver // 1000 < version // 1000:
            raise DeviceError(
                f"the NVIDIA driver knows CUDA up to {_dotted(driver)}, CuPy uses "
                f"{_dotted(version)}: update the driver, or install CuPy for an older CUDA, as in "
                "pip install 'npresnet[cuda12]'"
            )
        count = int(runtime.getDeviceCount())
    except DeviceError:
        raise
    except Exception as error:
        raise DeviceError(
            f"no usable CUDA device was found ({error}): check the driver with nvidia-smi and the "
            "variable CUDA_VISIBLE_DEVICES; in a container, start it with --gpus all"
        ) from None
    if not count:
        raise DeviceError(
            "this machine has no CUDA device, or CUDA_VISIBLE_DEVICES hides it: nvidia-smi lists "
            "what there is"
        )
    return count


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _compiler_problem(cupy: Any) -> str | None:
    """Why kernels can't be compiled, or None."""
    nvrtc = getattr(cupy.cuda, "nvrtc", None)
    try:
        if nvrtc is not None:
            nvrtc.getVersion()
    except Exception as error:
        return (
            f"CUDA's run-time compiler (NVRTC) can't be loaded ({' '.join(str(error).split())}): "
            "install the CUDA toolkit, or its libraries as wheels: pip install "
            "'npresnet[cuda13-ctk]' or 'npresnet[cuda12-ctk]'"
        )
    return None


def _report(cupy: Any, index: int, problem: str | None) -> DeviceReport:
    properties = cupy.cuda.runtime.getDeviceProperties(index)
    name = properties["name"]
    capability = (int(properties["major"]), int(properties["minor"]))
    if capability < OLDEST_CAPABILITY:
        problem = (
            f"compute capability {capability[0]}.{capability[1]} is too old, npresnet needs "
            f"{OLDEST_CAPABILITY[0]}.{OLDEST_CAPABILITY[1]} (Turing) or later: choose another "
            "GPU, or backend 'cpu'"
        )
    free = 0
    try:
        with cupy.cuda.Device(index):
            free = int(cupy.cuda.runtime.memGetInfo()[0])
    except Exception as error:
        problem = problem or (
            f"it can't be opened ({error}): end the program that may have it alone (nvidia-smi "
            "lists them), or choose another GPU"
        )
    return DeviceReport(
        index,
        name.decode() if isinstance(name, bytes) else str(name),
        capability,
        free,
        int(properties["totalGlobalMem"]),
        problem,
    )


def reports() -> list[DeviceReport]:
    """Return every CUDA device of this machine.

    Raises
    ------
    DeviceError
        If there is none, or none can be reached; the message says why.
    """
    cupy = find_cupy()
    count = _count(cupy)
    problem = _compiler_problem(cupy)
    return [_report(cupy, index, problem) for index in range(count)]


def usable(index: int) -> Any:
    """Return CuPy, checked to be able to compute on one device.

    Raises
    ------
    DeviceError
        If it can't; the message says why.
    """
    cupy = find_cupy()
    count = _count(cupy)
    if index >= count:
        raise DeviceError(
            f"there is no CUDA device {index}: this machine has {count}, numbered from 0: choose "
            "one that 'npresnet devices' lists"
        )
    problem = _report(cupy, index, _compiler_problem(cupy)).problem
    if problem is not None:
        raise DeviceError(f"device gpu:{index} can't be used: {problem}")
    return cupy
