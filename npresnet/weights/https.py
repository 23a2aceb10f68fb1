"""Requests over https and nothing else, that no server can make to wait for ever.

urllib's parts, put together without its handlers for files, FTP and plain http, so that a redirect
can't lead there; proxies and certificates come from the usual variables (``HTTPS_PROXY``,
``SSL_CERT_FILE``).
"""

from __future__ import annotations

import http.client
import io
import ssl
import time
import urllib.request
from typing import IO, Any
from urllib.parse import urlsplit

__all__ = ["MAX_REDIRECTS", "https_opener"]

MAX_REDIRECTS = 5

_SLOWEST = 1024  # bytes a second; a server that sends less on purpose is stalling


def https_opener() -> urllib.request.OpenerDirector:
    """Return an opener whose timeout also ends answers that come by a few bytes at a time.

    ``opener.open(request, timeout=seconds)`` raises `TimeoutError` where a server is silent for so
    long, or sends less than a kilobyte a second; a redirect to another scheme is the answer itself,
    an `urllib.error.HTTPError`.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPDefaultErrorHandler,
        _Redirects,
        _Https,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, over https only."""

    max_repeats = 2
    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme.lower() != "https":
            return None  # the answer itself then counts, as an error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Steady(io.RawIOBase):
    """A socket's stream that gives up on a server that sends next to nothing."""

    def __init__(self, stream: IO[bytes], timeout: float) -> None:
        self._stream: Any = stream
        self._timeout = timeout
        self._began, self._count = time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count: int | None = self._stream.readinto(buffer)  # waits as long as the socket's timeout
        self._count += count or 0
        now = time.monotonic()
        if now - self._began > self._timeout:
            if count and self._count < _SLOWEST * self._timeout:
                raise TimeoutError(f"{self._count} bytes in {now - self._began:.0f} s")
            self._began, self._count = now, 0
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer, headers and all, that is read from a steady stream."""

    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Steady(sock.makefile("rb", buffering=0), sock.gettimeout()))


class _Connection(http.client.HTTPSConnection):
    response_class = _Response


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req, context=ssl.create_default_context())
