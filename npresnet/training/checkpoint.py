"""Checkpoints: weights in a safetensors file that says itself what it needs.

The header of the file carries, under ``"npresnet"``, a JSON text with the architecture, its
options, the class names and the preprocessing. Readers of the torch world see a plain state dict.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace

from npresnet import models
from npresnet.errors import NpresnetError, WeightsError
from npresnet.models.create import no_such_network
from npresnet.models.describe import describe, recognise
from npresnet.nn import Module, init
from npresnet.random import seeded
from npresnet.weights import WeightFile, load_pretrained
from npresnet.weights.hub import HubOptions
from npresnet.weights.settings import ClassName, ModelSettings
from npresnet.weights.sharing import save_described

__all__ = ["ARCHITECTURES", "build", "load_model", "save_model"]

ARCHITECTURES: dict[str, Callable[..., Module]] = {
    name: functools.partial(models.create_model, name) for name in models.list_models()
}


def build(settings: ModelSettings, seed: int | None = 0) -> Module:
    """Return a model of these settings, on the backend in force.

    Parameters
    ----------
    settings : ModelSettings
        Architecture and options.
    seed : int or None
        Of the fresh weights; None leaves them 0, to be loaded.

    Raises
    ------
    WeightsError
        The architecture is unknown.
    """
    if settings.architecture not in ARCHITECTURES:
        raise WeightsError(no_such_network(settings.architecture))
    make = ARCHITECTURES[settings.architecture]
    with init.skip_random() if seed is None else seeded(seed):
        return make(**settings.options)


def save_model(path: str | os.PathLike[str], model: Module, settings: ModelSettings) -> None:
    """Write weights and settings to a ``.safetensors`` file, whole or not at all.

    Parameters
    ----------
    path : str or path-like
        The file to replace or create, in an existing folder.
    model : Module
        Whose parameters and buffers are written.
    settings : ModelSettings
        Written into the file's header.

    Raises
    ------
    WeightsError
        The settings contradict each other or can't be written as JSON.
    WriteError
        The file can't be written; what it held before is whole.
    """
    save_described(path, model.state_dict(), settings)


def load_model(
    path: str | os.PathLike[str],
    architecture: str | None = None,
    classes: tuple[ClassName, ...] | None = None,
    default: str | None = None,
    hub: HubOptions | None = None,
) -> tuple[Module, ModelSettings]:
    """Read a model, in evaluation mode, and what it needs.

    Parameters
    ----------
    path : str or path-like
        A weight file of npresnet's, or of any other ResNet with torchvision's names; or a name that
        `npresnet.weights.load_pretrained` knows: ``"timm/resnet34.a1_in1k"``, for instance.
    architecture : str, optional
        What a file that doesn't say so holds: ``"resnet34"``, for instance; torchvision's networks
        are recognised without it. Number of classes, channels and the kind of stem follow from the
        shapes; the preprocessing is ImageNet's.
    classes : sequence, optional
        Names to use in place of the file's, as many.
    default : str, optional
        As `architecture`, but what the file says, or is recognised as, counts more.
    hub : HubOptions, optional
        For a name on the hub.

    Returns
    -------
    model : Module
        On the backend in force.
    settings : ModelSettings
        Architecture, options, classes and preprocessing.

    Raises
    ------
    WeightsError
        The file can't be read, doesn't say what it holds, or the weights don't fit.
    """
    name = os.fspath(path)
    state, settings = load_pretrained(path, architecture, default, hub)
    try:
        if settings is None and (plain := architecture or recognise(state) or default) is not None:
            settings = describe(plain, state)
        if settings is None:
            raise WeightsError(
                "it doesn't say which network it holds: name it, as in "
                'load_model(path, architecture="resnet34") or --model resnet34'
            )
        if classes is not None:
            if len(classes) != len(settings.classes):
                raise WeightsError(f"{len(classes)} classes for {len(settings.classes)} outputs")
            settings = replace(settings, classes=tuple(classes))
        _check_shapes(settings, state)
        model = build(settings, seed=None)
        model.load_state_dict(state)
    except NpresnetError as error:
        raise WeightsError(f"{name!r}: {error}") from None
    return model.eval(), settings


def _check_shapes(settings: ModelSettings, state: WeightFile) -> None:
    """Compare sizes with the file before a model of these sizes is built in memory."""
    expected = (
        ("fc.weight", 0, settings.options["num_classes"], "classes"),
        (models.stem_key(state), 1, settings.options["in_chans"], "input channels"),
    )
    for key, axis, size, what in expected:
        if key in state and state[key].ndim > axis and state[key].shape[axis] != size:
            raise WeightsError(
                f"its settings say {size} {what}, its {key} has {state[key].shape[axis]}"
            )
        if key not in state:
            raise WeightsError(f"it has no {key}: it isn't a whole {settings.architecture}")
