"""A network's table: what each layer puts out, how many parameters it has, how much it computes.

The network is run once on zeros and watched. Which layer is at work, the modules' hooks tell; how
many multiply-adds it does, the operations themselves, so that a convolution written as a function
in somebody's ``forward`` is counted too.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npresnet.backend import for_arrays, use_backend
from npresnet.errors import RangeError
from npresnet.nn import Module
from npresnet.tape import Operation, no_grad, tracing
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array, Shape

__all__ = ["Row", "Summary", "summary"]


@dataclass
class Row:
    """One call of a layer.

    Attributes
    ----------
    name : str
        Dotted name, as in the state dict; the network itself is called by its type.
    type : str
        The layer's class.
    output_shape : tuple of int or None
        Of its output (the first tensor, where it puts out several); None if it was not called.
    parameters : int
        Numbers that it can learn, 0 where an earlier row has counted them.
    multiply_adds : int
        Of convolutions and matrix products; additions, norms and pools count as nothing.
    """

    name: str
    type: str
    output_shape: Shape | None
    parameters: int
    multiply_adds: int


@dataclass
class Summary:
    """The table that `summary` makes; `print` shows it.

    Attributes
    ----------
    model : str
        The network's class.
    input_shape : tuple of int
        Shape that it was run on, the batch included.
    rows : list of Row
        In the order of the calls; a layer that is called twice has two.
    parameters : int
        All that the network can learn, each counted once.
    multiply_adds : int
        Of all rows.
    """

    model: str
    input_shape: Shape
    rows: list[Row]
    parameters: int
    multiply_adds: int

    def __str__(self) -> str:
        head = ("layer", "type", "output shape", "parameters", "multiply-adds")
        total = ("total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}")
        cells = [(r.name, r.type, *_numbers(r)) for r in self.rows]
        widths = [max(map(len, column)) for column in zip(head, total, *cells, strict=True)]
        line = "-" * (sum(widths) + 2 * (len(widths) - 1))

        def written(row: Sequence[str]) -> str:
            left = [text.ljust(width) for text, width in zip(row[:3], widths[:3], strict=True)]
            right = [text.rjust(width) for text, width in zip(row[3:], widths[3:], strict=True)]
            return "  ".join(left + right)

        title = f"{self.model} on an input of {_sizes(self.input_shape)}"
        body = [written(row) for row in cells]
        sums = f"{_short(self.parameters)} parameters, {_short(self.multiply_adds)} multiply-adds"
        return "\n".join([title, "", written(head), line, *body, line, written(total), "", sums])


def summary(model: Module, input_shape: Sequence[int]) -> Summary:
    """Describe a network layer by layer.

    Parameters
    ----------
    model : Module
        Any network of one input. It is run once in evaluation mode, without gradients; its modes,
        hooks and buffers are left as they were.
    input_shape : sequence of int
        (C, H, W) of one image, or (N, C, H, W); other lengths are taken as one item, without its
        batch.

    Returns
    -------
    Summary
        Rows and totals; ``str`` of it is an aligned table.

    Raises
    ------
    RangeError
        A size isn't a positive int.
    ShapeError, and whatever the network raises
        The input doesn't fit it.

    Examples
    --------
    >>> import npresnet as nr
    >>> from npresnet.inspect import summary
    >>> summary(nr.resnet18(), (3, 224, 224)).multiply_adds
    1814073344
    """
    sizes = tuple(input_shape)
    if not sizes or not all(isinstance(n, int | np.integer) and n > 0 for n in sizes):
        raise RangeError(f"input_shape expected positive ints such as (3, 224, 224), got {sizes}")
    shape = tuple(int(n) for n in (sizes if len(sizes) == 4 else (1, *sizes)))
    watcher = _Watcher(model)
    with _as_it_was(model), watcher.watching(), no_grad():
        _run_on_zeros(model, shape)
    parameters = sum(p.data.size for p in model.parameters())
    rows = watcher.rows()
    return Summary(
        type(model).__name__, shape, rows, parameters, sum(row.multiply_adds for row in rows)
    )


def _run_on_zeros(model: Module, shape: Shape) -> None:
    """Run the model where its arrays live, on plain NumPy if that is main memory.

    One image takes the reference kernels less time than loading Numba's compiled ones.
    """
    arrays = [tensor.data for tensor in (*model.parameters(), *model.buffers())]
    floats = [array for array in arrays if array.dtype.kind == "f"]
    zeros = np.zeros(shape, dtype=floats[0].dtype if floats else np.float32)
    home = for_arrays(floats)
    with use_backend("reference" if home.owns(zeros) else home.name):
        model(Tensor(home.asarray(zeros)))


@dataclass
class _Call:
    """A module at work."""

    module: Module
    multiply_adds: int = 0
    output_shape: Shape | None = None


@dataclass
class _Watcher:
    """Notes every call of every module of a network, and what is computed in it."""

    model: Module
    calls: list[_Call] = field(default_factory=list)
    running: list[_Call] = field(default_factory=list)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Put the hooks in for a ``with`` block."""
        handles = []
        try:
            for module in self.model.modules():
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(self._leave))
            with tracing(self):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: Module, inputs: tuple[Any, ...]) -> None:
        self.running.append(_Call(module))
        self.calls.append(self.running[-1])

    def _leave(self, module: Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.running.pop().output_shape = _shape_of(output)

    def record(
        self,
        operation: type[Operation],
        inputs: tuple[Any, ...],
        attributes: dict[str, Any],
        output: Any,
    ) -> None:
        """Add an operation's multiply-adds to the innermost module at work."""
        count = _MULTIPLY_ADDS.get(operation.name)
        if count is not None and self.running:
            self.running[-1].multiply_adds += count(inputs, output)

    def rows(self) -> list[Row]:
        """Return a row for each call of a layer, then one for each layer that never was called.

        A module that only holds others is no layer, unless it has parameters or computes itself.
        """
        names = {id(module): name for name, module in self.model.named_modules()}
        counted: set[int] = set()
        called = {id(call.module) for call in self.calls}
        idle = [_Call(module) for module in self.model.modules() if id(module) not in called]
        rows = []
        for call in self.calls + idle:
            own = [p for p in call.module._parameters.values() if p is not None]
            is_layer = own or call.multiply_adds or not any(call.module.children())
            if not is_layer or (id(call.module) not in called and not own):
                continue
            fresh = [p for p in own if id(p) not in counted]
            counted.update(id(p) for p in fresh)
            kind = type(call.module).__name__
            rows.append(
                Row(
                    names[id(call.module)] or f"({kind})",
                    kind,
                    call.output_shape,
                    sum(p.data.size for p in fresh),
                    call.multiply_adds,
                )
            )
        return rows


def _convolution(inputs: tuple[Any, ...], output: Any) -> int:
    weight = inputs[1]  # (O, C / groups, kH, kW): each output is a sum over all but O
    return int(output.data.size * math.prod(weight.shape[1:]))


def _product(inputs: tuple[Any, ...], output: Any) -> int:
    return int(output.data.size) * int(inputs[0].shape[-1])


# By the operations' names; everything else is counted as nothing, as is the custom.
_MULTIPLY_ADDS: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "conv2d": _convolution,
    "linear": _product,
    "matmul": _product,
}


