"""Fuse convolution + max pool: for inference, where a kernel does both without the map between.

That map is a stem's largest: of ResNet's 17 MB an image that pass through memory in 16 bits, 3.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet.engine.graph import Graph, Node
from npresnet.engine.kernels import PlanKernels, recorded_kernels
from npresnet.engine.operations import ConvEpilogue, PooledConv, conv_shape, max_window

__all__ = ["fuse_pool"]


def fuse_pool(graph: Graph, kernels: PlanKernels | None, dtype: np.dtype[Any]) -> Graph:
    """Return the graph with convolutions that take the max pool behind them in.

    Parameters
    ----------
    graph : Graph
        With an algorithm chosen for each convolution.
    kernels : PlanKernels or None
        Asked for each pair whether it is to be one kernel.
    dtype : dtype
        What maps are kept in.
    """
    offered = recorded_kernels(kernels)
    if offered is None:
        return graph
    uses, producers = graph.uses(), graph.producers()
    fused: dict[Node, Node] = {}
    gone: set[Node] = set()
    for pool in graph.nodes:
        conv = producers.get(pool.inputs[0]) if pool.inputs[0] is not None else None
        window = max_window(pool)
        if conv is None or window is None or conv.operation is not ConvEpilogue:
            continue
        if window.square is None or pool.attributes["ceil_mode"]:
            continue
        *inputs, residual = conv.inputs
        if residual is not None or uses[conv.output] > 1:
            continue
        rule = conv.attributes
        if offered.fuses_pool(conv_shape(conv), rule["algorithm"], dtype, window.square):
            rule = {**rule, "pool": window.square}
            fused[pool] = Node(PooledConv, tuple(inputs), rule, pool.output)
            gone.add(conv)
    return graph.with_nodes(fused.get(n, n) for n in graph.nodes if n not in gone)
