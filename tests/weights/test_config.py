"""What a ``config.json`` says, in timm's words, and the names of classes."""

from __future__ import annotations

import json
import math

import pytest

from npresnet.data import imagenet_classes, imagenet_wnids
from npresnet.errors import WeightsError
from npresnet.weights.config import class_names, read_config, to_config
from npresnet.weights.preprocessing import IMAGENET_MEAN, Preprocessing
from npresnet.weights.settings import ModelSettings

A1 = {  # of timm/resnet34.a1_in1k, as its config.json has it
    "architecture": "resnet34",
    "num_classes": 1000,
    "num_features": 512,
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "custom_load": False,
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 1000,
        "pool_size": [7, 7],
        "first_conv": "conv1",
        "classifier": "fc",
    },
}


def read(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return read_config(path)


def test_a_config_of_timms(tmp_path):
    settings = read(tmp_path, A1)
    assert settings.architecture == "resnet34"
    assert settings.options == {"num_classes": 1000, "in_chans": 3, "small_input": False}
    assert settings.classes == imagenet_classes()
    assert settings.preprocessing == Preprocessing((224, 224), resize=235, interpolation="bicubic")


def test_what_timm_assumes(tmp_path):
    """The defaults of its `PretrainedCfg`; older files have no inner part."""
    settings = read(tmp_path, {"architecture": "resnet18", "crop_pct": None})
    assert settings.preprocessing == Preprocessing((224, 224), resize=256, interpolation="bicubic")
    assert len(settings.classes) == 1000
    old = {"architecture": "resnet18", "num_classes": 2, "labels": ["no", "yes"]}
    assert read(tmp_path, old).classes == ("no", "yes")
    grey = {**A1, "model_args": {"in_chans": 1}, "pretrained_cfg": {}}
    assert read(tmp_path, grey).preprocessing.channels == 1


@pytest.mark.parametrize(
    ("size", "crop_pct", "mode", "resize"),
    [
        ((224, 224), 0.875, "center", 256),
        ((176, 176), 0.9, "center", 195),
        ((224, 224), 1.0, "squash", (224, 224)),
        ((224, 288), 0.94, "center", (238, 306)),
        ((224, 224), 0.95, "border", (235, 235)),
    ],
)
def test_sizes_that_images_are_scaled_to(tmp_path, size, crop_pct, mode, resize):
    inner = {"input_size": [3, *size], "crop_pct": crop_pct, "crop_mode": mode}
    seen = read(tmp_path, {**A1, "pretrained_cfg": inner}).preprocessing
    assert (seen.size, seen.resize) == (size, resize)
    scaled = resize if isinstance(resize, tuple) else (resize, resize)
    assert scaled == tuple(math.floor(side / crop_pct) for side in size)


@pytest.mark.parametrize(
    "seen",
    [
        Preprocessing((224, 224), resize=256, interpolation="bicubic"),
        Preprocessing((32, 32), 1, None, mean=(0.5,), std=(0.25,)),
        Preprocessing((224, 288), resize=(238, 306), crop_mode="border"),
        *(Preprocessing((224, 224), resize=side) for side in range(224, 320)),
    ],
    ids=lambda seen: str(seen.resize),
)
def test_what_is_written_is_read_again(tmp_path, seen):
    settings = ModelSettings.new("resnet18", ("a", 2, 0.5), seen, small_input=True)
    config = to_config(settings)
    assert read(tmp_path, config) == settings
    # and timm, which doesn't see npresnet's part, comes to the same sizes
    del config["npresnet"]
    again = read(tmp_path, config).preprocessing
    squashed = seen.resize is None
    assert again.size == seen.size
    assert again.resize == (seen.size if squashed else seen.resize)
    assert (again.mean, again.std, again.interpolation) == (seen.mean, seen.std, seen.interpolation)


def test_the_thousand_classes():
    names, wnids = imagenet_classes(), imagenet_wnids()
    assert len(set(names)) == len(set(wnids)) == 1000
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")
    assert (wnids[0], wnids[281], wnids[999]) == ("n01440764", "n02123045", "n15075141")
    assert list(wnids) == sorted(wnids)


def test_names_of_classes():
    assert class_names(1000) == imagenet_classes()
    assert class_names(1000, list(imagenet_wnids())) == imagenet_classes()
    assert class_names(3) == (0, 1, 2)
    assert class_names(3, ["crane", "tench", "crane"]) == ("crane", "tench", "crane (2)")
    with pytest.raises(WeightsError, match="names 2 classes for 3 outputs"):
        class_names(3, ["a", "b"])


def test_a_config_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match=r"can't read '.*none.json': No such file"):
        read_config(tmp_path / "none.json")
    assert read(tmp_path, A1).preprocessing.mean == IMAGENET_MEAN
