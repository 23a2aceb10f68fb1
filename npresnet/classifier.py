"""Classifier: fit, predict and score on images, as scikit-learn users expect.

scikit-learn itself isn't needed. The constructor only keeps its arguments; what is learned has
names that end in an underscore.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from npresnet.backend import current_backend, use_backend
from npresnet.data import DataLoader, Dataset, Subset
from npresnet.errors import (
    DataError,
    DtypeError,
    ModuleError,
    RangeError,
    WeightsError,
)
from npresnet.models.sharing import Shareable
from npresnet.nn import Module
from npresnet.random import seeded
from npresnet.training.checkpoint import load_model
from npresnet.training.datasets import hold_out
from npresnet.training.evaluate import Evaluation, Predictor, evaluate, probabilities
from npresnet.training.finetune import start_from
from npresnet.training.items import (
    Images,
    Items,
    Table,
    class_array,
    items_of,
    label_list,
    of_sklearn,
    plain,
    sorted_classes,
)
from npresnet.training.loop import (
    EpochMetrics,
    fit_epochs,
    make_optimizer,
    smoothed_cross_entropy,
)
from npresnet.training.recipes import RECIPES, SMALL_SIDE, Recipe
from npresnet.weights.hub import HubOptions
from npresnet.weights.preprocessing import Preprocessing
from npresnet.weights.settings import ModelSettings
from npresnet.weights.sharing import save_described

__all__ = ["Classifier"]

Self = TypeVar("Self", bound="Classifier")

_RECIPE_PARAMETERS = (
    "model",
    "epochs",
    "batch_size",
    "lr",
    "weight_decay",
    "label_smoothing",
    "optimizer",
    "schedule",
    "augment",
    "small_input",
)
_LOOKED_AT = 64  # images whose sizes decide how a new model sees them


class Classifier(Shareable):
    """A residual network for images, with its preprocessing.

    Images come as a list of paths, of Pillow's images or of uint8 arrays (H, W) or (H, W, C); or as
    one uint8 array (N, H, W) or (N, H, W, C). Paths are read by `npresnet.data.read_image`, which
    has a limit of 50 megapixels and turns no image: to read otherwise, pass what it returns.
    A table of other numbers (N, F), an array or a DataFrame, holds the pixels of a grey image in
    each row: a square one if F is a square number, else one line; it is normalised by its mean and
    deviation. Labels are any values that can be sorted: names or numbers.

    Parameters
    ----------
    model : str
        A name of `npresnet.list_models()`: ``"resnet18"``, ``"resnet50d"``, ``"seresnet50"``...
    weights : str or path, optional
        A weight file (``.safetensors``, torch's ``.pth`` or ``.npz``), or the name of weights to
        fetch: ``"timm/resnet34.a1_in1k"`` on the Hugging Face Hub, ``"IMAGENET1K_V1"`` of
        torchvision, ``"https://...#sha256=..."``; see `npresnet.weights.load_pretrained`. Images
        are prepared as it says. It classifies as it is; `fit` begins with it, under a new head
        where the classes differ.
    epochs, batch_size, lr, weight_decay, label_smoothing, optimizer, schedule, augment : optional
        Settings of the training, see `npresnet.training.Recipe`; None leaves the default for small
        images or for photographs.
    image_size : int, optional
        Side of the network's input. None: images of up to 64 pixels are taken as large as they
        are, others are scaled to 256 and cut to 224.
    small_input : bool, optional
        Whether to use the stem for small images; None: for inputs of up to 64 pixels.
    validation : float
        Share of each class that is held out in `fit`, 0 to 0.9; then the weights of the epoch that
        did best on it are kept. With 0 those of the last epoch are kept.
    seed : int or None
        Of initial weights, order and augmentation; None draws a new one at each fit.
    backend : str, optional
        Where to compute; None: the backend in force.
    precision : {None, "fp32", "tf32", "fp16", "bf16"}
        What `fit` and predictions compute in, see `npresnet.compile_step`; the weights are
        float32 in any.
    workers : int
        Threads that load images ahead.
    verbose : bool
        Whether `fit` prints a line an epoch, with a progress bar in a terminal.

    Attributes
    ----------
    classes_ : array (classes,)
        The labels, sorted.
    model_ : Module
        The network, in evaluation mode.
    settings_ : ModelSettings
        What is saved beside the weights.
    history_ : list of EpochMetrics
        One for each epoch of the last fit.
    n_features_in_ : int
        F, if it was fitted on a table (N, F).

    Examples
    --------
    >>> import npresnet as nr
    >>> images, digits = nr.data.load_digits("train")
    >>> clf = nr.Classifier("resnet18", epochs=5).fit(images, digits)  # doctest: +SKIP
    >>> clf.predict(nr.data.load_digits("test")[0][:3])  # doctest: +SKIP
    array([0, 0, 0])
    """

    _estimator_type: ClassVar[str] = "classifier"

    classes_: npt.NDArray[Any]
    model_: Module
    settings_: ModelSettings
    history_: list[EpochMetrics]
    n_features_in_: int

    def __init__(
        self,
        model: str = "resnet34",
        weights: str | os.PathLike[str] | None = None,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        label_smoothing: float | None = None,
        optimizer: str | None = None,
        schedule: str | None = None,
        augment: str | None = None,
        image_size: int | None = None,
        small_input: bool | None = None,
        validation: float = 0.0,
        seed: int | None = 0,
        backend: str | None = None,
        precision: str | None = None,
        workers: int = 0,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.weights = weights
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.optimizer = optimizer
        self.schedule = schedule
        self.augment = augment
        self.image_size = image_size
        self.small_input = small_input
        self.validation = validation
        self.seed = seed
        self.backend = backend
        self.precision = precision
        self.workers = workers
        self.verbose = verbose

    # ------------------------------------------------------------------ parameters

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        parameters = inspect.signature(cls.__init__).parameters
        return {name: p.default for name, p in parameters.items() if name != "self"}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments; `deep` makes no difference."""
        return {name: getattr(self, name) for name in self._defaults()}

    def set_params(self: Self, **params: Any) -> Self:
        """Change arguments of the constructor; what was learned stays until the next fit.

        Raises
        ------
        RangeError
            There is no such argument.
        """
        known = self._defaults()
        for name in params:
            if name not in known:
                raise RangeError(
                    f"{type(self).__name__} has no parameter {name!r}: it has {', '.join(known)}"
                )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name, default in self._defaults().items()
            if getattr(self, name) is not default and getattr(self, name) != default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn asks; only it calls this."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            transformer_tags=None,
            regressor_tags=None,
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(three_d_array=True, string=True),
        )

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether it can predict."""
        return hasattr(self, "model_") or self.weights is not None

    # ------------------------------------------------------------------ learning

    def fit(self: Self, X: Images, y: Any) -> Self:
        """Train on labelled images, from the beginning or from `weights`.

        Parameters
        ----------
        X : sequence of images, or array
            See the class.
        y : sequence
            As many labels, of two or more different values: a list, an array, a pandas Series.

        Returns
        -------
        Classifier
            Itself.

        Raises
        ------
        DataError, ShapeError, DtypeError
            The images or labels aren't what they should be, or their numbers differ.
        RangeError, WeightsError, BackendError
            A parameter is wrong.
        TrainingError
            The loss isn't a finite number.
        """
        items = items_of(X)
        names = label_list(y, len(items))
        if isinstance(items, Table) and self.augment not in (None, "none"):
            raise RangeError(f"augment={self.augment!r} is for images: a table is taken as it is")
        classes = sorted_classes(names)
        number = {name: i for i, name in enumerate(classes)}
        items.labels = [number[name] for name in names]
        seed = int(np.random.default_rng().integers(2**31)) if self.seed is None else self.seed
        seed = plain(seed)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise RangeError(f"seed expected an int of at least 0 or None, got {seed!r}")
        kept, held = self._split(items, seed)
        with self._computing(), seeded(seed):
            current_backend().plan_precision(self.precision)  # before anything is fetched
            recipe = self._recipe(items)
            model, settings, recipe = start_from(
                self.weights, recipe, classes, plain(self.image_size), seed
            )
            history = self._train(model, settings.preprocessing, recipe, items, kept, held, seed)
        self._learned(model, settings, history)
        return self

    def _recipe(self, items: Items) -> Recipe:
        """What to train by: the defaults for such images, changed by the parameters."""
        # NumPy's numbers come from parameter grids
        chosen = {name: plain(getattr(self, name)) for name in _RECIPE_PARAMETERS}
        if isinstance(items, Table):
            return RECIPES["small"].but(preprocessing=items.preprocessing, **chosen)
        sizes = items.sizes(_LOOKED_AT)
        high, wide = (max(side) for side in zip(*sizes, strict=True))
        grey = items.are_grey
        if max(high, wide) <= SMALL_SIDE:
            recipe = RECIPES["small"]
            seen = replace(recipe.preprocessing, size=(high, wide))
        else:
            recipe = RECIPES["images"]
            seen = recipe.preprocessing
        if grey:
            seen = replace(seen, channels=1, mean=(0.5,), std=(0.25,))
        return recipe.but(preprocessing=seen, **chosen)

    def _split(self, items: Items, seed: int) -> tuple[list[int], list[int]]:
        share = plain(self.validation)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 0.9:
            raise RangeError(f"validation expected a share from 0 to 0.9, got {share!r}")
        if share == 0:
            return list(range(len(items))), []
        kept, held = hold_out(items.labels, float(share), seed)
        if not held:
            raise DataError(
                "every class has a single image, so that none can be held out: give more images "
                "or validation=0"
            )
        return kept, held

    def _train(
        self,
        model: Module,
        preprocessing: Preprocessing,
        recipe: Recipe,
        items: Items,
        kept: list[int],
        held: list[int],
        seed: int,
    ) -> list[EpochMetrics]:
        """Run the loop; with images held out, leave the weights of the best epoch."""
        train = Subset(items.seen_by(preprocessing, recipe.augment), kept)
        test = Subset(items.seen_by(preprocessing), held)
        loader = DataLoader(train, recipe.batch_size, True, seed=seed, workers=self.workers)
        optimizer, scheduler, each_batch = make_optimizer(model, recipe, len(loader))
        best: dict[str, Any] = {}

        def keep_best(metrics: EpochMetrics, _: Evaluation | None) -> None:
            if held and metrics.best:
                best.update({key: array.copy() for key, array in model.state_dict().items()})

        history = fit_epochs(
            model,
            optimizer,
            loader,
            DataLoader(test, recipe.batch_size, workers=self.workers) if held else None,
            recipe.epochs,
            loss_function=smoothed_cross_entropy(recipe.label_smoothing),
            scheduler=scheduler,
            each_batch=each_batch,
            precision=self.precision,
            on_epoch=keep_best,
            progress=None if self.verbose else False,
            log=print if self.verbose else None,
        )
        if best:
            model.load_state_dict(best)
        model.zero_grad()  # gradients would double what a fitted classifier weighs
        return history

    def __getstate__(self) -> dict[str, Any]:
        """Leave the plans out of copies and pickles: they are made again when needed."""
        return {key: value for key, value in self.__dict__.items() if key != "_predictor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "model_" in state:
            self._predictor = Predictor(self.model_)

    def _learned(self, model: Module, settings: ModelSettings, history: list[EpochMetrics]) -> None:
        self.model_ = model
        self._predictor = Predictor(model)
        self.settings_ = settings
        self.classes_ = class_array(settings.classes)
        self.history_ = history
        self.__dict__.pop("n_features_in_", None)
        if settings.preprocessing.table:
            self.n_features_in_ = settings.preprocessing.features

    # ------------------------------------------------------------------ predicting

    def predict_proba(self, X: Images) -> npt.NDArray[np.float32]:
        """Return the probability of each class, (N, classes), in the order of `classes_`.

        Raises
        ------
        ModuleError
            There are neither weights nor a fit yet.
        DataError, ShapeError, DtypeError
            The images aren't what they should be.
        """
        with self._computing():
            settings = self._fitted()[1]
            items = items_of(X)
            if not len(items):
                return np.zeros((0, len(settings.classes)), np.float32)
            loader = self._loader(items.seen_by(settings.preprocessing))
            predict = self._predicting()
            return probabilities(np.concatenate([predict(x) for x, _ in loader]))

    def predict(self, X: Images) -> npt.NDArray[Any]:
        """Return the likeliest class of each image, (N,); errors as `predict_proba`."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        labels: npt.NDArray[Any] = self.classes_[likeliest]
        return labels

    def score(self, X: Images, y: Any) -> float:
        """Return the share of images whose likeliest class is their label.

        Raises
        ------
        DtypeError
            The labels are of another kind than `classes_`; else as `predict_proba`.
        """
        predicted = self.predict(X).tolist()
        names = label_list(y, len(predicted))
        if not names:
            raise DataError("score needs at least one image, got none")
        known = self.classes_.tolist()
        if set(names).isdisjoint(known) and type(names[0]) is not type(known[0]):
            raise DtypeError(
                f"labels like {names[0]!r} ({type(names[0]).__name__}) are compared with classes "
                f"like {known[0]!r} ({type(known[0]).__name__}): convert the labels first"
            )
        right = [p == name for p, name in zip(predicted, names, strict=True)]
        return right.count(True) / len(names)

    def evaluate(self, X: Images, y: Any) -> Evaluation:
        """Return loss, accuracy, predictions and confusion on labelled images.

        Raises
        ------
        DataError
            A label is none of `classes_`; else as `predict_proba`.
        """
        with self._computing():
            settings = self._fitted()[1]
            items = items_of(X)
            names = label_list(y, len(items))
            number = {name: i for i, name in enumerate(settings.classes)}
            unknown = [name for name in names if name not in number]
            if unknown:
                raise DataError(
                    f"label {unknown[0]!r} is none of the {len(number)} classes that the model "
                    "knows: see classes_"
                )
            items.labels = [number[name] for name in names]
            return evaluate(self._predicting(), self._loader(items.seen_by(settings.preprocessing)))

    def _predicting(self) -> Predictor:
        self._predictor.precision = self.precision
        return self._predictor

    def _loader(self, data: Dataset) -> DataLoader:
        return DataLoader(data, self.batch_size or 32, workers=self.workers)

    def _computing(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.backend is None else use_backend(self.backend)

    def _fitted(self) -> tuple[Module, ModelSettings]:
        """The network and its settings; read from `weights` when they are first needed."""
        if not hasattr(self, "model_"):
            if self.weights is None:
                raise _not_fitted()(
                    f"this {type(self).__name__} knows nothing yet: call fit(images, labels), or "
                    "make it with weights=path"
                )
            self._learned(*load_model(self.weights, default=self.model), [])
        return self.model_, self.settings_

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a ``.safetensors`` file, with all that `load` needs.

        Raises
        ------
        ModuleError
            There are neither weights nor a fit yet.
        WeightsError
            The labels are neither text nor numbers.
        WriteError
            The file can't be written; what it held before is whole.
        """
        save_described(path, *self._shared())

    def _shared(self) -> tuple[Mapping[str, Any], ModelSettings]:
        model, settings = self._fitted()
        odd = [n for n in settings.classes if not isinstance(n, str | int | float | bool)]
        if odd:
            raise WeightsError(
                "can't write this classifier: a file holds labels that are text or numbers, not "
                f"{type(odd[0]).__name__} as {odd[0]!r}"
            )
        return model.state_dict(), settings

    @classmethod
    def _from_shared(cls: type[Self], name: str, hub: HubOptions, options: dict[str, Any]) -> Self:
        return cls._loaded(name, hub, options)

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str], **params: Any) -> Self:
        """Read a classifier from a weight file.

        Parameters
        ----------
        path : str or path-like
            Written by `save` or ``npresnet train``; or another ResNet with torchvision's names,
            with ``model="resnet50"``, say; or a name, as for `weights`.
        **params
            Arguments of the constructor.

        Raises
        ------
        WeightsError
            The file can't be read, or doesn't say what it holds.
        """
        return cls._loaded(path, None, params)

    @classmethod
    def _loaded(
        cls: type[Self],
        weights: str | os.PathLike[str],
        hub: HubOptions | None,
        params: Mapping[str, Any],
    ) -> Self:
        made = cls(**{"weights": weights, **params})
        with made._computing():
            current_backend().plan_precision(made.precision)
            made._learned(*load_model(weights, params.get("model"), hub=hub), [])
        made.model = made.settings_.architecture
        return made


def _not_fitted() -> type[Exception]:
    """Return the error for a classifier without weights: scikit-learn's too where that is used."""
    theirs = of_sklearn("NotFittedError", ModuleError)
    if theirs is ModuleError:
        return ModuleError
    # another process, which gets it from joblib, may know the one and not the other
    pickled = {"__reduce__": lambda self: (ModuleError, self.args)}
    return type("NotFittedError", (ModuleError, theirs), pickled)
