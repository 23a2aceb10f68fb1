"""Repositories as the transformers library writes them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

import npresnet as nr
from npresnet import models
from npresnet.errors import RangeError, WeightsError
from npresnet.weights import load_pretrained, save_file
from npresnet.weights.hub import HubOptions
from npresnet.weights.preprocessing import Preprocessing
from npresnet.weights.transformers import (
    architecture_of,
    is_of_transformers,
    new_name,
    preprocessing_of,
)
from tests.weights.fake_hub import entry, fake_hub, repository

CONFIG = {  # of microsoft/resnet-50, but for the classes
    "architectures": ["ResNetForImageClassification"],
    "depths": [2, 2, 2, 2],
    "embedding_size": 64,
    "hidden_sizes": [64, 128, 256, 512],
    "id2label": {**{str(i): f"n{i}" for i in range(11)}, "0": "cat", "1": "dog", "2": "cat"},
    "layer_type": "basic",
    "model_type": "resnet",
}


def as_transformers(name):
    """The name that transformers gives what torchvision calls so."""
    name = re.sub(r"^conv1\.", "resnet.embedder.embedder.convolution.", name)
    name = re.sub(r"^bn1\.", "resnet.embedder.embedder.normalization.", name)
    name = re.sub(r"^fc\.", "classifier.1.", name)
    found = re.match(r"layer(\d)\.(\d+)\.(.*)", name)
    if not found:
        return name
    inner = found[3].replace("downsample.0", "shortcut.convolution")
    inner = inner.replace("downsample.1", "shortcut.normalization")
    inner = re.sub(r"^conv(\d)", lambda m: f"layer.{int(m[1]) - 1}.convolution", inner)
    inner = re.sub(r"^bn(\d)", lambda m: f"layer.{int(m[1]) - 1}.normalization", inner)
    return f"resnet.encoder.stages.{int(found[1]) - 1}.layers.{found[2]}.{inner}"


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_names(name):
    with nr.nn.init.skip_random():
        state = dict.fromkeys(models.create_model(name).state_dict(), 0)
    theirs = {as_transformers(key): 0 for key in state}
    assert "resnet.encoder.stages.3.layers.0.shortcut.normalization.running_mean" in theirs
    assert "resnet.encoder.stages.0.layers.1.layer.1.convolution.weight" in theirs
    assert [new_name(key) for key in theirs] == list(state)
    assert [new_name(key) for key in state] == list(state)
    assert is_of_transformers(theirs)
    assert not is_of_transformers(state)


def test_a_repository(monkeypatch, tmp_path):
    kept = nr.resnet18(num_classes=11)
    weights = save({as_transformers(k): np.asarray(a) for k, a in kept.state_dict().items()})
    answers = repository("me/resnet-18", CONFIG, weights)
    with fake_hub(monkeypatch, tmp_path / "cache", answers) as server:
        model = nr.resnet18(weights="me/resnet-18")
        assert model.settings.classes[:3] == ("cat", "dog", "cat (2)")
        assert model.settings.classes[10] == "n10"
        usual = Preprocessing((224, 224), resize=256, interpolation="bicubic")
        assert model.settings.preprocessing == usual
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # that a file isn't there is known
        assert load_pretrained("me/resnet-18").settings == model.settings
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for path in list(server.answers):
            if path.endswith("config.json"):
                beside = path.replace("config.json", "preprocessor_config.json")
                server.answers[beside] = entry(b'{"size": 64, "crop_pct": 0.5, "resample": 2}')
        elsewhere = HubOptions(cache_dir=tmp_path / "elsewhere")
        told = load_pretrained("me/resnet-18", hub=elsewhere).settings.preprocessing
    assert told == Preprocessing((64, 64), resize=128)
    for key, array in kept.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[key], array)
    (folder,) = (tmp_path / "cache" / "models--me--resnet-18" / "snapshots").iterdir()
    with pytest.raises(WeightsError, match="it holds a resnet18, not a resnet34"):
        load_pretrained(folder, "resnet34")


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({}, Preprocessing((224, 224), resize=256, interpolation="bicubic")),
        (
            {"crop_pct": 0.875, "size": {"shortest_edge": 192}, "resample": 3},
            Preprocessing((192, 192), resize=219, interpolation="bicubic"),
        ),
        ({"size": {"shortest_edge": 384}, "resample": 2}, Preprocessing((384, 384))),
        ({"size": {"height": 96, "width": 128}, "resample": 2}, Preprocessing((96, 128))),
        (
            {
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 96, "width": 128},
                "resample": 0,
            },
            Preprocessing((96, 128), resize=256, interpolation="nearest"),
        ),
        (
            {"image_mean": [0.5] * 3, "image_std": [0.25] * 3},
            Preprocessing((224, 224), 3, 256, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ),
    ],
)
def test_images(processor, expected):
    assert preprocessing_of(processor) == expected


def test_what_is_not_known(tmp_path):
    assert architecture_of({"layer_type": "bottleneck", "depths": [3, 8, 36, 3]}) == "resnet152"
    with pytest.raises(WeightsError, match="that npresnet lacks: layer_type 'basic', depths"):
        architecture_of({"layer_type": "basic", "depths": [1, 1, 1, 1]})
    with pytest.raises(RangeError, match="1 to 4096 pixels"):
        preprocessing_of({"size": 10**9})
    save_file(
        {"resnet.embedder.embedder.convolution.weight": np.zeros(3)}, tmp_path / "w.safetensors"
    )
    assert list(load_pretrained(tmp_path / "w.safetensors").state) == ["conv1.weight"]
