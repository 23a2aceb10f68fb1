"""ONNX operators, run by npresnet's operations: one file a family."""

from npresnet.export.operators import (
    activation,
    arithmetic,
    conv,
    linear,
    loss,
    norm,
    pool,
    reduction,
    shape,
)
from npresnet.export.operators.registry import OPERATORS, Call, Operator

__all__ = [
    "OPERATORS",
    "Call",
    "Operator",
    "activation",
    "arithmetic",
    "conv",
    "linear",
    "loss",
    "norm",
    "pool",
    "reduction",
    "shape",
]
