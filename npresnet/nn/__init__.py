"""Layers that hold parameters and buffers, with torch.nn's names, arguments and defaults."""

from npresnet import functional
from npresnet.nn import init
from npresnet.nn.activation import Dropout, LogSoftmax, ReLU, Sigmoid, Softmax
from npresnet.nn.container import ModuleList, Sequential
from npresnet.nn.conv import Conv2d
from npresnet.nn.linear import Flatten, Identity, Linear
from npresnet.nn.loss import CrossEntropyLoss, NLLLoss
from npresnet.nn.module import Module, Parameter
from npresnet.nn.norm import BatchNorm2d
from npresnet.nn.pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "Identity",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "functional",
    "init",
]
