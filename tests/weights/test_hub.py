"""The hub: a server of the test's own, which answers as the real one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

from npresnet.errors import ExtraError, WeightsError
from npresnet.weights import load_pretrained
from npresnet.weights.config import MAX_CONFIG_BYTES
from npresnet.weights.hub import HubOptions, fetch_repository
from tests.weights.fake_hub import COMMIT, entry, fake_hub, refusal, repository
from tests.weights.servers import breaking, redirect, silent, stalling, stop, whole

STATE = {"fc.weight": np.random.default_rng(1).standard_normal((3, 400)).astype(np.float32)}
WEIGHTS = save(STATE, {"format": "pt"})
CONFIG = {
    "architecture": "resnet34",
    "num_classes": 3,
    "num_features": 512,
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "label_names": ["cat", "dog", "owl"],
    },
}
NAME = "timm/resnet34.a1_in1k"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub(monkeypatch, tmp_path / "cache", repository(NAME, CONFIG, WEIGHTS)) as server:
        yield server


def left(folder: Path) -> set[str]:
    """Names of the weights that are in the cache, whole or in part."""
    blobs = (path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {p.name for p in blobs if p.name == "model.safetensors" or "incomplete" in p.name}


def refused(name=NAME, **options):
    began = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        fetch_repository(name, HubOptions(**options))
    assert time.monotonic() - began < 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_and_what_they_expect(hub):
    state, settings = load_pretrained(NAME, "resnet34")
    np.testing.assert_array_equal(state["fc.weight"], STATE["fc.weight"])
    assert settings.classes == ("cat", "dog", "owl")
    assert settings.preprocessing.interpolation == "bicubic"
    assert settings.preprocessing.resize == 235  # 224 / 0.95, cut off
    with pytest.raises(WeightsError, match="it holds a resnet34, not a resnet50"):
        load_pretrained(NAME, "resnet50")


def test_the_cache_is_huggingface_hubs(hub, tmp_path):
    found = fetch_repository(NAME)
    folder = tmp_path / "cache" / "models--timm--resnet34.a1_in1k" / "snapshots" / COMMIT
    assert found == (folder / "config.json", folder / "model.safetensors")
    gets = [request for request in hub.requests if request[0] == "GET"]
    assert len(gets) == 2
    assert fetch_repository(NAME) == found
    assert [request for request in hub.requests if request[0] == "GET"] == gets


@pytest.mark.parametrize("how", ["offline", "local_files_only", "down", "stalled", "broken"])
def test_what_is_in_the_cache_needs_no_network(hub, how, monkeypatch):
    found = fetch_repository(NAME)
    asked = len(hub.requests)
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "down":
        stop(hub)
    elif how in ("stalled", "broken"):
        answer = silent if how == "stalled" else refusal(503, "")
        hub.answers.update(dict.fromkeys(hub.answers, answer))
    assert fetch_repository(NAME, HubOptions(local_files_only=how == "local_files_only")) == found
    if how in ("offline", "local_files_only"):
        assert len(hub.requests) == asked


def test_a_config_that_names_no_network(hub):
    hub.answers.update(repository("me/net", {"tag": "mine"}, WEIGHTS))
    state, settings = load_pretrained("me/net", "resnet34")
    assert settings is None
    assert list(state) == ["fc.weight"]


def test_a_commit_in_the_cache_is_not_asked_for(hub):
    found = fetch_repository(f"{NAME}@{COMMIT}")
    asked = len(hub.requests)
    assert fetch_repository(f"{NAME}@{COMMIT}") == found
    assert len(hub.requests) == asked


def test_revisions(hub):
    other = {**CONFIG, "num_classes": 2, "pretrained_cfg": {}}
    hub.answers.update(repository("me/net", other, WEIGHTS, "v2"))
    assert load_pretrained("me/net@v2").settings.classes == (0, 1)
    assert fetch_repository("me/net", HubOptions(revision="v2")).config.parent.name == COMMIT
    hub.answers["/me/net/resolve/v3/config.json"] = refusal(404, "RevisionNotFound")
    assert "me/net has no branch, tag or commit 'v3'" in refused("me/net@v3")


def test_offline_names_the_cache(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refused()
    assert f"the cache '{tmp_path / 'cache'}' lacks config.json of '{NAME}' (main)" in message
    assert "HF_HUB_OFFLINE" in message
    assert hub.requests == []
    assert "local_files_only" in refused(local_files_only=True)
    assert str(tmp_path / "elsewhere") in refused(cache_dir=tmp_path / "elsewhere")


def test_a_repository_that_is_not_there(hub):
    hub.answers["/you/none/resolve/main/config.json"] = refusal(401, "RepoNotFound")
    message = refused("you/none")
    assert f"there is no file 'you/none' here and no repository {hub.url}/you/none" in message
    hub.answers["/you/none/resolve/main/config.json"] = refusal(403, "GatedRepo")
    assert "HF_TOKEN" in refused("you/none")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_that_is_not_there(hub, file):
    for path in hub.answers:
        if path.endswith(file):
            hub.answers[path] = refusal(404, "EntryNotFound")
    message = refused()
    assert f"{hub.url}/{NAME} (" in message
    assert f") has no {file}: npresnet reads repositories with config.json and" in message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refusal(500, ""), "the server says 500"),
        (silent, "it stalls; HF_HUB_ETAG_TIMEOUT"),
        (whole(b"hello"), "answered without a commit and a hash"),
    ],
)
def test_a_server_that_fails(hub, answer, message):
    hub.answers[f"/{NAME}/resolve/main/config.json"] = answer
    assert message in refused()


def test_nobody_there(hub, tmp_path):
    stop(hub)
    message = refused()
    assert f"can't fetch config.json from {hub.url}/{NAME} (" in message
    assert f"and the cache '{tmp_path / 'cache'}' lacks it: check the connection" in message


def test_another_content_is_not_kept(hub, tmp_path):
    for at in ("main", COMMIT):
        hub.answers[f"/{NAME}/resolve/{at}/model.safetensors"] = entry(WEIGHTS, etag="0" * 64)
    message = refused()
    assert f"model.safetensors of '{NAME}' came with hash" in message
    assert f"the server said {'0' * 64}" in message
    assert left(tmp_path) == set()
    hub.answers.update(repository(NAME, CONFIG, WEIGHTS))
    assert fetch_repository(NAME).weights.read_bytes() == WEIGHTS
    hub.answers[f"/{NAME}/resolve/main/config.json"] = entry(b"{}", "f" * 40, "e" * 40)
    assert "config.json" in refused()


def test_a_broken_connection_is_resumed(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    data, drops = entry(WEIGHTS), []

    def answer(handler):
        if handler.command == "GET" and not drops:
            drops.append(1)
            breaking(WEIGHTS, 2000)(handler)
        else:
            data(handler)

    hub.answers[f"/{NAME}/resolve/{COMMIT}/model.safetensors"] = answer
    assert fetch_repository(NAME).weights.read_bytes() == WEIGHTS
    assert hub.requests[-1][2] == "bytes=2000-"


def test_weights_that_stall(hub, tmp_path, monkeypatch):
    """huggingface_hub tries six times, with a second between; here without."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.15)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    data = entry(WEIGHTS)

    def answer(handler):
        if handler.command == "HEAD":
            data(handler)
        else:
            stalling(WEIGHTS, 1000)(handler)

    hub.answers[f"/{NAME}/resolve/{COMMIT}/model.safetensors"] = answer
    assert "it stalls; HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT set" in refused()
    assert left(tmp_path) == set()


