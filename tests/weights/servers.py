"""HTTP servers on the loopback interface that serve what a test says, well or badly."""

from __future__ import annotations

import hashlib
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Asks the server's table what to do with a path."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        self.server.answers.get(path, missing)(self)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "Connection": "close", **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def start(self, data: bytes) -> int:
        """Send the headers of a file, or of the rest that is asked for; return where it begins."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        begin = int(found[1]) if found else 0
        if begin >= len(data) > 0:
            self.reply(416)
            return len(data)
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.send_header("Connection", "close")
        if found:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        return begin


def missing(handler: Handler) -> None:
    handler.reply(404, b"nothing here")


def whole(data: bytes) -> Answer:
    """Serve a file, or the part that is asked for."""

    def answer(handler: Handler) -> None:
        begin = handler.start(data)
        handler.wfile.write(data[begin:])

    return answer


def breaking(data: bytes, after: int) -> Answer:
    """Serve so many bytes at most, then drop the connection."""

    def answer(handler: Handler) -> None:
        begin = handler.start(data)
        handler.wfile.write(data[begin : begin + after])

    return answer


def stalling(data: bytes, after: int, seconds: float = 30) -> Answer:
    """Serve so many bytes, then say nothing for long."""

    def answer(handler: Handler) -> None:
        begin = handler.start(data)
        handler.wfile.write(data[begin : begin + after])
        handler.wfile.flush()
        handler.server.stop.wait(seconds)

    return answer


def dripping(text: bytes) -> Answer:
    """Send these bytes, one every 50 ms, over and over."""

    def answer(handler: Handler) -> None:
        try:
            while not handler.server.stop.is_set():
                for byte in text:
                    handler.wfile.write(bytes([byte]))
                    handler.wfile.flush()
                    time.sleep(0.05)
        except OSError:
            pass

    return answer


def silent(handler: Handler) -> None:
    handler.server.stop.wait(30)


def redirect(place: str, status: int = 302) -> Answer:
    return lambda handler: handler.reply(status, Location=place)


@contextmanager
def serving(answers: dict[str, Answer], certificate: Any = None) -> Iterator[Any]:
    """Run a server; ``server.url``, ``server.requests`` and ``server.answers`` are for the test."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.answers, server.requests, server.stop = answers, [], threading.Event()
    server.handle_error = lambda *_: None  # clients that hang up are part of the tests
    scheme, host = "http", "127.0.0.1"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme, host = "https", "localhost"
    server.url = f"{scheme}://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        stop(server)
        thread.join()


def stop(server: Any) -> None:
    """End a server; its port then refuses connections."""
    server.stop.set()
    server.shutdown()
    server.server_close()


def make_certificate(folder: Any) -> Any:
    """Sign a certificate for localhost by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl program to make a certificate")
    command = [
        openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"),
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
