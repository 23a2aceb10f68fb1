"""What a bare state dict is, told by its names and shapes."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet import models, nn
from npresnet.data import imagenet_classes
from npresnet.errors import WeightsError
from npresnet.models.describe import describe, recognise
from npresnet.training import load_model
from npresnet.weights import save_file
from npresnet.weights.preprocessing import Preprocessing

TORCHVISIONS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d",
    "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip


class Shape:
    """Stands for an array of that shape."""

    def __init__(self, *shape):
        self.shape = shape


def shapes(name, **options):
    with nn.init.skip_random():
        state = models.create_model(name, **options).state_dict()
    return {key: Shape(*np.shape(array)) for key, array in state.items()}


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_torchvisions_networks_are_recognised(name):
    state = shapes(name)
    assert recognise(state) == name
    settings = describe(name, state)
    assert settings.classes == imagenet_classes()
    assert settings.preprocessing == Preprocessing((224, 224), resize=256)


def test_others_are_not():
    for name in ("resnet50d", "seresnet18", "resnet26t", "resnetrs50"):
        assert recognise(shapes(name)) is None
    state = shapes("resnet18")
    assert recognise({}) is None
    assert recognise({"conv1.weight": Shape(64, 3, 7, 7)}) is None
    assert recognise({**state, "layer4.2.conv1.weight": Shape(512, 512, 3, 3)}) is None
    assert recognise({**state, "layer1.0.conv2.weight": Shape(64)}) is None


def test_sizes_follow_from_shapes():
    settings = describe("resnet18", shapes("resnet18", num_classes=3, in_chans=1, small_input=True))
    assert settings.options == {"num_classes": 3, "in_chans": 1, "small_input": True}
    assert settings.classes == (0, 1, 2)
    assert settings.preprocessing.size == (32, 32)
    deep = describe("resnet50d", shapes("resnet50d"))
    assert deep.options["small_input"] is False
    with pytest.raises(WeightsError, match=r"it has no fc\.weight of 2 dimensions"):
        describe("resnet18", {"conv1.weight": Shape(64, 3, 7, 7)})
    with pytest.raises(WeightsError, match="its images have 5 channels, expected 1 or 3"):
        describe("resnet18", shapes("resnet18", in_chans=5))


def test_a_plain_file_needs_no_name(tmp_path):
    model = models.resnet18(num_classes=4)
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    loaded, settings = load_model(tmp_path / "plain.safetensors", default="resnet34")
    assert settings.architecture == "resnet18"
    np.testing.assert_array_equal(loaded.fc.weight.data, model.fc.weight.data)
