"""Files from the web: over https only, whole only if their sha256 is right, resumed where it broke.

Nothing but the standard library is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import unquote, urlsplit

from npresnet.errors import RangeError, WeightsError, WriteError
from npresnet.weights.https import MAX_REDIRECTS, https_opener
from npresnet_kernels.user_cache import user_cache

__all__ = ["MAX_BYTES", "fetch", "is_offline", "split_hash"]

MAX_BYTES = 2 * 2**30
"""Largest file that is fetched; weights of a ResNet-152 take 0.24 GB."""

TIMEOUT = 10.0
"""Seconds of patience with a server that stalls, where HF_HUB_DOWNLOAD_TIMEOUT isn't set."""

_CHUNK = 2**18
_TRIES = 5  # connections that may break, while each brings something


def is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids the network, in the words that huggingface_hub takes."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def split_hash(url: str) -> tuple[str, str]:
    """Take the sha256 off a URL that ends in ``#sha256=`` and 64 digits, as pip writes it.

    Raises
    ------
    WeightsError
        The scheme isn't https, there is no host, or no sha256.
    """
    address, _, fragment = url.partition("#")
    parts = urlsplit(address)
    if parts.scheme.lower() != "https" or not parts.hostname:
        raise WeightsError(f"{_shown(url)!r}: weights are fetched over https only, and from a host")
    found = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if found is None:
        raise WeightsError(
            f"{_shown(url)!r} has no sha256: write it behind the URL, as in "
            "https://example.org/resnet34.safetensors#sha256=(64 hexadecimal digits); "
            "sha256sum FILE prints it"
        )
    return address, found[1].lower()


