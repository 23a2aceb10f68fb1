"""Files from an https server of the test's own, which serves them well or badly."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from npresnet.errors import RangeError, WeightsError, WriteError
from npresnet.weights.url import fetch, split_hash
from tests.weights.servers import (
    breaking,
    dripping,
    make_certificate,
    redirect,
    serving,
    sha256,
    silent,
    stalling,
    stop,
    whole,
)

DATA = np.random.default_rng(7).bytes(300_000)
HASH = sha256(DATA)
PATIENCE = 0.4  # seconds


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serving({"/w.safetensors": whole(DATA)}, certificate) as running:
        yield running


def left(folder: Path) -> list[str]:
    """Names of the files that are there."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def refused(server, folder, path="/w.safetensors", digest=HASH, **options):
    """The error of a fetch, which must come soon and be one line."""
    began = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        fetch(server.url + path, digest, folder=folder, **{"timeout": PATIENCE, **options})
    assert time.monotonic() - began < 2
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)
    return str(caught.value)


def test_a_file_comes_once(server, tmp_path):
    path = fetch(server.url + "/w.safetensors?key=secret", HASH, folder=tmp_path)
    assert path.read_bytes() == DATA
    assert path.name == "w.safetensors"
    assert fetch(server.url + "/w.safetensors", HASH, folder=tmp_path) == path
    assert len(server.requests) == 1
    assert left(tmp_path) == ["w.safetensors"]


def test_the_beginning_of_a_hash(server, tmp_path):
    """Torchvision's names hold eight digits."""
    path = fetch(server.url + "/w.safetensors", HASH[:8], folder=tmp_path)
    assert path.read_bytes() == DATA


def test_another_content_is_not_kept(server, tmp_path):
    message = refused(server, tmp_path, digest=sha256(b"other"))
    assert f"has sha256 {HASH}, expected {sha256(b'other')}" in message
    assert left(tmp_path) == []


def test_a_broken_connection_is_resumed(server, tmp_path):
    server.answers["/w.safetensors"] = breaking(DATA, 100_000)
    path = fetch(server.url + "/w.safetensors", HASH, folder=tmp_path)
    assert path.read_bytes() == DATA
    assert [r[2] for r in server.requests] == [None, "bytes=100000-", "bytes=200000-"]


def test_the_next_call_goes_on(server, tmp_path):
    server.answers["/w.safetensors"] = stalling(DATA, 200_000)
    assert "200,000 bytes are kept" in refused(server, tmp_path)
    assert left(tmp_path) == ["w.safetensors.part"]
    server.answers["/w.safetensors"] = whole(DATA)
    path = fetch(server.url + "/w.safetensors", HASH, folder=tmp_path)
    assert path.read_bytes() == DATA
    assert server.requests[-1][2] == "bytes=200000-"
    assert left(tmp_path) == ["w.safetensors"]


@pytest.mark.parametrize("size", [10, 300_000, 500_000])
def test_a_part_of_another_file_is_forgotten(server, tmp_path, size):
    part = tmp_path / HASH / "w.safetensors.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * size)
    path = fetch(server.url + "/w.safetensors", HASH, folder=tmp_path)
    assert path.read_bytes() == DATA
    assert left(tmp_path) == ["w.safetensors"]


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    part = tmp_path / HASH / "w.safetensors.part"
    part.parent.mkdir()
    part.write_bytes(DATA[:1000])
    server.answers["/w.safetensors"] = lambda handler: handler.reply(200, DATA)
    assert fetch(server.url + "/w.safetensors", HASH, folder=tmp_path).read_bytes() == DATA


