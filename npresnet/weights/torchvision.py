"""The weights that torchvision publishes for the networks of this family, by its names for them.

Files, hashes and sizes are those of torchvision 0.29 (``torchvision/models/resnet.py``, BSD
3-Clause). A file's name ends in the first eight digits of its sha256.
"""

from __future__ import annotations

import re

from npresnet.errors import WeightsError
from npresnet.weights.config import class_names
from npresnet.weights.preprocessing import Preprocessing
from npresnet.weights.settings import ModelSettings

__all__ = ["is_torchvision_name", "torchvision_weights"]

_SERVER = "https://download.pytorch.org/models"
_V1, _V2 = "IMAGENET1K_V1", "IMAGENET1K_V2"

_NAME = re.compile(rf"(?:(\w+)_Weights\.)?({_V1}|{_V2}|DEFAULT)")

# by network and name: the file, and what the shorter side is scaled to before 224 is cut out
_FILES: dict[str, dict[str, tuple[str, int]]] = {
    "resnet18": {_V1: ("resnet18-f37072fd", 256)},
    "resnet34": {_V1: ("resnet34-b627a593", 256)},
    "resnet50": {_V1: ("resnet50-0676ba61", 256), _V2: ("resnet50-11ad3fa6", 232)},
    "resnet101": {_V1: ("resnet101-63fe2227", 256), _V2: ("resnet101-cd907fc2", 232)},
    "resnet152": {_V1: ("resnet152-394f9c45", 256), _V2: ("resnet152-f82ba261", 232)},
    "resnext50_32x4d": {
        _V1: ("resnext50_32x4d-7cdf4587", 256),
        _V2: ("resnext50_32x4d-1a0047aa", 232),
    },
    "resnext101_32x8d": {
        _V1: ("resnext101_32x8d-8ba56ff5", 256),
        _V2: ("resnext101_32x8d-110c445d", 232),
    },
    "resnext101_64x4d": {_V1: ("resnext101_64x4d-173b62eb", 232)},
    "wide_resnet50_2": {
        _V1: ("wide_resnet50_2-95faca4d", 256),
        _V2: ("wide_resnet50_2-9ba9bcbe", 232),
    },
    "wide_resnet101_2": {
        _V1: ("wide_resnet101_2-32ee1156", 256),
        _V2: ("wide_resnet101_2-d733dc28", 232),
    },
}


def is_torchvision_name(text: str) -> bool:
    """Tell ``IMAGENET1K_V1``, ``DEFAULT`` and ``ResNet50_Weights.DEFAULT`` from other names."""
    return _NAME.fullmatch(text) is not None


def torchvision_weights(name: str, architecture: str | None) -> tuple[str, str, ModelSettings]:
    """Return what a name stands for.

    Parameters
    ----------
    name : str
        As `is_torchvision_name` knows them; DEFAULT is the newest.
    architecture : str or None
        The network, where the name doesn't say it.

    Returns
    -------
    url : str
        Of a ``.pth`` file.
    sha256 : str
        The first eight digits.
    settings : ModelSettings
        What the weights are.

    Raises
    ------
    WeightsError
        The network isn't named, or there are no such weights for it.
    """
    found = _NAME.fullmatch(name)
    assert found is not None
    network = found[1].lower() if found[1] else architecture
    if network is None:
        raise WeightsError(
            f"{name!r} doesn't say for which network: name it, as in ResNet50_Weights.{found[2]}, "
            "or by --model resnet50"
        )
    files = _FILES.get(network, {})
    version = max(files) if found[2] == "DEFAULT" and files else found[2]
    if version not in files:
        known = ", ".join(files) or f"none; there are some for {', '.join(_FILES)}"
        raise WeightsError(f"torchvision has no weights {version} for {network}: it has {known}")
    stem, resize = files[version]
    settings = ModelSettings.new(
        network, class_names(1000), Preprocessing(size=(224, 224), resize=resize)
    )
    return (
        f"{_SERVER}/{stem}.pth",
        stem.rpartition("-")[2],
        settings,
    )
