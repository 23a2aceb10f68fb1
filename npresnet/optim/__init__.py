"""Optimizers, learning-rate schedules and loss scaling, with torch's names, defaults and steps."""

from npresnet.optim import schedules as lr_scheduler
from npresnet.optim.adamw import AdamW
from npresnet.optim.optimizer import Optimizer
from npresnet.optim.scaler import GradScaler
from npresnet.optim.schedules import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)
from npresnet.optim.sgd import SGD

__all__ = [
    "SGD",
    "AdamW",
    "CosineAnnealingLR",
    "GradScaler",
    "LRScheduler",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "Optimizer",
    "SequentialLR",
    "StepLR",
    "lr_scheduler",
]
