"""Fold batch norm into the convolution before it: for inference.

In evaluation batch norm multiplies and shifts each channel by constants, and so does a convolution
whose weight and bias are changed accordingly. The new weight and bias are nodes of the graph too;
they depend on parameters alone, so a plan works them out when the parameters change.
"""

from __future__ import annotations

from npresnet.engine.graph import Graph, Node, Value
from npresnet.engine.operations import FoldedBias, FoldedWeight
from npresnet.functional.conv import Conv2d
from npresnet.functional.norm import BatchNorm

__all__ = ["fold_batch_norm"]


def fold_batch_norm(graph: Graph) -> Graph:
    """Return the graph with every convolution + batch norm made one convolution."""
    uses, producers = graph.uses(), graph.producers()
    folded: dict[Node, list[Node]] = {}
    gone: set[Node] = set()
    for norm in graph.nodes:
        conv = producers.get(norm.inputs[0]) if norm.inputs[0] is not None else None
        if (
            norm.operation is not BatchNorm
            or norm.attributes["training"]
            or conv is None
            or conv.operation is not Conv2d
            or uses[conv.output] > 1
        ):
            continue
        folded[norm] = _folded(conv, norm)
        gone.add(conv)
    return graph.with_nodes(
        new for node in graph.nodes if node not in gone for new in folded.get(node, [node])
    )


def _folded(conv: Node, norm: Node) -> list[Node]:
    """Return the nodes that stand for a convolution and the batch norm behind it."""
    x, weight, bias = conv.inputs
    _, gamma, beta, mean, variance = norm.inputs
    assert weight is not None
    rule = {"eps": norm.attributes["eps"]}
    new_weight = Value(weight.shape, weight.dtype)
    new_bias = Value(weight.shape[:1], weight.dtype)
    return [
        Node(FoldedWeight, (weight, gamma, variance), rule, new_weight),
        Node(FoldedBias, (bias, gamma, beta, mean, variance), rule, new_bias),
        Node(Conv2d, (x, new_weight, new_bias), conv.attributes, norm.output),
    ]
