"""Gather batch norm's statistics in the convolution before it: for training.

The convolution has each output in the cache when it is done; summing there saves a pass over
memory. The sums travel beside the output, to the one batch norm that reads it.
"""

from __future__ import annotations

from npresnet.engine.graph import Graph, Node
from npresnet.engine.operations import ConvEpilogue, NormActivation
from npresnet.functional.conv import Conv2d

__all__ = ["fuse_statistics"]


def fuse_statistics(graph: Graph) -> Graph:
    """Return the graph with convolutions that sum up what batch norm behind them asks for."""
    uses = graph.uses()
    asked = {
        node.inputs[0]
        for node in graph.nodes
        if node.operation is NormActivation and node.attributes["training"]
    }
    nodes = []
    for node in graph.nodes:
        if node.operation is Conv2d:
            statistics = node.output in asked and uses[node.output] == 1
            attributes = {**node.attributes, "relu": False, "statistics": statistics}
            node = Node(ConvEpilogue, (*node.inputs, None), attributes, node.output)
        nodes.append(node)
    return graph.with_nodes(nodes)
