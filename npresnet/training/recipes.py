"""Recipes: the settings of a training run, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_type_hints

from npresnet.errors import RangeError
from npresnet.models.create import no_such_network
from npresnet.training.checkpoint import ARCHITECTURES
from npresnet.weights.preprocessing import AUGMENTATIONS, Preprocessing

__all__ = ["RECIPES", "SMALL_SIDE", "Recipe", "get_recipe"]

SMALL_SIDE = 64
"""Images up to this side get the small stem (``small_input``) unless it is said otherwise."""

_OPTIMIZERS = ("sgd", "adamw")
_SCHEDULES = ("one_cycle", "cosine", "step", "constant")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes
    ----------
    model : str
        The architecture, a name of `npresnet.list_models()`: ``"resnet34"``, say.
    epochs, batch_size : int
        Passes over the training images, and images a step.
    optimizer : {"sgd", "adamw"}
        SGD goes with Nesterov momentum.
    lr : float
        Learning rate, with a schedule the highest.
    momentum : float
        Of SGD.
    weight_decay : float
        Of the weights; biases and batch norms are left alone.
    schedule : {"one_cycle", "cosine", "step", "constant"}
        ``"one_cycle"`` rises and falls once over the run, a step a batch; ``"cosine"`` warms up
        over `warm_up` of the epochs and falls; ``"step"`` divides by 10 after each third.
    warm_up : float
        Share of the run in which the learning rate rises.
    label_smoothing : float
        Share of the target that is spread over all classes.
    augment : {"none", "shift", "photo"}
        See `Preprocessing.transform`.
    small_input : bool or None
        Whether the stem is that for small images; None decides by the input's size.
    zero_init_residual : bool
        Whether fresh residual blocks begin as the identity, see `npresnet.ResNet`: a deep network
        learns sooner.
    preprocessing : Preprocessing
        What the model sees of an image.
    """

    preprocessing: Preprocessing
    model: str = "resnet34"
    epochs: int = 30
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    warm_up: float = 0.3
    label_smoothing: float = 0.1
    augment: str = "none"
    small_input: bool | None = None
    zero_init_residual: bool = True

    def __post_init__(self) -> None:
        if self.model not in ARCHITECTURES:
            raise RangeError(no_such_network(str(self.model)))
        choices = (
            ("optimizer", _OPTIMIZERS),
            ("schedule", _SCHEDULES),
            ("augment", AUGMENTATIONS),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise RangeError(f"{name} expected {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise RangeError(f"{name} expected an int of at least 1, got {value!r}")
        for name, low, high in (
            ("lr", 0.0, float("inf")),
            ("weight_decay", 0.0, float("inf")),
            ("momentum", 0.0, 1.0),
            ("warm_up", 0.0, 1.0),
            ("label_smoothing", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise RangeError(f"{name} expected a number, got {value!r}")
            if not low <= value <= high or value == float("inf"):
                raise RangeError(f"{name} expected a number from {low} to {high}, got {value!r}")

    @property
    def uses_small_input(self) -> bool:
        """Whether the stem is that for small images."""
        if self.small_input is None:
            return max(self.preprocessing.size) <= SMALL_SIDE
        return self.small_input

    def but(self, **changes: Any) -> Recipe:
        """Return the recipe with some settings changed; those that are None stay as they are.

        Raises
        ------
        RangeError
            There is no such setting, or it is out of range.
        """
        known = {item.name for item in fields(self)}
        for name in changes:
            if name not in known:
                raise RangeError(f"a recipe has no {name!r}: it has {', '.join(sorted(known))}")
        return replace(self, **{k: v for k, v in changes.items() if v is not None})

    def with_image_size(self, side: int) -> Recipe:
        """Return the recipe for square inputs of another side.

        Raises
        ------
        RangeError
            `side` is no int, below 1 or too large.
        """
        if isinstance(side, bool) or not isinstance(side, int):
            raise RangeError(f"image_size expected a number of pixels, got {side!r}")
        return replace(self, preprocessing=self.preprocessing.scaled_to(side))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {**asdict(self), "preprocessing": self.preprocessing.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Make a recipe from :meth:`to_dict`.

        Raises
        ------
        RangeError
            If it has no such setting, or one is out of range.
        """
        unknown = set(values) - set(get_type_hints(cls))
        if unknown:
            raise RangeError(f"a recipe has no {', '.join(sorted(unknown))}")
        given = dict(values)
        given["preprocessing"] = Preprocessing.from_dict(given["preprocessing"])
        return cls(**given)


RECIPES: dict[str, Recipe] = {
    # The digits as they are, 8x8: the small stem keeps the map at full size through the first
    # stage, and eight passes take about a minute on two cores.
    "digits": Recipe(
        preprocessing=Preprocessing(size=(8, 8), channels=1, mean=(0.305,), std=(0.376,)),
        epochs=8,
        batch_size=64,
        lr=0.02,
        augment="shift",
    ),
    # Other small pictures, at their size or at 32x32.
    "small": Recipe(
        preprocessing=Preprocessing(size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3),
        epochs=20,
        batch_size=64,
        lr=0.02,
        augment="shift",
    ),
    # Photographs in class folders, as ImageNet is seen.
    "images": Recipe(
        preprocessing=Preprocessing(size=(224, 224), resize=256),
        epochs=30,
        batch_size=32,
        lr=0.02,
        weight_decay=1e-4,
        augment="photo",
    ),
}


def get_recipe(name: str | Recipe) -> Recipe:
    """Return the recipe called `name`; a recipe is handed through.

    Raises
    ------
    RangeError
        There is no such recipe.
    """
    if isinstance(name, Recipe):
        return name
    if name not in RECIPES:
        raise RangeError(f"unknown recipe {name!r}: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
