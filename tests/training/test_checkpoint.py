"""Checkpoints: a file that needs nothing else, and files that don't fit."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import npresnet as nr
from npresnet.errors import RangeError, WeightsError, WriteError
from npresnet.training import ModelSettings, Preprocessing, load_model, save_model
from npresnet.training.checkpoint import build
from npresnet.weights import load_file, load_metadata, save_file
from tests.tiny import Tiny, registered

SEEN = Preprocessing(size=(8, 8), channels=1, mean=(0.3,), std=(0.4,))


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    with registered():
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    settings = ModelSettings.new("tiny", ("no", "yes", "né"), SEEN, small_input=True)
    model = build(settings, seed=1)
    model.bn1.running_mean.data[...] = 0.5
    save_model(path, model, settings)
    return path, model, settings


def rewritten(saved, tmp_path, **changes):
    """The file with other settings, or another state."""
    path, _, settings = saved
    fields = settings.to_dict()
    state = changes.pop("state", None) or load_file(path)
    text = changes.pop("text", None)
    fields.update(changes)
    fields = {key: value for key, value in fields.items() if value is not ...}
    target = tmp_path / "other.safetensors"
    save_file(state, target, {"npresnet": json.dumps(fields) if text is None else text})
    return target


def test_round_trip(saved):
    path, model, settings = saved
    assert load_metadata(path)["format"] == "pt"
    again, read = load_model(path)
    assert read == settings
    assert not again.training
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key], array)
    assert load_model(path, "tiny", classes=("a", "b", "c"))[1].classes == ("a", "b", "c")


def test_loading_leaves_the_users_random_numbers_alone(saved):
    nr.manual_seed(5)
    expected = nr.randn(3).data
    nr.manual_seed(5)
    load_model(saved[0])
    np.testing.assert_array_equal(nr.randn(3).data, expected)


@pytest.mark.parametrize("small", [True, False])
def test_plain_file_needs_the_architecture(tmp_path, small):
    path = tmp_path / "plain.safetensors"
    save_file(Tiny(num_classes=4, small_input=small).state_dict(), path)
    with pytest.raises(WeightsError, match="--model resnet34"):
        load_model(path)
    _, settings = load_model(path, "tiny")
    assert settings.classes == (0, 1, 2, 3)
    assert settings.options == {"num_classes": 4, "in_chans": 3, "small_input": small}
    assert settings.preprocessing.size == ((32, 32) if small else (224, 224))
    assert load_model(path, default="tiny")[1] == settings
    with pytest.raises(WeightsError, match="no network 'vgg16': npresnet"):
        load_model(path, "vgg16")


def test_plain_resnet(tmp_path):
    path = tmp_path / "plain.safetensors"
    model = nr.resnet18(num_classes=4)
    save_file(model.state_dict(), path)
    loaded, _ = load_model(path, "resnet18")
    np.testing.assert_array_equal(loaded.fc.weight.data, model.fc.weight.data)
    with pytest.raises(WeightsError, match=r"missing keys: layer1\.2\.conv1\.weight"):
        load_model(path, "resnet34")


def test_plain_resnet_with_a_deep_stem(tmp_path):
    """Its first convolution has another name, and is 3x3 for images of any size."""
    path = tmp_path / "plain.safetensors"
    model = nr.create_model("resnet10t", num_classes=4, in_chans=1)
    save_file(model.state_dict(), path)
    loaded, settings = load_model(path, "resnet10t")
    np.testing.assert_array_equal(loaded.conv1[0].weight.data, model.conv1[0].weight.data)
    assert settings.options == {"num_classes": 4, "in_chans": 1, "small_input": False}
    save_model(path, loaded, settings)
    assert load_model(path)[1] == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "{"}, "aren't JSON"),
        ({"text": "[" * 100_000}, "aren't JSON"),
        ({"text": "[1]"}, "aren't a JSON object"),
        ({"architecture": "alexnet"}, "no network 'alexnet'"),
        ({"architecture": ...}, "no 'architecture'"),
        ({"architecture": 3}, "expected a name"),
        ({"version": 9}, "version 9"),
        ({"preprocessing": ...}, "no 'preprocessing'"),
        ({"preprocessing": {"size": [10**9, 10**9], "channels": 1}}, "pixels"),
        ({"preprocessing": {**SEEN.to_dict(), "std": [0]}}, "above 0"),
        ({"preprocessing": {**SEEN.to_dict(), "crop": 3}}, "crop"),
        ({"preprocessing": [1]}, "don't make sense"),
        ({"preprocessing": {**SEEN.to_dict(), "a\n": 1}}, r"unknown preprocessing 'a\\n'$"),
        ({"preprocessing": {**SEEN.to_dict(), "crop_mode": "x\n" * 2000}}, "crop_mode expected"),
        ({"classes": ["no", "yes"]}, "2 classes for 3 outputs"),
        ({"classes": ["no", "no", "yes"]}, "twice"),
        ({"classes": [[], 1, 2]}, "names or numbers"),
        ({"classes": 5}, "don't make sense"),
        ({"options": {"num_classes": 3, "in_chans": 1, "small_input": 1}}, "true or false"),
        ({"options": {"num_classes": 3, "in_chans": 1, "width": 64}}, "unknown options 'width'"),
        ({"options": {"num_classes": 3, "in_chans": 1, "a\n": 1}}, r"unknown options 'a\\n'$"),
        ({"options": {"num_classes": 3, "in_chans": 3}}, "channels"),
        (
            {
                "classes": list(range(10**5)),
                "options": {"num_classes": 10**5, "in_chans": 1, "small_input": True},
            },
            "fc.weight has 3",
        ),
        ({"state": {"fc.weight": np.zeros((3, 16))}}, "no conv1.weight"),
    ],
)
def test_settings_that_do_not_fit(saved, tmp_path, changes, message):
    path = rewritten(saved, tmp_path, **changes)
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(path)
    assert "other.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_asking_for_something_else(saved):
    with pytest.raises(WeightsError, match="it holds a tiny, not a resnet50"):
        load_model(saved[0], "resnet50")
    with pytest.raises(WeightsError, match="2 classes for 3 outputs"):
        load_model(saved[0], classes=("a", "b"))
    with pytest.raises(WeightsError, match="there is no weight file"):
        load_model("nowhere.safetensors")


def test_file_that_is_no_resnet(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": np.ones(3)}, path)
    with pytest.raises(WeightsError, match=r"no conv1.weight of 4 dimensions"):
        load_model(path, "resnet18")


def test_failure_while_saving_leaves_the_old_file(saved, tmp_path, monkeypatch):
    _, model, settings = saved
    path = tmp_path / "best.safetensors"
    save_model(path, model, settings)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WriteError, match="No space left"):
        save_model(path, model, settings)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["best.safetensors"]


def test_settings_that_cannot_be_written(saved, tmp_path):
    _, model, settings = saved
    odd = ModelSettings(settings.architecture, settings.options, ((1, 2), 3, 4), SEEN)
    with pytest.raises(WeightsError, match="names or numbers"):
        save_model(tmp_path / "x.safetensors", model, odd)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (0, 8)},
        {"size": (8,)},
        {"size": (8, 5000)},
        {"resize": 10**6},
        {"channels": 2},
        {"interpolation": "cubic"},
        {"mean": (0.1, 0.2)},
        {"mean": (float("nan"),)},
        {"std": (-1.0,)},
    ],
)
def test_preprocessing_out_of_range(changes):
    fields = {"size": (8, 8), "channels": 1, "mean": (0.3,), "std": (0.4,), **changes}
    with pytest.raises(RangeError):
        Preprocessing(**fields)


def test_preprocessing_of_any_image(rng):
    image = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    whole = Preprocessing(size=(8, 12)).transform()(image)
    assert whole.shape == (3, 8, 12)
    grey = SEEN.transform()(image)
    assert grey.shape == (1, 8, 8)
    np.testing.assert_array_equal(grey, SEEN.transform()(image))
    cut = Preprocessing(size=(16, 16), resize=18)
    assert cut.transform()(image).shape == (3, 16, 16)
    for augment in ("shift", "photo"):
        one, two = (cut.transform(augment)(image, np.random.default_rng(s)) for s in (1, 2))
        assert one.shape == (3, 16, 16)
        assert not np.array_equal(one, two)
    with pytest.raises(RangeError, match="augment expected"):
        cut.transform("mixup")
    assert Preprocessing.from_dict(json.loads(json.dumps(cut.to_dict()))) == cut
