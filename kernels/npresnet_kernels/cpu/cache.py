"""Where compiled kernels are kept between runs, and when what is kept there may be trusted.

Numba's own cache looks at one source file a function; kernels here are put together from many. So
they are kept in a folder of their own, whose name is a digest of all that they are made from: the
sources, Numba and LLVM, the processor and its features. Each file is named by what it holds and
ends with a digest of itself and the folder's name: one that was truncated, or copied from another
machine's folder, is compiled anew, and processes that start at once write the same files, whole.
Plans' kernels are object files (:func:`code_of`); for eager's, :func:`kept` arranges that Numba
keeps the functions decorated inside it so, and leaves other code's use of Numba alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding

from npresnet_kernels.user_cache import user_cache

__all__ = ["announce", "cache_folder", "code_of", "kept", "require_numba"]

SETTINGS = ("CPU_NAME", "CPU_FEATURES", "ENABLE_AVX", "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE",
            "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "THREADING_LAYER")  # fmt: skip
"""Numba's settings, as NUMBA_..., that change what is compiled."""

FAST = "o"
"""How files of plans' kernels end: object files, that need no Numba to be loaded."""

DIGEST_BYTES = 32

FORGOTTEN_AFTER = 60 * 24 * 3600
"""Seconds after which code that no run has used is deleted."""

_lock = threading.RLock()
_announced = False
_complained = False


def _key() -> str | None:
    """Return a digest of everything that compiled code depends on; None if it can't be told."""
    package = Path(__file__).resolve().parents[1]
    sources = sorted(package.rglob("*.py"))
    if not sources:
        return None
    digest = hashlib.sha256()
    for source in sources:
        content = source.read_bytes()
        digest.update(f"{source.relative_to(package)} {len(content)}\n".encode())
        digest.update(content)
    numba = importlib.util.find_spec("numba")  # importing it takes longer than all the rest
    if numba is None or numba.origin is None:
        return None
    version = Path(numba.origin).with_name("_version.py")
    settings = [
        numba.origin,
        version.read_bytes() if version.exists() else None,
        llvmlite.__version__,
        sys.implementation.cache_tag,
        platform.machine(),
        llvmlite.binding.get_default_triple(),
        llvmlite.binding.get_host_cpu_name(),
        llvmlite.binding.get_host_cpu_features().flatten(),
        os.environ.get("NPRESNET_VECTOR"),
        *(os.environ.get(f"NUMBA_{name}") for name in SETTINGS),
    ]
    digest.update(repr(settings).encode())
    return digest.hexdigest()[:24]


def _parent() -> Path:
    """Return the folder for all versions: NUMBA_CACHE_DIR, or the user's cache."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    return Path(chosen) / "npresnet" if chosen else user_cache()


@functools.cache
def cache_folder() -> Path | None:
    """Return the folder of this version's compiled kernels, made if need be; None if it can't be.

    Code is loaded from a folder only if nobody else can write to it. One that can't be written to
    at all, as in an image that is mounted read-only, is read if there is something in it.
    """
    try:
        key = _key()
        if key is None:
            raise OSError("neither the package's sources nor Numba's can be read")
        folder = _parent() / key
        fresh = not folder.exists()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if hasattr(os, "getuid"):
            if found.st_uid != os.getuid():
                raise PermissionError(f"{folder} belongs to another user")
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise PermissionError(f"others can write to {folder}")
        if not _can_write(folder) and not _any_kept(folder):
            raise PermissionError(f"{folder} can't be written to")
        if fresh:
            _forget_old(folder)
    except (OSError, RuntimeError) as error:  # Path.home() raises RuntimeError
        _complain(error)
        return None
    return folder


def _can_write(folder: Path) -> bool:
    """Return whether a folder takes files; note that it is in use."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            os.utime(folder)
    except OSError:
        return False
    return True


def _forget_old(folder: Path) -> None:
    """Delete the folders of versions that no run has used for long."""
    with contextlib.suppress(OSError):
        for other in folder.parent.iterdir():
            unused = time.time() - other.stat().st_mtime > FORGOTTEN_AFTER
            if unused and re.fullmatch("[0-9a-f]{24}", other.name) and not other.is_symlink():
                shutil.rmtree(other, ignore_errors=True)