def _copy(array: Array) -> Array:
    with for_arrays([array]).scope():
        return array.copy()


@contextlib.contextmanager
def _as_it_was(model: Module) -> Iterator[None]:
    """Set evaluation mode; on leaving, put back every module's mode and every buffer's values."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module._buffers, name, tensor, tensor.data, _copy(tensor.data))
        for module in model.modules()
        for name, tensor in module._buffers.items()
        if tensor is not None
    ]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for table, name, tensor, array, values in buffers:
            with for_arrays([array]).scope():
                array[...] = values
            tensor.data = array
            table[name] = tensor


def _shape_of(output: Any) -> Shape | None:
    """Shape of a tensor, or of the first one in a tuple, list or dict."""
    if isinstance(output, Tensor):
        return output.shape
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, tuple | list):
        return next(filter(None, map(_shape_of, output)), None)
    return None


def _numbers(row: Row) -> tuple[str, str, str]:
    shape = "not called" if row.output_shape is None else _sizes(row.output_shape)
    return (
        shape,
        f"{row.parameters:,}" if row.parameters else "-",
        f"{row.multiply_adds:,}" if row.multiply_adds else "-",
    )


def _sizes(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _short(number: int) -> str:
    """Three digits and a unit: 21.8 million, 3.66 billion."""
    for unit, name in ((10**9, " billion"), (10**6, " million"), (10**3, " thousand")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return str(number)
