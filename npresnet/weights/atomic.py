"""Writing a file aside and renaming it, so that a reader finds the old file or the new, never half.

Everything that npresnet saves goes through `write_aside`: weights, settings, metrics, pictures.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from npresnet.errors import WriteError

__all__ = ["write_aside", "write_text"]


@contextlib.contextmanager
def write_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; on leaving, flush it to disk and rename it over `path`.

    If the body raises, or the process is killed, `path` still holds what it held before. A symbolic
    link is followed: the file that it points to is replaced. An existing file's permission bits are
    kept; a new one gets those that the umask allows.

    Parameters
    ----------
    path : str or path-like
        The file to replace or create. Its folder must exist.

    Yields
    ------
    pathlib.Path
        An existing empty file in the same folder, for the body to write by that name.

    Raises
    ------
    WriteError
        The folder is missing or unwritable, the path is a folder or a device, or an `OSError`
        (a full disk, say) came out of the body.

    Examples
    --------
    >>> with write_aside("metrics.json") as aside:  # doctest: +SKIP
    ...     aside.write_text(json.dumps(metrics))
    """
    target = Path(os.path.realpath(path))
    try:
        mode = _existing_mode(target)
        aside = _create_beside(target)
        if mode is None:  # kept apart: a library that makes the file anew may make it private
            mode = stat.S_IMODE(aside.stat().st_mode)
    except OSError as error:
        raise _explain(path, error) from error
    try:
        yield aside
        _flush(aside, os.O_RDWR)
        os.chmod(aside, mode)
        os.replace(aside, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        if isinstance(error, OSError) and not isinstance(error, WriteError):
            raise _explain(path, error) from error
        raise
    if os.name == "posix":  # elsewhere a folder can't be opened, and the rename is durable
        with contextlib.suppress(OSError):  # some network file systems refuse; the file is whole
            _flush(target.parent, os.O_RDONLY)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace `path` by `text` in UTF-8, whole or not at all; see `write_aside` for the errors."""
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def _existing_mode(target: Path) -> int | None:
    """Permission bits of the file to be replaced, None where there is none yet."""
    try:
        found = target.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError("it is a folder: give the name of a file")
    if not stat.S_ISREG(found.st_mode):  # renaming over /dev/null would remove it
        raise OSError("it isn't a regular file: give the name of a file")
    if not os.access(target, os.W_OK):
        raise PermissionError("the file is write-protected: choose another name or unprotect it")
    return stat.S_IMODE(found.st_mode)


def _create_beside(target: Path) -> Path:
    """A new empty file in the folder of `target`; mkstemp would make it private to its owner."""
    stem = target.name.encode()[:200].decode(errors="ignore")  # names end at 255 bytes
    while True:
        aside = target.with_name(f".{stem}.{secrets.token_hex(6)}.tmp")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return aside


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _explain(path: str | os.PathLike[str], error: OSError) -> WriteError:
    """One line: which file, what is wrong, what to do."""
    folder = os.path.dirname(os.path.realpath(path))
    if isinstance(error, FileNotFoundError) and not os.path.isdir(folder):
        reason = f"there is no folder {folder!r}: make it first"
    elif isinstance(error, NotADirectoryError):
        reason = f"{folder!r} isn't a folder: choose another place"
    elif error.errno is None:  # raised above, with its cure
        reason = str(error)
    else:
        reason = f"{error.strerror}: free some space, get permission or choose another place"
    return WriteError(f"can't write {os.fspath(path)!r}: {reason}")
