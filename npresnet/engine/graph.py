"""A network as data: the operations that eager execution runs, in order, and what flows between.

A :class:`Graph` is what a trace gives and what each pass takes and returns. Its nodes name the same
:class:`~npresnet.tape.Operation` classes that eager execution calls, so that any graph can be run
step by step through the kernel contract, whatever the passes made of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from npresnet.engine.batch import resolve
from npresnet.tape import Operation
from npresnet.tensor import Tensor

__all__ = [
    "BUFFER",
    "CONSTANT",
    "INPUT",
    "INTERMEDIATE",
    "PARAMETER",
    "Graph",
    "Node",
    "Value",
]

INPUT, PARAMETER, BUFFER = "input", "parameter", "buffer"
CONSTANT, INTERMEDIATE = "constant", "intermediate"

Size: TypeAlias = tuple[Any, ...]


@dataclass(eq=False)
class Value:
    """Something that flows along an edge of the graph.

    Attributes
    ----------
    shape : tuple
        Sizes; one that grows with the batch is a :class:`~npresnet.engine.batch.Multiple`.
    dtype : dtype
        Of the elements.
    kind : str
        ``"input"``, ``"parameter"``, ``"buffer"``, ``"constant"`` or ``"intermediate"``.
    name : str
        The dotted name of a parameter or buffer, else a number given in printing.
    source : Tensor or None
        Where the numbers of a parameter, buffer or constant live.
    needs_grad : bool
        Whether training wants its gradient.
    """

    shape: Size
    dtype: np.dtype[Any]
    kind: str = INTERMEDIATE
    name: str = ""
    source: Tensor | None = None
    needs_grad: bool = False

    def shape_at(self, batch: int) -> tuple[int, ...]:
        """Return the sizes for a batch of so many images."""
        shape: tuple[int, ...] = resolve(self.shape, batch)
        return shape

    def bytes_at(self, batch: int) -> int:
        """Return the memory that it takes for a batch of so many images."""
        return math.prod(self.shape_at(batch)) * self.dtype.itemsize

    def __repr__(self) -> str:
        sizes = ", ".join(str(n) for n in self.shape)
        return f"{self.name or '?'}: {self.dtype} ({sizes}{',' if len(self.shape) == 1 else ''})"


@dataclass(eq=False)
class Node:
    """One operation.

    Attributes
    ----------
    operation : type
        An :class:`~npresnet.tape.Operation`.
    inputs : tuple of Value or None
        In the order of its forward.
    attributes : dict
        Its keyword arguments; numbers that grow with the batch are Multiples.
    output : Value
        What it makes.
    """

    operation: type[Operation]
    inputs: tuple[Value | None, ...]
    attributes: dict[str, Any]
    output: Value

    def replaced(self, values: dict[Value, Value]) -> Node:
        """Return a node that reads ``values[v]`` wherever this one reads ``v``."""
        inputs = tuple(None if v is None else values.get(v, v) for v in self.inputs)
        return Node(self.operation, inputs, self.attributes, self.output)


@dataclass(eq=False)
class Graph:
    """Nodes in an order in which they can run.

    Attributes
    ----------
    inputs, outputs : list of Value
        What goes in and comes out.
    nodes : list of Node
        Each reads only inputs, parameters, buffers, constants and outputs of earlier nodes.
    batch : int or None
        The batch that was traced; None if sizes are given as multiples of it.
    counters : list of (Tensor, int)
        Buffers that a run moves by a constant: the ``num_batches_tracked`` of training.
    rebuild : callable
        Makes the model's return value (a tensor, a tuple, a dict) of the list of outputs.
    """

    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node]
    batch: int | None = None
    counters: list[tuple[Tensor, int]] = field(default_factory=list)
    rebuild: Callable[[list[Any]], Any] = field(default=lambda outputs: outputs[0])

    def with_nodes(self, nodes: Iterable[Node], outputs: list[Value] | None = None) -> Graph:
        """Return the graph with other nodes (and outputs): what a pass gives back."""
        return Graph(
            self.inputs,
            self.outputs if outputs is None else outputs,
            list(nodes),
            self.batch,
            self.counters,
            self.rebuild,
        )

    def uses(self) -> Counter[Value]:
        """Return how often each value is read, by nodes and as an output."""
        read = Counter(v for node in self.nodes for v in node.inputs if v is not None)
        read.update(self.outputs)
        return read

    def producers(self) -> dict[Value, Node]:
        """Return the node that makes each value."""
        return {node.output: node for node in self.nodes}

    def outside(self) -> list[Value]:
        """Return the parameters, buffers and constants that nodes read, each once."""
        found = dict.fromkeys(
            v for node in self.nodes for v in node.inputs if v is not None and v.source is not None
        )
        found.update(dict.fromkeys(v for v in self.outputs if v.source is not None))
        return list(found)

    def constants(self) -> list[Tensor]:
        """Return the tensors that :meth:`outside` stands for."""
        return [v.source for v in self.outside() if v.source is not None]

    def __str__(self) -> str:
        names: dict[Value, str] = {}
        for value in self.inputs:
            names[value] = value.name or "x"
        for value in self.outside():
            names[value] = value.name or "constant"
        for number, node in enumerate(self.nodes):
            names[node.output] = f"%{number}"

        def typed(value: Value) -> str:
            return f"{names[value]}: {value.dtype}[{', '.join(str(n) for n in value.shape)}]"

        lines = [f"graph({', '.join(typed(v) for v in self.inputs)}):"]
        for node in self.nodes:
            arguments = ["None" if v is None else names[v] for v in node.inputs]
            arguments += [f"{k}={_short(v)}" for k, v in node.attributes.items()]
            lines.append(f"  {typed(node.output)} = {node.operation.name}({', '.join(arguments)})")
        lines.append(f"  return {', '.join(names[v] for v in self.outputs)}")
        return "\n".join(lines)


def _short(value: Any) -> str:
    """Return an attribute as text, arrays by their shape."""
    if isinstance(value, np.ndarray):
        return f"array{value.shape}"
    if isinstance(value, tuple) and type(value) is tuple:
        return f"({', '.join(_short(v) for v in value)}{',' if len(value) == 1 else ''})"
    return str(value)