def test_two_processes_at_once(server, tmp_path):
    """The part is locked by another: ours is our own, and nothing of it is left."""
    fcntl = pytest.importorskip("fcntl")
    part = tmp_path / HASH / "w.safetensors.part"
    part.parent.mkdir()
    with open(part, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused(server, tmp_path, "/none")
        path = fetch(server.url + "/w.safetensors", HASH, folder=tmp_path)
    assert path.read_bytes() == DATA
    assert left(tmp_path) == ["w.safetensors", "w.safetensors.part"]


def test_a_bar_in_a_terminal(server, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for kind, drawn in ((Terminal, True), (io.StringIO, False)):
        screen = kind()
        monkeypatch.setattr(sys, "stderr", screen)
        fetch(server.url + "/w.safetensors", HASH, folder=tmp_path / kind.__name__)
        assert ("w.safetensors: " in screen.getvalue()) is drawn


def test_redirects_over_https(server, tmp_path):
    server.answers["/old"] = redirect("/w.safetensors")
    server.answers["/older"] = redirect(server.url + "/old", 301)
    assert fetch(server.url + "/older", HASH, folder=tmp_path).read_bytes() == DATA


@pytest.mark.parametrize(
    "place", ["http://localhost/w", "file:///etc/hostname", "ftp://localhost/w", "data:,hello", ""]
)
def test_redirects_elsewhere(server, tmp_path, place):
    server.answers["/old"] = redirect(place)
    message = refused(server, tmp_path, "/old")
    assert "redirects" in message
    assert "https only" in message
    assert place in message
    assert left(tmp_path) == []


def test_redirects_without_end(server, tmp_path):
    server.answers["/loop"] = redirect("/loop")
    assert "5 at most" in refused(server, tmp_path, "/loop")


@pytest.mark.parametrize(
    "answer",
    [
        silent,
        stalling(DATA, 0),
        stalling(DATA, 100_000),
        dripping(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 99),
        dripping(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 99),
    ],
    ids=["silent", "after the headers", "in the body", "headers in drips", "body in drips"],
)
def test_a_server_that_stalls(server, tmp_path, answer):
    server.answers["/w.safetensors"] = answer
    message = refused(server, tmp_path)
    assert "the server stalls (HF_HUB_DOWNLOAD_TIMEOUT sets how long it may)" in message
    assert "w.safetensors" not in left(tmp_path)


def test_patience_is_set_by_a_variable(server, tmp_path, monkeypatch):
    server.answers["/w.safetensors"] = silent
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.3")
    assert "stalls" in refused(server, tmp_path, timeout=None)
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "soon")
    with pytest.raises(RangeError, match="expected a number of seconds, got 'soon'"):
        fetch(server.url + "/w.safetensors", HASH, folder=tmp_path)


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_a_server_that_refuses(server, tmp_path, status):
    server.answers["/w.safetensors"] = lambda handler: handler.reply(status, b"no")
    assert f"the server says {status}" in refused(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_http_at_all(server, tmp_path):
    server.answers["/w.safetensors"] = lambda handler: handler.wfile.write(b"\0" * 1000)
    assert "can't fetch" in refused(server, tmp_path)


def test_too_large(server, tmp_path):
    assert "more than 1,000 bytes" in refused(server, tmp_path, max_bytes=1000)
    assert left(tmp_path) == []

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 50_000)

    server.answers["/w.safetensors"] = endless
    assert "more than 900,000 bytes" in refused(server, tmp_path, max_bytes=900_000)
    assert left(tmp_path) == []


def test_nobody_there(server, tmp_path):
    stop(server)
    assert "refused" in refused(server, tmp_path)


def test_a_certificate_that_nobody_knows(server, tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "certificate" in refused(server, tmp_path).lower()
    assert server.requests == []


def test_offline(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = refused(server, tmp_path)
    assert f"isn't in the cache ('{tmp_path}" in message
    assert server.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    path = fetch(server.url + "/w.safetensors", HASH, folder=tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(server.url + "/w.safetensors", HASH, folder=tmp_path) == path


def test_the_users_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = fetch(server.url + "/w.safetensors", HASH)
    assert path == tmp_path / "npresnet" / "weights" / HASH / "w.safetensors"


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a%2F..%2Fb.pth", "b.pth"), ("/", "weights"), ("/.hidden", "hidden"), ("/a:b", "a_b")],
)
def test_names_that_no_folder_should_see(server, tmp_path, path, name):
    server.answers[path] = whole(DATA)
    found = fetch(server.url + path, HASH, folder=tmp_path)
    assert found == tmp_path / HASH / name


def test_a_place_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"can't keep .* set XDG_CACHE_HOME to another folder"):
        fetch(server.url + "/w.safetensors", HASH, folder=tmp_path / "file")


def test_a_killed_fetch_goes_on(server, certificate, tmp_path):
    """The process is killed outright; the next takes up the part."""
    server.answers["/w.safetensors"] = stalling(DATA, 250_000)
    code = (
        "import sys; from npresnet.weights.url import fetch\n"
        "fetch(sys.argv[1], sys.argv[2], folder=sys.argv[3])"
    )
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'kernels'}"}
    command = [sys.executable, "-c", code, server.url + "/w.safetensors", HASH, str(tmp_path)]
    with subprocess.Popen(command, env=env) as process:
        part = tmp_path / HASH / "w.safetensors.part"
        until = time.monotonic() + 30
        while time.monotonic() < until and not (part.exists() and part.stat().st_size > 100_000):
            time.sleep(0.02)
        process.kill()
    kept = part.stat().st_size
    server.answers["/w.safetensors"] = whole(DATA)
    path = fetch(server.url + "/w.safetensors", HASH, folder=tmp_path)
    assert path.read_bytes() == DATA
    assert server.requests[-1][2] == f"bytes={kept}-"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.org/w.pth#sha256=" + HASH, "over https only"),
        ("file:///etc/passwd#sha256=" + HASH, "over https only"),
        ("https:///w.pth#sha256=" + HASH, "from a host"),
        ("https://example.org/w.pth?key=1", r"w.pth' has no sha256: write it behind the URL"),
        ("https://example.org/w.pth#sha256=abc", "has no sha256"),
        ("https://example.org/w.pth#md5=" + HASH, "has no sha256"),
    ],
)
def test_urls_that_do_not_do(url, message):
    with pytest.raises(WeightsError, match=message) as caught:
        split_hash(url)
    assert not re.search(r"\n|key=1", str(caught.value))


def test_a_url_and_its_hash():
    url = "https://example.org/w.pth?version=2"
    assert split_hash(f"{url}#sha256={HASH.upper()}") == (url, HASH)
