"""One door to weights: which name means what, and what comes with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import npresnet as nr
from npresnet.data import imagenet_classes
from npresnet.errors import WeightsError
from npresnet.training import load_model
from npresnet.weights import find_weights, load_pretrained, save_file, torchvision
from npresnet.weights.preprocessing import Preprocessing
from npresnet.weights.settings import ModelSettings
from npresnet.weights.sharing import save_described
from tests.tiny import Tiny, registered
from tests.weights.servers import make_certificate, serving, sha256, whole


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server(certificate, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serving({}, certificate) as running:
        yield running


@pytest.fixture
def described(tmp_path):
    """A file of npresnet's own, and what it is."""
    settings = ModelSettings.new("tiny", ("no", "yes"), Preprocessing((8, 8), resize=9))
    model = Tiny(num_classes=2)
    save_described(tmp_path / "own.safetensors", model.state_dict(), settings)
    return tmp_path / "own.safetensors", settings


def test_files(described, tmp_path):
    path, settings = described
    assert find_weights(path) == find_weights(str(path)) == (path, settings)
    state, found = load_pretrained(path)
    assert found == settings
    assert state["fc.weight"].shape == (2, 16)
    save_file({"a": np.zeros(3)}, tmp_path / "plain.safetensors")
    assert load_pretrained(tmp_path / "plain.safetensors").settings is None
    with pytest.raises(WeightsError, match=r"own\.safetensors': it holds a tiny, not a resnet18"):
        load_pretrained(path, "resnet18")


def test_folders(described, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(WeightsError, match=r"is a folder without config\.json: name the weight"):
        load_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"architecture": "tiny", "num_classes": 2}))
    with pytest.raises(WeightsError, match=r"no weight file '.*model\.safetensors'"):
        load_pretrained(folder)
    (folder / "model.safetensors").write_bytes(described[0].read_bytes())
    assert load_pretrained(str(folder)).settings.classes == (0, 1)


def test_urls(described, server):
    data = described[0].read_bytes()
    server.answers["/w.safetensors"] = whole(data)
    url = f"{server.url}/w.safetensors#sha256={sha256(data)}"
    assert load_pretrained(url).settings == described[1]
    with registered():
        model, settings = load_model(url)
    assert settings == described[1]
    assert model.fc.weight.shape == (2, 16)
    with pytest.raises(WeightsError, match="expected " + "0" * 64):
        load_pretrained(f"{server.url}/w.safetensors#sha256={'0' * 64}")
    with pytest.raises(WeightsError, match="has no sha256"):
        load_pretrained(f"{server.url}/w.safetensors")
    for scheme in ("http", "ftp", "file"):
        with pytest.raises(WeightsError, match="https only"):
            load_pretrained(f"{scheme}://localhost/w.safetensors#sha256={'0' * 64}")


def test_torchvisions_names(server, monkeypatch, tmp_path):
    """A .pth file of torch's under a name that holds the beginning of its hash."""
    kept = nr.resnet18()
    torch.save({k: torch.from_numpy(v) for k, v in kept.state_dict().items()}, tmp_path / "x.pth")
    data = (tmp_path / "x.pth").read_bytes()
    stem = f"resnet18-{sha256(data)[:8]}"
    monkeypatch.setattr(torchvision, "_SERVER", server.url)
    monkeypatch.setitem(torchvision._FILES, "resnet18", {"IMAGENET1K_V1": (stem, 240)})
    server.answers[f"/{stem}.pth"] = whole(data)
    model = nr.resnet18(weights="IMAGENET1K_V1")
    np.testing.assert_array_equal(model.fc.weight.data, kept.fc.weight.data)
    path, settings = find_weights("ResNet18_Weights.DEFAULT")
    assert path.name == f"{stem}.pth"
    assert settings.preprocessing == Preprocessing((224, 224), resize=240)
    assert settings.classes == imagenet_classes()
    assert len(server.requests) == 1
    clf = nr.Classifier("resnet18", weights="DEFAULT")
    assert clf._fitted()[1] == settings
    assert clf.classes_[1] == "goldfish"


@pytest.mark.parametrize(
    ("name", "architecture", "stem", "resize"),
    [
        ("IMAGENET1K_V1", "resnet34", "resnet34-b627a593", 256),
        ("DEFAULT", "resnet34", "resnet34-b627a593", 256),
        ("DEFAULT", "resnet50", "resnet50-11ad3fa6", 232),
        ("ResNet101_Weights.IMAGENET1K_V1", None, "resnet101-63fe2227", 256),
        ("Wide_ResNet50_2_Weights.DEFAULT", "resnet18", "wide_resnet50_2-9ba9bcbe", 232),
    ],
)
def test_what_torchvisions_names_stand_for(name, architecture, stem, resize):
    url, digits, settings = torchvision.torchvision_weights(name, architecture)
    assert url == f"https://download.pytorch.org/models/{stem}.pth"
    assert digits == stem[-8:]
    assert settings.preprocessing.resize == resize
    assert settings.architecture == stem[:-9]


@pytest.mark.parametrize(
    ("name", "architecture", "message"),
    [
        ("IMAGENET1K_V1", None, "doesn't say for which network: name it, as in ResNet50_Weights"),
        (
            "IMAGENET1K_V2",
            "resnet18",
            "no weights IMAGENET1K_V2 for resnet18: it has IMAGENET",
        ),
        ("DEFAULT", "resnet77", "for resnet77: it has none; there are some for resnet18, resnet34"),
        (
            "resnet34",
            None,
            r"there are no weights 'resnet34': expected a file, a folder",
        ),
        ("a/b/c", None, "there are no weights 'a/b/c': expected a file"),
        ("runs/best.safetensors", None, r"there is no weight file 'runs/best\.safetensors'"),
        ("", None, "there are no weights ''"),
    ],
)
def test_names_that_mean_nothing(name, architecture, message):
    with pytest.raises(WeightsError, match=message):
        load_pretrained(name, default=architecture)
