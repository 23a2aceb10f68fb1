"""Networks: the ResNet family, and the plain network that it is compared with."""

from npresnet.models.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)
from npresnet.models.resnet32 import ResNet32

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ResNet",
    "ResNet32",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
]
