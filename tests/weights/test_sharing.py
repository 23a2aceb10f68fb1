"""Repositories: written, pushed to a hub of the test's own, and made into networks again."""

from __future__ import annotations

import base64
import json
import sys

import numpy as np
import pytest

import npresnet as nr
from npresnet.errors import ExtraError, WeightsError, WriteError
from tests.tiny import registered
from tests.weights.fake_hub import fake_hub, repository


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    with registered():
        yield


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def fitted(images):
    clf = nr.Classifier("tiny", epochs=1, batch_size=4, backend="reference")
    return clf.fit(images, ["no", "yes", "no", "né"])


def test_a_folder(fitted, images, tmp_path):
    folder = tmp_path / "deep" / "net"
    assert fitted.save_pretrained(folder) is None
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "tiny"
    assert config["label_names"] == ["no", "né", "yes"]
    again = nr.Classifier.from_pretrained(folder, backend="reference")
    assert again.settings_ == fitted.settings_
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))
    by_name = nr.Classifier(weights=str(folder), backend="reference")
    np.testing.assert_array_equal(by_name.predict(images), fitted.predict(images))
    (folder / "README.md").write_text("mine")
    fitted.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"


def test_from_the_hub(fitted, images, tmp_path, monkeypatch):
    fitted.save_pretrained(tmp_path / "net")
    files = [
        (tmp_path / "net" / name).read_bytes() for name in ("config.json", "model.safetensors")
    ]
    with fake_hub(monkeypatch, tmp_path / "cache", repository("me/net", *files, "v2")):
        again = nr.Classifier.from_pretrained(
            "me/net", revision="v2", cache_dir=tmp_path / "mine", backend="reference"
        )
        np.testing.assert_array_equal(again.predict(images), fitted.predict(images))
        assert (tmp_path / "mine" / "models--me--net").is_dir()
        named = nr.Classifier(weights="me/net@v2", backend="reference")
        np.testing.assert_array_equal(named.predict(images), fitted.predict(images))


def hub_that_takes(files):
    """Answers of a hub to a push; what comes is put into `files`."""

    def create(handler):
        name = json.loads(handler.body)["name"]
        reply(handler, {"url": f"http://{handler.headers['Host']}/me/{name.rpartition('/')[2]}"})

    def reply(handler, content):
        handler.reply(200, json.dumps(content).encode(), Content_Type="application/json")

    def preupload(handler):
        asked = json.loads(handler.body)["files"]
        modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
        reply(handler, {"files": modes})

    def commit(handler):
        for line in handler.body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                files[value["path"]] = base64.b64decode(value["content"])
        url = f"http://{handler.headers['Host']}/me/net/commit/{'a' * 40}"
        reply(handler, {"success": True, "commitUrl": url, "commitOid": "a" * 40})

    return {
        "/api/repos/create": create,
        "/api/validate-yaml": lambda handler: reply(handler, {"warnings": [], "errors": []}),
        "/api/models/me/net/preupload/main": preupload,
        "/api/models/me/net/commit/main": commit,
    }


def test_a_push(fitted, images, tmp_path, monkeypatch):
    files = {}
    with fake_hub(monkeypatch, tmp_path / "cache", hub_that_takes(files)) as server:
        url = fitted.push_to_hub("me/net", token="hf_of_a_test")
        assert url == f"{server.url}/me/net/commit/{'a' * 40}"
        assert set(files) == {"README.md", "config.json", "model.safetensors"}
        assert b"library_name: npresnet" in files["README.md"]
        files.clear()
        fitted.save_pretrained(tmp_path / "net", push_to_hub=True, repo_id="me/net", token="hf_x")
        server.answers.update(
            repository("me/net", files["config.json"], files["model.safetensors"])
        )
        again = nr.Classifier.from_pretrained("me/net", backend="reference")
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))


def test_a_push_that_fails(fitted, tmp_path, monkeypatch):
    answers = {"/api/repos/create": lambda handler: handler.reply(403, b"{}")}
    with fake_hub(monkeypatch, tmp_path / "cache", answers) as server:
        with pytest.raises(WeightsError, match=f"can't push 'me/net' to {server.url}: ") as caught:
            fitted.push_to_hub("me/net", token="hf_of_a_test")
        assert "HF_TOKEN" in str(caught.value)
        assert "hf_of_a_test" not in str(caught.value)
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ExtraError, match=r"npresnet\[hub\]"):
        fitted.push_to_hub("me/net")


def test_networks(tmp_path, monkeypatch):
    """A network keeps what its weights expect; a new head has classes of its own."""
    fresh = nr.resnet18(num_classes=4, in_chans=1, small_input=True)
    fresh.save_pretrained(tmp_path / "net")
    names = ("config.json", "model.safetensors")
    files = [(tmp_path / "net" / name).read_bytes() for name in names]
    config = json.loads(files[0])
    config["npresnet"]["classes"] = ["a", "b", "c", "d"]
    config["npresnet"]["preprocessing"]["mean"] = [0.25]
    with fake_hub(monkeypatch, tmp_path / "cache", repository("me/net", config, files[1])):
        model = nr.ResNet.from_pretrained("me/net")
        assert model.settings.classes == ("a", "b", "c", "d")
        other = nr.ResNet.from_pretrained("me/net", num_classes=2)
    for key, array in fresh.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[key], array)
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == {
        **config,
        "label_names": ["a", "b", "c", "d"],
        "pretrained_cfg": {**config["pretrained_cfg"], "mean": [0.25]},
    }
    assert nr.Classifier.from_pretrained(tmp_path / "again").settings_ == model.settings
    other.save_pretrained(tmp_path / "other")
    told = json.loads((tmp_path / "other" / "config.json").read_text())
    assert (told["architecture"], told["label_names"]) == ("resnet18", ["0", "1"])


def test_networks_that_no_file_describes(tmp_path):
    unnamed = nr.ResNet(nr.models.BasicBlock, (1, 1, 1, 1), num_classes=2)
    with pytest.raises(WeightsError, match=r"made by a name of npresnet\.models\.list_models"):
        unnamed.save_pretrained(tmp_path / "net")
    with pytest.raises(WeightsError, match="global_pool='avg'"):
        nr.resnet18(num_classes=2, global_pool="max").push_to_hub("me/net")
    assert not (tmp_path / "net").exists()
    nr.weights.save_file(unnamed.state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(WeightsError, match="doesn't say which network it holds: use its name"):
        nr.ResNet.from_pretrained(tmp_path / "plain.safetensors")


def test_what_cannot_be_written(fitted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"can't make the folder '.*file'"):
        fitted.save_pretrained(tmp_path / "file")
    odd = nr.Classifier("tiny", epochs=1, batch_size=2, backend="reference")
    odd.fit(np.zeros((2, 8, 8), np.uint8), [(1, 2), (3, 4)])
    with pytest.raises(WeightsError, match="labels that are text or numbers, not tuple"):
        odd.save_pretrained(tmp_path / "net")
