"""Fuse batch norm + residual + ReLU: for training.

Forward then reads the convolution's output once and writes the activation once; backward finds out
where the ReLU passed, and both gradients, in the passes over memory that batch norm needs anyway.
"""

from __future__ import annotations

from npresnet.engine.graph import Graph
from npresnet.engine.operations import NormActivation
from npresnet.engine.passes._tail import fuse_tail
from npresnet.functional.norm import BatchNorm

__all__ = ["fuse_normalise"]


def fuse_normalise(graph: Graph) -> Graph:
    """Return the graph with batch norms that do their additions and ReLUs themselves."""
    return fuse_tail(graph, BatchNorm, NormActivation)
