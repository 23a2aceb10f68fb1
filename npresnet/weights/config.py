"""``config.json`` of a repository of weights, in timm's form, read and written as settings.

What timm writes: ``architecture``, ``num_classes`` and, under ``pretrained_cfg``, the size of the
input, how images are scaled and cut out, mean and standard deviation, and the names of the classes
(https://huggingface.co/docs/timm/en/hf_hub). Older files hold all of it at the top. npresnet writes
the same, and its own settings beside it, which hold what timm has no word for. Files of the
transformers library are read, too.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from npresnet.data.imagenet import imagenet_classes, imagenet_wnids
from npresnet.errors import WeightsError
from npresnet.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from npresnet.weights.settings import ClassName, ModelSettings
from npresnet.weights.transformers import architecture_of, label_names, preprocessing_of

__all__ = ["MAX_CONFIG_BYTES", "class_names", "read_config", "to_config"]

MAX_CONFIG_BYTES = 16 * 2**20
"""Largest ``config.json`` that is read: the names of 21,843 classes take 2 MB."""

_CROP_PCT = 0.875  # timm's default
_MOST_CLASSES = 1_000_000  # a number in a file can't ask for more memory than that


def read_config(
    path: str | os.PathLike[str], find_processor: Callable[[], Path | None] = lambda: None
) -> ModelSettings | None:
    """Read what a ``config.json`` says of the weights beside it.

    Parameters
    ----------
    path : path
        The file, as timm, transformers or npresnet write it.
    find_processor : callable
        Finds the ``preprocessor_config.json`` that transformers writes beside it, or None.

    Returns
    -------
    ModelSettings or None
        None where it names no network.

    Raises
    ------
    WeightsError
        A file can't be read, is no JSON object, or makes no sense.
    """
    config = _json(path)
    try:
        if "npresnet" in config:
            return ModelSettings.from_dict(config["npresnet"])
        if config.get("model_type") == "resnet":
            processor = find_processor()
            return _of_transformers(config, {} if processor is None else _json(processor))
        return _of_timm(config) if "architecture" in config else None
    except WeightsError as error:
        raise WeightsError(f"{os.fspath(path)!r}: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightsError(f"{os.fspath(path)!r}: it doesn't make sense: {reason:.300}") from None


def _json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object of a file from a stranger."""
    name = os.fspath(path)
    try:
        if os.path.getsize(path) > MAX_CONFIG_BYTES:
            raise WeightsError(
                f"{name!r} has more than {MAX_CONFIG_BYTES:,} bytes: it describes no weights"
            )
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"can't read {name!r}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or nested without end
        raise WeightsError(f"{name!r} isn't JSON: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{name!r}: expected a JSON object, got {type(content).__name__}")
    return content


def to_config(settings: ModelSettings) -> dict[str, Any]:
    """Return the content of a ``config.json`` that timm reads, and npresnet without any loss."""
    seen, outputs = settings.preprocessing, settings.options["num_classes"]
    return {
        "architecture": settings.architecture,
        "num_classes": outputs,
        "label_names": [str(name) for name in settings.classes],
        "pretrained_cfg": {
            "input_size": [settings.options["in_chans"], *seen.size],
            "interpolation": seen.interpolation,
            "crop_pct": _crop_pct(seen),
            "crop_mode": "squash" if seen.resize is None else seen.crop_mode,
            "mean": list(seen.mean),
            "std": list(seen.std),
            "num_classes": outputs,
        },
        "npresnet": settings.to_dict(),
    }


def class_names(count: int, names: Sequence[Any] | None = None) -> tuple[ClassName, ...]:
    """Return what the outputs of a set of weights stand for.

    Parameters
    ----------
    count : int
        Number of outputs.
    names : sequence, optional
        What the publisher calls them. ImageNet's WordNet ids become its names; of names that come
        twice, the later get their number behind them. Without names, a thousand outputs are
        ImageNet's, as timm too takes them to be, and others are numbered from 0.

    Raises
    ------
    WeightsError
        There are more or fewer names than outputs.
    """
    if names is None:
        return imagenet_classes() if count == 1000 else tuple(range(count))
    if len(names) != count:
        raise WeightsError(f"it names {len(names)} classes for {count} outputs")
    if tuple(names) == imagenet_wnids():
        return imagenet_classes()
    first = {name: number for number, name in reversed(list(enumerate(names)))}
    return tuple(
        name if first[name] == number else f"{name} ({number})" for number, name in enumerate(names)
    )


def _of_timm(config: Mapping[str, Any]) -> ModelSettings:
    """Take the settings out of a config of timm's; what it doesn't say is what timm assumes."""
    told = {**config.get("pretrained_cfg", {}), **config}  # the outer counts more, as in timm
    options = dict(told.get("model_args") or {})
    unknown = sorted(set(options) - {"in_chans", "num_classes"})
    if unknown:
        raise WeightsError(f"its network has options that npresnet lacks: {', '.join(unknown)}")
    channels, *size = told.get("input_size") or (3, 224, 224)
    options = {
        "num_classes": told.get("num_classes", 1000),
        "in_chans": channels,
        "small_input": False,
        **options,
    }
    outputs = options["num_classes"]
    if type(outputs) is not int or not 0 <= outputs <= _MOST_CLASSES:
        raise WeightsError(f"num_classes expected 0 to {_MOST_CLASSES:,}, got {outputs!r:.60}")
    settings = ModelSettings(
        told["architecture"],
        options,
        class_names(outputs, told.get("label_names", told.get("labels"))),
        _preprocessing(told, options["in_chans"], tuple(size)),
    )
    settings.check()
    return settings


def _of_transformers(config: Mapping[str, Any], processor: Mapping[str, Any]) -> ModelSettings:
    names = label_names(config)
    settings = ModelSettings.new(
        architecture_of(config), class_names(len(names), names), preprocessing_of(processor)
    )
    settings.check()
    return settings


def _preprocessing(told: Mapping[str, Any], channels: int, size: tuple[int, ...]) -> Preprocessing:
    grey = channels == 1
    crop_pct = float(told.get("crop_pct") or _CROP_PCT)
    mode: Any = told.get("crop_mode") or "center"
    scaled = tuple(math.floor(side / crop_pct) for side in size)  # as timm rounds it
    height, width = scaled
    return Preprocessing(
        size=(size[0], size[1]),
        channels=channels,
        resize=height if mode == "center" and height == width else (height, width),
        interpolation=told.get("interpolation") or "bicubic",
        mean=tuple(told.get("mean") or ((0.5,) if grey else IMAGENET_MEAN)),
        std=tuple(told.get("std") or ((0.5,) if grey else IMAGENET_STD)),
        crop_mode=mode,
    )


def _crop_pct(seen: Preprocessing) -> float:
    """Return the share from which timm computes the size that images are scaled to."""
    side = seen.size[0]
    resize = side if seen.resize is None else seen.resize
    scaled = resize if isinstance(resize, int) else resize[0]
    share = side / scaled
    # in floating point the division back may end below the whole number, which timm cuts off
    return share if math.floor(side / share) == scaled else side / (scaled + 0.5)
