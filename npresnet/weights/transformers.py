"""ResNets of the transformers library, as ``microsoft/resnet-50``: their names, settings, images.

What its files hold: https://huggingface.co/docs/transformers/model_doc/resnet
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from npresnet.errors import WeightsError
from npresnet.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

__all__ = ["architecture_of", "is_of_transformers", "label_names", "new_name", "preprocessing_of"]

_NETWORKS = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("bottleneck", (2, 2, 2, 2)): "resnet26",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
}

_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's order
_WHOLE = 384  # from this size on, its processor scales to the size whatever the image's shape

_STEM = re.compile(r"resnet\.embedder\.embedder\.(convolution|normalization)\.(\w+)")
_BLOCK = re.compile(
    r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(shortcut|layer\.\d+)"
    r"\.(convolution|normalization)\.(\w+)"
)
_HEAD = re.compile(r"classifier\.1\.(weight|bias)")


def is_of_transformers(state: Collection[str]) -> bool:
    """Tell a state dict of transformers' by its names."""
    return "resnet.embedder.embedder.convolution.weight" in state


def new_name(name: str) -> str:
    """Return torchvision's name for what transformers calls so; any other as it is."""
    if found := _STEM.fullmatch(name):
        return f"{'conv1' if found[1] == 'convolution' else 'bn1'}.{found[2]}"
    if found := _HEAD.fullmatch(name):
        return f"fc.{found[1]}"
    if found := _BLOCK.fullmatch(name):
        stage, block, part, kind, value = found.groups()
        convolution = kind == "convolution"
        if part == "shortcut":
            inner = f"downsample.{0 if convolution else 1}"
        else:
            inner = f"{'conv' if convolution else 'bn'}{int(part[6:]) + 1}"
        return f"layer{int(stage) + 1}.{block}.{inner}.{value}"
    return name


def architecture_of(config: Mapping[str, Any]) -> str:
    """Return the name of the network that a config of transformers' describes.

    Raises
    ------
    WeightsError
        It is none of the published depths.
    """
    kind, depths = config.get("layer_type", "bottleneck"), tuple(config.get("depths", (3, 4, 6, 3)))
    if (kind, depths) not in _NETWORKS or config.get("downsample_in_bottleneck"):
        raise WeightsError(
            f"it is a ResNet of transformers' that npresnet lacks: layer_type {kind!r:.40}, depths "
            f"{depths!r:.80}"
        )
    return _NETWORKS[kind, depths]


def label_names(config: Mapping[str, Any]) -> list[Any]:
    """Return the names of the classes, in the order of the outputs."""
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [names[number] for number in sorted(names, key=int)]


def preprocessing_of(processor: Mapping[str, Any]) -> Preprocessing:
    """Return what a ``preprocessor_config.json`` says of images; an empty one, what is usual.

    Sizes are scaled and cut out as torchvision rounds them.
    """
    size, crop = processor.get("size", 224), processor.get("crop_size")
    side = size.get("shortest_edge") if isinstance(size, dict) else size
    resize: int | None
    if side is None:  # a height and a width
        shape, resize = (size["height"], size["width"]), None
    elif crop is not None and processor.get("do_center_crop", True):
        pair = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
        shape, resize = pair, side
    elif side < _WHOLE:
        shape, resize = (side, side), int(side / (processor.get("crop_pct") or 224 / 256))
    else:
        shape, resize = (side, side), None
    interpolation: Any = _INTERPOLATIONS[processor.get("resample", 3)]
    return Preprocessing(
        size=shape,
        resize=resize,
        interpolation=interpolation,
        mean=tuple(processor.get("image_mean") or IMAGENET_MEAN),
        std=tuple(processor.get("image_std") or IMAGENET_STD),
    )
