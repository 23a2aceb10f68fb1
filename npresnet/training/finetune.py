"""What a run begins with: a fresh model, or the weights of a file under a head that fits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from npresnet.models import BasicBlock, Bottleneck
from npresnet.nn import Module, init
from npresnet.training.checkpoint import build, load_model
from npresnet.training.recipes import Recipe
from npresnet.weights.settings import ClassName, ModelSettings

__all__ = ["start_from"]

_HEAD = ("fc.weight", "fc.bias")


def start_from(
    weights: str | os.PathLike[str] | None,
    recipe: Recipe,
    classes: Sequence[ClassName],
    image_size: int | None = None,
    seed: int = 0,
    architecture: str | None = None,
) -> tuple[Module, ModelSettings, Recipe]:
    """Make the model that a run begins with.

    Parameters
    ----------
    weights : path or None
        A weight file; None begins with random weights.
    recipe : Recipe
        Architecture and preprocessing, where there is no file; a file that doesn't say what it
        holds is read as the recipe's architecture.
    classes : sequence of str, int, float or bool
        Name of each label.
    image_size : int, optional
        Side of the network's input, in place of the recipe's or the file's.
    seed : int
        Of the random weights.
    architecture : str, optional
        What the file must hold.

    Returns
    -------
    model : Module
        To be trained.
    settings : ModelSettings
        To be saved with it.
    recipe : Recipe
        With the architecture and preprocessing that are used.

    Raises
    ------
    WeightsError
        The file can't be read or doesn't fit.
    """
    if weights is None:
        if image_size is not None:
            recipe = recipe.with_image_size(image_size)
        small = recipe.uses_small_input
        settings = ModelSettings.new(recipe.model, tuple(classes), recipe.preprocessing, small)
        model = build(settings, seed)
        if recipe.zero_init_residual:
            _begin_as_identity(model)
        return model, settings, recipe
    trained, before = load_model(weights, architecture, default=recipe.model)
    settings = ModelSettings(
        before.architecture,
        {**before.options, "num_classes": len(classes)},
        tuple(classes),
        before.preprocessing,
    )
    recipe = replace(
        recipe,
        model=before.architecture,
        preprocessing=before.preprocessing,
        small_input=bool(before.options.get("small_input", False)),
    )
    if image_size is not None:
        recipe = recipe.with_image_size(image_size)
        settings = replace(settings, preprocessing=recipe.preprocessing)
    if before.classes == settings.classes:
        return trained, settings, recipe
    model = build(settings, seed)
    body = {key: array for key, array in trained.state_dict().items() if key not in _HEAD}
    model.load_state_dict(body, strict=False)
    return model, settings, recipe


def _begin_as_identity(model: Module) -> None:
    """Set the weight of each block's last batch norm to 0 (arXiv:1706.02677, section 5.1)."""
    for module in model.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            init.zeros_(module.last_norm.weight)
