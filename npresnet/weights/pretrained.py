"""One door to weights, however they are named: a file, a folder, a URL, the hub, torchvision."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from npresnet.errors import NpresnetError, WeightsError
from npresnet.weights.config import read_config
from npresnet.weights.hub import (
    CONFIG,
    PROCESSOR,
    WEIGHTS,
    HubOptions,
    Repository,
    fetch_beside,
    fetch_repository,
)
from npresnet.weights.read import WeightFile, open_weights
from npresnet.weights.safetensors_file import load_metadata
from npresnet.weights.settings import ModelSettings
from npresnet.weights.torchvision import is_torchvision_name, torchvision_weights
from npresnet.weights.transformers import is_of_transformers, new_name

__all__ = ["FORMS", "METADATA_KEY", "Found", "Pretrained", "find_weights", "load_pretrained"]

FORMS = (
    "a file, a folder with config.json and model.safetensors, OWNER/NAME[@REVISION] on the Hugging "
    "Face Hub (timm/resnet34.a1_in1k), an https URL that ends in #sha256=..., or torchvision's "
    "IMAGENET1K_V1, IMAGENET1K_V2 or DEFAULT"
)
"""What weights may be named by, in words for help and errors."""

METADATA_KEY = "npresnet"
"""Where the header of a ``.safetensors`` file of npresnet's holds its settings, as JSON."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".npz", ".bin", ".tar", ".onnx")


class Found(NamedTuple):
    """Weights on this machine.

    Attributes
    ----------
    path : pathlib.Path
        The weight file.
    settings : ModelSettings or None
        What comes with it says of it; None where nothing does.
    """

    path: Path
    settings: ModelSettings | None


class Pretrained(NamedTuple):
    """An open weight file, and what comes with it says of it, or None."""

    state: WeightFile
    settings: ModelSettings | None


def load_pretrained(
    weights: str | os.PathLike[str],
    architecture: str | None = None,
    default: str | None = None,
    hub: HubOptions | None = None,
) -> Pretrained:
    """Fetch weights where they aren't here yet, and open them.

    Parameters
    ----------
    weights : str or path-like
        One of `FORMS`.
    architecture : str, optional
        The network that it must be, ``"resnet34"`` for instance, if it says which it is.
    default : str, optional
        The network that torchvision's names stand for, if neither they nor `architecture` say it.
    hub : HubOptions, optional
        For names on the hub.

    Raises
    ------
    WeightsError
        They can't be found, fetched or read, or are of another network.
    ExtraError
        The name is one on the hub, and huggingface_hub isn't installed.
    """
    path, settings = find_weights(weights, architecture or default, hub)
    if settings is not None and architecture not in (None, settings.architecture):
        raise WeightsError(
            f"{os.fspath(weights)!r}: it holds a {settings.architecture}, not a {architecture}"
        )
    state = open_weights(path)
    if is_of_transformers(state):
        state.rename(new_name)
    return Pretrained(state, settings)


def find_weights(
    weights: str | os.PathLike[str],
    architecture: str | None = None,
    hub: HubOptions | None = None,
) -> Found:
    """Find or fetch a weight file, and what is said of it; for arguments see `load_pretrained`.

    A file or folder of that name counts first.

    Raises
    ------
    WeightsError
        If there are none of that name, or they can't be fetched.
    """
    name = os.fspath(weights)
    if os.path.isdir(name):
        config = Path(name, CONFIG)
        if not config.is_file():
            raise WeightsError(
                f"{name!r} is a folder without {CONFIG}: name the weight file inside it"
            )
        processor = Path(name, PROCESSOR)
        return _described(
            Repository(config, Path(name, WEIGHTS)),
            lambda: processor if processor.is_file() else None,
        )
    if isinstance(weights, str) and not os.path.exists(name):
        if is_torchvision_name(name):
            address, digits, settings = torchvision_weights(name, architecture)
            return Found(_fetch(address, digits), settings)
        if _URL.match(name):
            path = _fetch(name)
            return Found(path, _own_settings(path))
        if _REPOSITORY.fullmatch(name) and not name.lower().endswith(_SUFFIXES):
            repository = fetch_repository(name, hub)
            return _described(repository, lambda: fetch_beside(repository, name, PROCESSOR, hub))
        if not name.lower().endswith(_SUFFIXES):
            raise WeightsError(f"there are no weights {name!r}: expected {FORMS}")
    return Found(Path(name), _own_settings(Path(name)))


def _fetch(address: str, digits: str | None = None) -> Path:
    """Fetch a URL whose sha256 is known, or stands behind it."""
    from npresnet.weights.url import fetch, split_hash  # they bring the network's libraries

    return fetch(address, digits) if digits else fetch(*split_hash(address))


def _described(repository: Repository, processor: Callable[[], Path | None]) -> Found:
    """Return the weights, and what the files beside them say of them."""
    return Found(repository.weights, read_config(repository.config, processor))


def _own_settings(path: Path) -> ModelSettings | None:
    """Read the settings that npresnet writes into the header of its files."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return None
    text = load_metadata(path).get(METADATA_KEY)
    if text is None:
        return None
    try:
        return ModelSettings.from_dict(_parse(text))
    except NpresnetError as error:
        raise WeightsError(f"{os.fspath(path)!r}: {error}") from None


def _parse(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"its npresnet settings aren't JSON: {error}") from None
    if not isinstance(fields, dict):
        raise WeightsError("its npresnet settings aren't a JSON object")
    return fields
