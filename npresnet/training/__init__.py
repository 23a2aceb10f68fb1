"""Training: recipes, the loop, evaluation, checkpoints, and the folder that a run leaves behind.

The short way is :func:`train_run`, which is the ``npresnet train`` command; the parts that it is
made of can be used alone: :func:`fit_epochs` and :func:`evaluate` work on any module and loader,
:func:`save_model` and :func:`load_model` on checkpoints.
"""

from npresnet.training.checkpoint import load_model, save_model
from npresnet.training.datasets import Splits, load_splits
from npresnet.training.evaluate import Evaluation, Predictor, evaluate
from npresnet.training.loop import EpochMetrics, TrainStep, fit_epochs, make_optimizer
from npresnet.training.metrics import read_metrics
from npresnet.training.recipes import RECIPES, Recipe, get_recipe
from npresnet.training.run import RUN_FILES, Run, evaluate_weights, train_run
from npresnet.weights.preprocessing import Preprocessing
from npresnet.weights.settings import ModelSettings

__all__ = [
    "RECIPES",
    "RUN_FILES",
    "EpochMetrics",
    "Evaluation",
    "ModelSettings",
    "Predictor",
    "Preprocessing",
    "Recipe",
    "Run",
    "Splits",
    "TrainStep",
    "evaluate",
    "evaluate_weights",
    "fit_epochs",
    "get_recipe",
    "load_model",
    "load_splits",
    "make_optimizer",
    "read_metrics",
    "save_model",
    "train_run",
]
