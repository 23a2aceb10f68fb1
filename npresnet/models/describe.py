"""What a bare state dict of this family is: its network by its names and shapes, its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from npresnet.errors import WeightsError
from npresnet.models.create import list_models, stem_key, structure_of
from npresnet.models.resnet import Bottleneck
from npresnet.weights.config import class_names
from npresnet.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from npresnet.weights.settings import ModelSettings

__all__ = ["describe", "recognise"]


def recognise(state: Mapping[str, Any]) -> str | None:
    """Return the name of the network that a state dict is of; None if it is none of torchvision's.

    Blocks are counted, and the first block's 3x3 convolution tells widths and groups.
    """
    if any(".se." in key for key in state) or "conv1.weight" not in state:
        return None
    bottleneck = "layer1.0.conv3.weight" in state
    blocks = tuple(
        len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    middle = tuple(getattr(state.get("layer1.0.conv2.weight"), "shape", ()))
    for name in list_models():
        structure = structure_of(name)
        if structure.get("stem_type") or structure.get("rd_ratio"):
            continue
        groups = structure.get("cardinality", 1)
        width = structure.get("base_width", 64) * groups
        if (bottleneck, blocks, middle) == (
            structure["block"] is Bottleneck,
            tuple(structure["layers"]),
            (width, width // groups, 3, 3),
        ):
            return name
    return None


def describe(architecture: str, state: Mapping[str, Any]) -> ModelSettings:
    """Return the settings of a state dict with torchvision's names, from its shapes.

    Parameters
    ----------
    architecture : str
        The network's name.
    state : mapping of str to array
        Of each value only ``shape`` is looked at.

    Returns
    -------
    ModelSettings
        Number of classes, channels and kind of stem follow from the shapes; the preprocessing is
        ImageNet's, and so are the names of a thousand classes.

    Raises
    ------
    WeightsError
        It has no first convolution or last layer by torchvision's names, or they are of another
        kind.
    """
    stem = stem_key(state)
    for key, ndim in ((stem, 4), ("fc.weight", 2)):
        if key not in state or len(state[key].shape) != ndim:
            raise WeightsError(
                f"it has no {key} of {ndim} dimensions, so it isn't a ResNet with torchvision's "
                "names: rename its keys first"
            )
    outputs, channels = state["fc.weight"].shape[0], state[stem].shape[1]
    if channels not in (1, 3):
        raise WeightsError(f"its images have {channels} channels, expected 1 or 3")
    small = stem == "conv1.weight" and state[stem].shape[2] == 3  # deep stems are 3x3 anyway
    grey = channels == 1
    preprocessing = Preprocessing(
        size=(32, 32) if small else (224, 224),
        channels=channels,
        resize=None if small else 256,
        mean=(0.5,) if grey else IMAGENET_MEAN,
        std=(0.5,) if grey else IMAGENET_STD,
    )
    return ModelSettings.new(architecture, class_names(outputs), preprocessing, small)
