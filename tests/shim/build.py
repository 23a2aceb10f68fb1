"""CUDA sources compiled by g++ for the host, and launched from Python."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from npresnet_kernels.gpu.source import kernel_names

HERE = Path(__file__).parent
FLAGS = (
    *("-x", "c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-fno-strict-aliasing"),
    *("-ffp-contract=off", "-U_FORTIFY_SOURCE", "-Wall", "-Wno-unused", "-Werror=return-type"),
)


def compiler() -> str | None:
    return shutil.which("g++")


class ShimError(RuntimeError):
    """A kernel did on the host what it must not do on a device."""


@functools.cache
def _folder() -> Path:
    """Where libraries are kept between runs, by a hash of all that they are made of."""
    folder = Path(tempfile.gettempdir()) / f"npresnet-shim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        folder = Path(tempfile.mkdtemp(prefix="npresnet-shim-"))
    return folder


@functools.cache
def compiled(code: str, options: tuple[str, ...]) -> ctypes.PyDLL:
    """Build the shared library of a CUDA source; ``options`` are nvcc's ``-D``."""
    exports = "\n".join(f"SHIM_EXPORT({name})" for name in kernel_names(code))
    text = f"{(HERE / 'cuda.h').read_text()}\n{code}\n{exports}\n"
    flags = (*FLAGS, *(o for o in options if o.startswith("-D")))
    name = hashlib.sha256("\0".join((text, *flags)).encode()).hexdigest()[:32]
    library = _folder() / f"{name}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as work:
            source, made = Path(work) / "source.cc", Path(work) / "made.so"
            source.write_text(text)
            command = [compiler() or "g++", *flags, str(source), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ShimError(f"g++ can't compile this source:\n{done.stderr}")
            made.replace(library)
    return ctypes.PyDLL(str(library))  # PyDLL: one launch at a time


def on_host(code: str) -> str:
    """Return a whole source with the shim's bodies in place of the headers it has bodies for."""
    for header in HERE.glob("*.cuh"):
        marked = rf"// begin {header.name}\n.*?// end {header.name}\n"
        body = header.read_text().replace("#pragma once\n", "")
        code = re.sub(marked, lambda _, body=body: body, code, flags=re.DOTALL)
    return code


def launch(
    library: ctypes.PyDLL,
    name: str,
    grid: Sequence[int],
    block: Sequence[int],
    values: Sequence[tuple[str, bytes]],
    shared: int = 0,
) -> None:
    """Run a kernel over a whole grid.

    Parameters
    ----------
    library : PyDLL
        From :func:`compiled`.
    name : str
        The kernel.
    grid, block : sequence of int
        One to three sizes each.
    values : sequence of (str, bytes)
        The kind of each argument (``"p"`` pointer, ``"q"`` 64-bit integer, ``"i"`` 32-bit integer,
        ``"d"``, ``"f"``) and its bytes.
    shared : int
        Bytes of dynamic shared memory.

    Raises
    ------
    ShimError
        If arguments don't fit the kernel, a launch limit is broken, or the kernel misbehaves.
    """
    signature = getattr(library, f"{name}__signature")
    signature.restype = ctypes.c_char_p
    wanted = signature().decode()
    given = "".join(kind for kind, _ in values)
    if wanted.replace("p", "q") != given.replace("p", "q"):
        raise ShimError(f"{name} takes arguments {wanted!r}, got {given!r}")
    sizes = [*grid, *(1,) * (3 - len(grid)), *block, *(1,) * (3 - len(block)), shared]
    threads = sizes[3] * sizes[4] * sizes[5]
    limits = (2**31 - 1, 65535, 65535, 1024, 1024, 64, 227 * 1024)
    if not all(1 <= s <= m for s, m in zip(sizes[:6], limits, strict=False)) or threads > 1024:
        raise ShimError(f"{name}: grid {tuple(grid)} of blocks {tuple(block)} can't be launched")
    if shared > limits[6]:
        raise ShimError(f"{name}: no device has {shared} bytes of shared memory a block")
    memory = [ctypes.create_string_buffer(data, len(data)) for _, data in values]
    pointers = (ctypes.c_void_p * len(memory))(*(ctypes.addressof(m) for m in memory))
    function = getattr(library, f"{name}__launch")
    function.restype = ctypes.c_char_p
    error = function((ctypes.c_uint * 7)(*sizes), pointers)
    if error:
        raise ShimError(f"{name}: {error.decode()}")
