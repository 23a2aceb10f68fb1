"""The table of ONNX operators that npresnet runs, and what their functions have at hand.

An operator is a function on tensors. Its signature says what a node may look like: positional
arguments are the inputs (those with a default may be missing), keyword arguments the attributes
with their types and defaults.

What flows between nodes is a Tensor, or an array of *known* numbers: constants, and whatever is
worked out from constants and shapes alone. Sizes and axes have to be known for a plan.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np

from npresnet.backend import Backend
from npresnet.errors import GraphError, OnnxError
from npresnet.tape import is_grad_enabled
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array, Shape

__all__ = ["MOST_ELEMENTS", "OPERATORS", "Call", "Floats", "Ints", "Operator", "Value", "operator"]

Value: TypeAlias = Tensor | Array
Ints: TypeAlias = tuple[int, ...]
Floats: TypeAlias = tuple[float, ...]

Function = TypeVar("Function", bound=Callable[..., Any])

MOST_ELEMENTS = 2**30  # of one array: a file of a few bytes may ask for any size

# The AttributeProto.AttributeType of an annotation.
_KINDS = {"float": 1, "int": 2, "str": 3, "Array": 4, "Floats": 6, "Ints": 7}


@dataclass(frozen=True)
class Call:
    """A node at work.

    Attributes
    ----------
    opset : int
        The version of the operators that the file asks for.
    outputs : int
        How many outputs the node names.
    training : bool
        Whether the network is in training mode.
    backend : Backend
        Where what flows lives.
    """

    opset: int
    outputs: int
    training: bool
    backend: Backend

    def tensor(self, value: Value) -> Tensor:
        """Return an input as a tensor where the others live."""
        return value if isinstance(value, Tensor) else Tensor(self.backend.asarray(value))

    def known(self, value: Value) -> Array:
        """Return the numbers of an input; what flows can be read in eager execution only.

        Raises
        ------
        GraphError
            If the network is being traced: its plan would hold for these numbers alone. If it is
            being trained: gradients don't pass this way.
        """
        if isinstance(value, Tensor) and value.requires_grad and is_grad_enabled():
            raise GraphError(
                "no gradient passes through it: freeze what is before it, or use no_grad()"
            )
        return value.numpy() if isinstance(value, Tensor) else value

    def ints(self, value: Value, what: str) -> Ints:
        """Return a known list of integers."""
        array = self.known(value)
        if array.dtype.kind not in "iu" or array.ndim > 1:
            raise OnnxError(
                f"its {what} must be a list of integers, got {array.dtype} of shape {array.shape}"
            )
        return tuple(int(n) for n in array.reshape(-1))

    def number(self, value: Value, what: str) -> Any:
        """Return a known number."""
        array = self.known(value)
        if array.size != 1:
            raise OnnxError(f"its {what} must be one number, got shape {array.shape}")
        return array.reshape(()).item()

    def sized(self, shape: Shape) -> Shape:
        """Return a shape that isn't too large."""
        if any(n < 0 for n in shape) or math.prod(shape) > MOST_ELEMENTS:
            raise OnnxError(
                f"it would make an array of shape {shape}: at most {MOST_ELEMENTS:,} elements are "
                "taken"
            )
        return shape

    def broadcast(self, *shapes: Shape) -> Shape:
        """Return the shape that several have in common, one that isn't too large."""
        try:
            full = np.broadcast_shapes(*shapes)
        except ValueError:
            listed = " and ".join(map(str, shapes))
            raise OnnxError(f"shapes {listed} can't be broadcast together") from None
        return self.sized(full)

    def axis(self, axis: int, ndim: int) -> int:
        """Return an axis counted from the front."""
        if not -ndim <= axis < ndim:
            raise OnnxError(f"axis {axis} is out of range for {ndim} dimensions")
        return axis % ndim


@dataclass(frozen=True)
class Operator:
    """A row of the table.

    Attributes
    ----------
    name : str
        The operator's type.
    function : callable
        ``function(call, *inputs, **attributes)`` returns an output or a tuple of them.
    least, most : int
        How many inputs there may be.
    outputs : int
        How many outputs there may be.
    attributes : dict
        For each attribute the ONNX type number that it has.
    required : frozenset of str
        The attributes that can't be missing.
    parameters, buffers : mapping of int to str
        The inputs that are learned or kept, where they are constants of the file, with the name
        that torch's layer has for them.
    single : bool
        Whether a parameter of one element is learned too.
    refuse : callable or None
        Returns why the operator can't be run with such attributes, or None if it can.
    """

    name: str
    function: Callable[..., Any]
    least: int
    most: int
    outputs: int
    attributes: dict[str, int]
    required: frozenset[str]
    parameters: Mapping[int, str] = field(default_factory=dict)
    buffers: Mapping[int, str] = field(default_factory=dict)
    single: bool = True
    refuse: Callable[[dict[str, Any]], str | None] | None = None


OPERATORS: dict[str, Operator] = {}


def operator(
    name: str,
    outputs: int = 1,
    parameters: Mapping[int, str] | None = None,
    buffers: Mapping[int, str] | None = None,
    single: bool = True,
    refuse: Callable[[dict[str, Any]], str | None] | None = None,
) -> Callable[[Function], Function]:
    """Enter the decorated function into the table."""

    def enter(function: Function) -> Function:
        _, *arguments = inspect.signature(function).parameters.values()
        places = [a for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD]
        variadic = any(a.kind is a.VAR_POSITIONAL for a in arguments)
        settings = [a for a in arguments if a.kind is a.KEYWORD_ONLY]
        OPERATORS[name] = Operator(
            name,
            function,
            sum(a.default is a.empty for a in places),
            10_000 if variadic else len(places),
            outputs,
            {a.name: _KINDS[str(a.annotation).removesuffix(" | None")] for a in settings},
            frozenset(a.name for a in settings if a.default is a.empty),
            parameters or {},
            buffers or {},
            single,
            refuse,
        )
        return function

    return enter