def test_a_cut_file_is_not_kept(hub, tmp_path, monkeypatch):
    """The server's size is wrong for good, so that no retry helps."""

    def answer(handler):
        if handler.command == "HEAD":
            entry(WEIGHTS)(handler)
        else:
            handler.reply(200, WEIGHTS[:100])

    hub.answers[f"/{NAME}/resolve/{COMMIT}/model.safetensors"] = answer
    assert "can't fetch model.safetensors" in refused()
    assert left(tmp_path) == set()


def test_an_https_hub_does_not_lead_to_http(hub, monkeypatch):
    from npresnet.weights.hub import _check

    told = type("Told", (), {"commit_hash": COMMIT, "etag": "0", "size": 9})
    told.location = "http://example.org/blob"
    with pytest.raises(WeightsError, match="redirects to http: files are fetched over https only"):
        _check(NAME, "model.safetensors", "https://hub.example/x", told)
    told.location = "https://cdn.example/blob"
    _check(NAME, "model.safetensors", "https://hub.example/x", told)


def test_redirects(hub):
    """The real hub redirects large files to another server, with the hash beside it."""
    from tests.weights.servers import sha256

    def answer(handler):
        handler.reply(
            302, Location="/blob", X_Repo_Commit=COMMIT, X_Linked_Size=str(len(WEIGHTS)),
            X_Linked_Etag=f'"{sha256(WEIGHTS)}"',
        )  # fmt: skip

    hub.answers[f"/{NAME}/resolve/{COMMIT}/model.safetensors"] = answer
    hub.answers["/blob"] = entry(WEIGHTS)
    assert fetch_repository(NAME).weights.read_bytes() == WEIGHTS
    hub.answers[f"/{NAME}/resolve/main/config.json"] = redirect("file:///etc/passwd")
    refused(force_download=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"{", "isn't JSON"),
        (b"[1]", "expected a JSON object, got list"),
        (b"[" * 100_000, "isn't JSON"),
        (b'{"a": "\xff"}', "isn't JSON"),
        (b" " * (MAX_CONFIG_BYTES + 1), "expected at most 16,777,216"),
        ({"model_type": "resnet", "depths": [9]}, "that npresnet lacks: layer_type 'bottleneck'"),
        ({"model_type": "resnet", "id2label": {"x": "y"}}, "it doesn't make sense"),
        ({**CONFIG, "architecture": 3}, "expected a name"),
        ({**CONFIG, "num_classes": 10**12}, "num_classes expected 0 to 1,000,000"),
        ({**CONFIG, "num_classes": 4}, "it names 3 classes for 4 outputs"),
        ({**CONFIG, "pretrained_cfg": 7}, "it doesn't make sense"),
        ({**CONFIG, "pretrained_cfg": {"mean": "grey"}}, "it doesn't make sense"),
        ({**CONFIG, "pretrained_cfg": {"crop_pct": 1e-9}}, "1 to 4096 pixels"),
        ({**CONFIG, "pretrained_cfg": {"crop_pct": float("nan")}}, "it doesn't make sense"),
        ({**CONFIG, "pretrained_cfg": {"input_size": [3, 10**9, 10**9]}}, "1 to 4096 pixels"),
        ({**CONFIG, "pretrained_cfg": {"input_size": [3]}}, "it doesn't make sense"),
        ({**CONFIG, "pretrained_cfg": {"input_size": [5, 8, 8]}}, "1 (grey) or 3 (RGB)"),
        ({**CONFIG, "pretrained_cfg": {"std": [0, 0, 0]}}, "above 0"),
        ({**CONFIG, "pretrained_cfg": {"interpolation": "magic"}}, "interpolation expected"),
        ({**CONFIG, "pretrained_cfg": {"crop_mode": "spiral"}}, "crop_mode expected"),
        ({**CONFIG, "model_args": {"width": 3}}, "options that npresnet lacks: width"),
        ({**CONFIG, "npresnet": 5}, "the npresnet settings don't make sense"),
    ],
)
def test_configs_that_make_no_sense(hub, config, message):
    data = config if isinstance(config, bytes) else json.dumps(config).encode()
    hub.answers[f"/{NAME}/resolve/main/config.json"] = entry(data)
    with pytest.raises(WeightsError) as caught:
        load_pretrained(NAME)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ExtraError, match=r"pip install 'npresnet\[hub\]'"):
        load_pretrained(NAME)


def test_the_variables_of_huggingface_hub(hub, tmp_path):
    """A process of its own: huggingface_hub reads them when it is imported."""
    root = Path(__file__).parents[2]
    code = (
        "import sys\nfrom npresnet import NpresnetError\n"
        "from npresnet.weights import find_weights\n"
        "try:\n    print(find_weights(sys.argv[1]).path)\n"
        "except NpresnetError as error:\n    print(error)"
    )

    def run(**variables):
        env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'kernels'}", **variables}
        env = {**env, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}
        done = subprocess.run(
            [sys.executable, "-c", code, NAME], env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    cache = tmp_path / "home" / "hub"
    assert f"the cache '{cache}' lacks config.json" in run(HF_HUB_OFFLINE="1")
    assert Path(run()).read_bytes() == WEIGHTS
    assert Path(run(HF_HUB_OFFLINE="1")).is_relative_to(cache)
