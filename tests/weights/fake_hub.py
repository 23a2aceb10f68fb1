"""A server that answers as the Hugging Face Hub does: files by revision, commits and hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.weights.servers import Answer, Handler, serving, sha256

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_blob(data: bytes) -> str:
    """Hash a file as git does, which is how the hub names small files."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(data: bytes, etag: str | None = None, commit: str = COMMIT) -> Answer:
    """Answer the two questions that huggingface_hub asks of a file: HEAD, then GET."""
    small = data[:1] == b"{"

    def answer(handler: Handler) -> None:
        headers = {
            "ETag": f'"{etag or (git_blob(data) if small else sha256(data))}"',
            "X_Repo_Commit": commit,
            "Accept_Ranges": "bytes",
        }
        if handler.command == "HEAD":
            handler.reply(200, data, **headers)
        else:
            begin = handler.start(data)
            handler.wfile.write(data[begin:])

    return answer


def refusal(status: int, code: str) -> Answer:
    headers = {"X_Error_Code": code, "X_Error_Message": code, "X_Repo_Commit": COMMIT}
    return lambda handler: handler.reply(status, **headers)


def repository(
    name: str, config: dict[str, Any] | bytes, weights: bytes, revision: str = "main"
) -> dict[str, Answer]:
    """The table of a repository's answers, by branch and by commit."""
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    answers = {
        f"/{name}/resolve/{at}/{file}": entry(data)
        for at in (revision, COMMIT)
        for file, data in (("config.json", text), ("model.safetensors", weights))
    }
    beside = f"/{name}/resolve/{COMMIT}/preprocessor_config.json"
    return {**answers, beside: refusal(404, "EntryNotFound")}


@contextmanager
def fake_hub(monkeypatch: Any, cache: Any, answers: dict[str, Answer]) -> Iterator[Any]:
    """Run the server, with huggingface_hub set to ask it and to keep files in `cache`."""
    from huggingface_hub import constants

    with serving(answers) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server