def fetch(
    url: str,
    sha256: str,
    *,
    folder: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Fetch a file, or find it where it was put the last time.

    A file gets its name when its hash has been found right. What came before a connection broke
    is kept beside it, and the next call goes on from there.

    Parameters
    ----------
    url : str
        An https URL.
    sha256 : str
        What the content must have: all 64 hexadecimal digits, or their beginning.
    folder : path, optional
        Where files are kept, each in a folder named by its hash; by default ``weights`` in the
        user's cache.
    timeout : float, optional
        Seconds without an answer, or with less than a kilobyte each, after which the server is
        given up; by default HF_HUB_DOWNLOAD_TIMEOUT, or 10.
    max_bytes : int
        Largest file that is taken.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    WeightsError
        The network is forbidden or fails, the server refuses, stalls or leads elsewhere than to
        https, or the content is another.
    WriteError
        The file can't be written.
    """
    home = Path(folder) if folder is not None else user_cache() / "weights"
    target = home / sha256 / _file_name(url)
    if target.is_file():
        return target
    if is_offline():
        raise WeightsError(
            f"{_shown(url)!r} isn't in the cache ({str(target)!r}), and HF_HUB_OFFLINE forbids to "
            "fetch it: unset it, or put the file there"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _part(target) as file:
            part = file.name
            transfer = _Transfer(url, file, timeout or _timeout(), max_bytes)
            resumed = transfer.position > 0
            transfer.run()
            found = _digest(file)
            if resumed and not found.startswith(sha256):  # what was there may be of another file
                transfer.restart()
                transfer.run()
                found = _digest(file)
            if not found.startswith(sha256):
                os.unlink(part)
                raise WeightsError(
                    f"{_shown(url)!r} has sha256 {found}, expected {sha256}: it isn't the file "
                    "that was meant, and isn't kept; check the URL and the hash"
                )
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and target.is_file():
            return target  # another process was as far, and faster
        raise WriteError(
            f"can't keep {_shown(url)!r} in {str(target.parent)!r}: {error.strerror or error}: "
            "free some space, or set XDG_CACHE_HOME to another folder"
        ) from error
    return target


class _Transfer:
    """The bytes of a URL on their way into a file, from the file's end on."""

    def __init__(self, url: str, file: IO[bytes], timeout: float, max_bytes: int) -> None:
        self._url = url
        self._file = file
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._opener = https_opener()
        self.position = file.seek(0, os.SEEK_END)

    def restart(self) -> None:
        """Forget what is there."""
        self.position = 0

    def run(self) -> None:
        """Bring all; connections that break are made again while they bring something."""
        for _ in range(_TRIES):
            before = self.position
            with self._response() as response:
                complete = response is None or self._copy(response)
            if complete:
                self._file.truncate(self.position)
                self._file.flush()
                return
            if self.position == before:
                break
        self._fail("the connection broke")

    @contextlib.contextmanager
    def _response(self) -> Iterator[http.client.HTTPResponse | None]:
        """Ask for the rest of the file; None if the server says that nothing is left."""
        headers = {"User-Agent": "npresnet"}
        if self.position:
            headers["Range"] = f"bytes={self.position}-"
        request = urllib.request.Request(self._url, headers=headers)
        try:
            response = self._opener.open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416 and self.position:
                    yield None
                    return
                if 300 <= error.code < 400:
                    self._refuse_redirect(error)
                raise WeightsError(
                    f"{_shown(self._url)!r}: the server says {error.code} {error.reason}: check "
                    "the URL"
                ) from None
        except (OSError, http.client.HTTPException) as error:
            self._fail(_reason(error))
        with response:
            if response.status != 206:
                self.position = 0
            yield response

    def _copy(self, response: http.client.HTTPResponse) -> bool:
        """Write what comes; tell whether all came."""
        left = response.length
        total = None if left is None else self.position + left
        self._check_size(total or 0)
        with self._bar(total) as bar:
            while True:
                try:
                    chunk = response.read1(_CHUNK)
                except TimeoutError as error:
                    self._fail(_reason(error))
                except (OSError, http.client.HTTPException):
                    return False
                if not chunk:
                    return total is None or self.position >= total
                self._check_size(self.position + len(chunk))
                self._file.seek(self.position)
                self._file.write(chunk)
                self.position += len(chunk)
                bar.update(len(chunk))

    def _bar(self, total: int | None) -> Any:
        from tqdm import tqdm

        return tqdm(
            desc=_file_name(self._url),
            total=total,
            initial=self.position,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None,  # where standard error is no terminal
        )

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            os.unlink(self._file.name)
            raise WeightsError(
                f"{_shown(self._url)!r} has more than {self._max_bytes:,} bytes: these are no "
                "weights of a ResNet"
            )

    def _refuse_redirect(self, error: urllib.error.HTTPError) -> NoReturn:
        place = error.headers.get("Location") or "nowhere"
        raise WeightsError(
            f"{_shown(self._url)!r} redirects to {_shown(place)!r}: redirects are followed over "
            f"https only, and {MAX_REDIRECTS} at most"
        ) from None

    def _fail(self, reason: str) -> NoReturn:
        self._file.flush()
        kept = f"; {self.position:,} bytes are kept, the next try goes on from there"
        raise WeightsError(
            f"can't fetch {_shown(self._url)!r}: {reason}{kept if self.position else ''}"
        ) from None


@contextlib.contextmanager
def _part(target: Path) -> Iterator[IO[bytes]]:
    """Open the part that earlier tries have brought, or a new one.

    It is locked meanwhile. Where another process is at it, or locks don't work, it is a part of our
    own that an error leaves nothing of.
    """
    path = target.with_name(f"{target.name}.part")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "r+b", opener=_create))
        shared = _lock(file, path)
        if not shared:
            path = target.with_name(f"{target.name}.{secrets.token_hex(6)}.part")
            file = stack.enter_context(open(path, "w+b"))
        try:
            yield file
        except BaseException:
            with contextlib.suppress(OSError):  # gone already, or open elsewhere
                if not shared or not path.stat().st_size:
                    path.unlink()
                target.parent.rmdir()  # only if it is empty
            raise


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def _lock(file: IO[bytes], path: Path) -> bool:
    """Lock a file, and tell whether it worked and the file still has its name."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except (ImportError, OSError):
        return False


def _digest(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _file_name(url: str) -> str:
    """Return the last part of a URL's path, without what a file system may take amiss."""
    last = unquote(urlsplit(url).path).rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".")[-100:] or "weights"


def _shown(url: str) -> str:
    """Return a URL for a message: queries may hold keys."""
    return re.sub(r"[?#].*", "", url.replace("\n", " "))[:300]


def _timeout() -> float:
    text = os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", "")
    try:
        seconds = float(text or TIMEOUT)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise RangeError(f"HF_HUB_DOWNLOAD_TIMEOUT expected a number of seconds, got {text!r}")
    return seconds


def _reason(error: Exception) -> str:
    """Say what was wrong with the network."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "the server stalls (HF_HUB_DOWNLOAD_TIMEOUT sets how long it may)"
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return " ".join(str(text).split())
