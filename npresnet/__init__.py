"""npresnet: residual networks, every layer written from scratch on arrays.

>>> import npresnet as nr
>>> model = nr.resnet34(num_classes=10)
>>> logits = model(nr.randn(1, 3, 64, 64))
>>> logits.shape
(1, 10)
"""

from typing import TYPE_CHECKING, Any

from numpy import bool_, float16, float32, float64, int32, int64, uint8

from npresnet import functional, nn, optim
from npresnet.backend import get_backend, set_backend, use_backend
from npresnet.creation import (
    arange,
    argmax,
    cat,
    empty,
    flatten,
    from_dlpack,
    from_numpy,
    full,
    matmul,
    max,
    mean,
    ones,
    ones_like,
    permute,
    rand,
    randint,
    randn,
    reshape,
    stack,
    sum,
    transpose,
    zeros,
    zeros_like,
)
from npresnet.errors import NpresnetError
from npresnet.functional import log_softmax, relu, sigmoid, softmax
from npresnet.models import (
    ResNet,
    ResNet32,
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
    wide_resnet50_2,
    wide_resnet101_2,
)
from npresnet.random import manual_seed
from npresnet.tape import enable_grad, is_grad_enabled, no_grad
from npresnet.tensor import Tensor, tensor

if TYPE_CHECKING:
    from npresnet import data, export, inspect, models, training, weights
    from npresnet.classifier import Classifier
    from npresnet.engine import compile, compile_step
    from npresnet.export import export_onnx, load_onnx

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "NpresnetError",
    "ResNet",
    "ResNet32",
    "Tensor",
    "arange",
    "argmax",
    "bool_",
    "cat",
    "compile",
    "compile_step",
    "create_model",
    "data",
    "empty",
    "enable_grad",
    "export",
    "export_onnx",
    "flatten",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "from_numpy",
    "full",
    "functional",
    "get_backend",
    "inspect",
    "int32",
    "int64",
    "is_grad_enabled",
    "list_models",
    "load_onnx",
    "log_softmax",
    "manual_seed",
    "matmul",
    "max",
    "mean",
    "models",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "permute",
    "rand",
    "randint",
    "randn",
    "relu",
    "reshape",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "set_backend",
    "sigmoid",
    "softmax",
    "stack",
    "sum",
    "tensor",
    "training",
    "transpose",
    "uint8",
    "use_backend",
    "weights",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "zeros",
    "zeros_like",
]

_ON_DEMAND = (
    "data",
    "export",
    "inspect",
    "training",
    "weights",
)  # they bring Pillow and safetensors


def __getattr__(name: str) -> Any:
    import importlib

    if name == "Classifier":
        return importlib.import_module("npresnet.classifier").Classifier
    if name in ("compile", "compile_step"):
        return getattr(importlib.import_module("npresnet.engine"), name)
    if name in ("export_onnx", "load_onnx"):
        return getattr(importlib.import_module("npresnet.export"), name)
    if name in _ON_DEMAND:
        return importlib.import_module(f"npresnet.{name}")
    raise AttributeError(f"module 'npresnet' has no attribute {name!r}")