def _complain(error: Exception) -> None:
    """Say, once, that nothing is kept."""
    global _complained
    if not _complained:
        _complained = True
        warnings.warn(
            f"compiled kernels are not kept between runs ({error}): set NUMBA_CACHE_DIR to a "
            "folder that you can write to",
            RuntimeWarning,
            stacklevel=4,
        )


def _sealed(body: bytes) -> bytes:
    """Return what is kept of some code: with a digest of itself and of what it depends on."""
    return body + _seal(body)


def _seal(body: bytes) -> bytes:
    folder = cache_folder()
    return hashlib.sha256((folder.name if folder else "").encode() + body).digest()


def _read(path: Path) -> bytes | None:
    """Return what was kept in a file; None if that is nothing, damaged or another machine's."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body, seal = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    return body if _seal(body) == seal else None


def _write(path: Path, body: bytes) -> None:
    """Keep code in a file: written aside, then renamed."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}")
    try:
        aside.write_bytes(_sealed(body))
        os.replace(aside, path)
    except OSError as error:  # a full disk doesn't keep kernels from running
        with contextlib.suppress(OSError):
            aside.unlink()
        _complain(error)


def code_of(name: str, compile_: Callable[[], bytes]) -> bytes:
    """Return the object file of a name: as it was kept, or else compiled, and kept."""
    folder = cache_folder()
    path = folder / f"{name}.{FAST}" if folder else None
    code = _read(path) if path else None
    if code is None:
        code = compile_()
        if path:
            _write(path, code)
    return code


@functools.cache
def _checked_files() -> type:
    """Return the class of the files that Numba's cache is to use for storage."""
    # Numba's internals, whose types say less than what is used of them
    caching: Any = importlib.import_module("numba.core.caching")

    class CheckedFiles:
        """The files of one function's compiled forms.

        Each form has a file of its own, named by the key, so that no index has to be kept right.
        """

        def __init__(self, cache_path: str, filename_base: str, source_stamp: object) -> None:
            self._folder = Path(cache_path)
            self._base = filename_base
            self._stamp = source_stamp

        def _path(self, key: object) -> Path:
            name = hashlib.sha256(repr((key, self._stamp)).encode()).hexdigest()[:24]
            return self._folder / f"{self._base}.{name}.nbc"

        def load(self, key: object) -> Any:
            """Return what was saved under a key, None if that is nothing or damaged."""
            try:
                body = _read(self._path(key))
                return None if body is None else caching.pickle.loads(body)
            except Exception:  # unpickling raises anything
                return None

        def save(self, key: object, data: object) -> None:
            """Keep compiled code."""
            _write(self._path(key), caching.dumps(data))

        def flush(self) -> None:
            """Forget this function's compiled forms."""
            for path in self._folder.glob(f"{self._base}.*.nbc"):
                path.unlink(missing_ok=True)

    return CheckedFiles


@contextlib.contextmanager
def kept() -> Iterator[bool]:
    """Keep the functions that Numba's decorators make in this block; yields whether it can.

    Use as ``with kept() as keep: compiled = numba.njit(cache=keep)(function)``.
    """
    caching: Any = importlib.import_module("numba.core.caching")
    config: Any = importlib.import_module("numba.core.config")
    with _lock:
        folder = cache_folder()
        if folder is None or not _can_write(folder):  # Numba reads from no folder but a writable
            yield False
            return
        before = config.CACHE_DIR, caching.IndexDataCacheFile
        config.CACHE_DIR, caching.IndexDataCacheFile = str(folder), _checked_files()
        try:
            yield True
        finally:
            config.CACHE_DIR, caching.IndexDataCacheFile = before


def _any_kept(folder: Path) -> bool:
    """Return whether a run has left kernels of plans."""
    return next(folder.glob(f"*.{FAST}"), None) is not None


def require_numba() -> None:
    """Import Numba to see that it works, unless kernels are kept: then it has been seen to.

    Raises
    ------
    Exception
        Whatever a missing or broken Numba raises.
    """
    folder = cache_folder()
    if folder is None or not _any_kept(folder):
        importlib.import_module("numba")


def announce() -> None:
    """Say on stderr that kernels are about to be compiled, if none are kept from an earlier run."""
    global _announced
    with _lock:
        if _announced:
            return
        _announced = True
        folder = cache_folder()
        if folder is None:
            print("npresnet: compiling kernels for this processor", file=sys.stderr)
        elif not _any_kept(folder):
            print(
                f"npresnet: compiling kernels for this processor, once (kept in {folder})",
                file=sys.stderr,
            )
