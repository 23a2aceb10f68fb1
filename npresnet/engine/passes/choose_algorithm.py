"""Choose how each convolution is computed, by its shape alone.

Never by batch or threads, and never by timing: an image gets the same bits alone, in any batch,
today and tomorrow. The choice itself is the kernels' (they know vector widths and caches).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet.engine.graph import Graph, Node
from npresnet.engine.kernels import PlanKernels
from npresnet.engine.operations import ConvEpilogue, conv_shape
from npresnet.errors import RangeError

__all__ = ["ALGORITHMS", "choose_algorithm", "uses_winograd"]

ALGORITHMS = ("auto", "im2col", "direct", "winograd", "wgmma")

FLOAT32 = np.dtype(np.float32)


def choose_algorithm(
    graph: Graph,
    kernels: PlanKernels | None,
    asked: str = "auto",
    dtype: np.dtype[Any] = FLOAT32,
    training: bool = False,
) -> Graph:
    """Return the graph with the attribute ``algorithm`` set in every convolution.

    Parameters
    ----------
    graph : Graph
        With convolutions made :class:`~npresnet.engine.operations.ConvEpilogue`.
    kernels : PlanKernels or None
        None (no fast kernels for this dtype and backend): im2col everywhere.
    asked : str
        ``"auto"``, or an algorithm to use wherever it can be: ``"winograd"`` where the kernel is
        3x3 and the stride 1, ``"direct"`` without dilation and groups; im2col always can.
        ``"wgmma"``, of GPUs with compute capability 9.0, needs 16 bits and whole 64 channels.
    dtype : dtype
        What maps are kept in.
    training : bool
        Whether weights change from call to call.

    Raises
    ------
    RangeError
        If there is no such algorithm, or not on this backend.
    """
    if asked not in ALGORITHMS:
        raise RangeError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {asked!r}")
    if asked == "wgmma" and (kernels is None or asked not in kernels.OWN_ALGORITHMS):
        raise RangeError(
            'algorithm "wgmma" needs a GPU and precision "fp16" or "bf16": use "auto", which is '
            "the fastest that is known here"
        )

    def chosen(node: Node) -> Node:
        if node.operation is not ConvEpilogue:
            return node
        algorithm = "im2col"
        if kernels is not None and asked != "im2col":
            algorithm = kernels.choose_algorithm(conv_shape(node), asked, dtype, training)
        rule = {**node.attributes, "algorithm": algorithm}
        return Node(node.operation, node.inputs, rule, node.output)

    return graph.with_nodes(map(chosen, graph.nodes))


def uses_winograd(graph: Graph) -> bool:
    """Return whether a convolution is computed by transforms, which mix neighbouring pixels."""
    return any(n.attributes.get("algorithm", "").startswith("winograd") for n in graph.nodes)
