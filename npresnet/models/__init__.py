"""Networks: the ResNet family, and the plain network that it is compared with."""

from npresnet.models.create import (
    create_model,
    list_models,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    stem_key,
    wide_resnet50_2,
    wide_resnet101_2,
)
from npresnet.models.features import FeatureInfo, FeatureListNet
from npresnet.models.resnet import BasicBlock, Bottleneck, GlobalPool, ResNet, SqueezeExcite
from npresnet.models.resnet32 import ResNet32

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "FeatureInfo",
    "FeatureListNet",
    "GlobalPool",
    "ResNet",
    "ResNet32",
    "SqueezeExcite",
    "create_model",
    "list_models",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "stem_key",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
