"""What both fusing passes do: an operation takes the addition and the ReLU behind it in."""

from __future__ import annotations

from collections import Counter

from npresnet.elementary import Add
from npresnet.engine.graph import Graph, Node, Value
from npresnet.functional.activation import ReLU
from npresnet.tape import Operation

__all__ = ["fuse_tail"]


def fuse_tail(graph: Graph, head: type[Operation], fused: type[Operation]) -> Graph:
    """Return the graph with every ``head`` made a ``fused``, which adds and clamps by itself.

    ``fused`` takes what ``head`` takes, then the residual (or None), and the attribute ``relu``.
    It stands where the last operation that it replaces stood: the residual may be computed after
    the head.
    """
    uses = graph.uses()
    made: dict[Value, Node] = {}  # what makes a value, as far as the graph is rewritten
    for node in graph.nodes:
        new: Node | None = None
        if node.operation is head:
            new = Node(fused, (*node.inputs, None), {**node.attributes, "relu": False}, node.output)
        elif node.operation is Add:
            new = _with_residual(node, fused, made, uses)
        elif node.operation is ReLU:
            before = _open(node.inputs[0], fused, made, uses)
            if before is not None:
                del made[before.output]
                new = Node(fused, before.inputs, {**before.attributes, "relu": True}, node.output)
        made[node.output] = new or node
    return graph.with_nodes(made.values())


def _open(
    value: Value | None, fused: type[Operation], made: dict[Value, Node], uses: Counter[Value]
) -> Node | None:
    """Return the fused node that makes a value which nobody else reads, if it can take more."""
    node = None if value is None or uses[value] > 1 else made.get(value)
    if node is None or node.operation is not fused or node.attributes["relu"]:
        return None
    return node


def _with_residual(
    node: Node, fused: type[Operation], made: dict[Value, Node], uses: Counter[Value]
) -> Node | None:
    """Take an addition into the node that makes one of its sides; the first if both could."""
    for value, other in (node.inputs, node.inputs[::-1]):
        before = _open(value, fused, made, uses)
        if before is None or before.inputs[-1] is not None or other is None:
            continue
        if other.shape == before.output.shape and other.dtype == before.output.dtype:
            del made[before.output]
            inputs = (*before.inputs[:-1], other)
            return Node(fused, inputs, before.attributes, node.output)
    return None
