"""Fuse convolution + bias + residual + ReLU: for inference.

The kernel adds the shortcut and clamps while the output's tile is still in the cache, which saves
writing and reading each activation twice.
"""

from __future__ import annotations

from npresnet.engine.graph import Graph
from npresnet.engine.operations import ConvEpilogue
from npresnet.engine.passes._tail import fuse_tail
from npresnet.functional.conv import Conv2d

__all__ = ["fuse_epilogue"]


def fuse_epilogue(graph: Graph) -> Graph:
    """Return the graph with convolutions that do their additions and ReLUs themselves."""
    return fuse_tail(graph, Conv2d, ConvEpilogue)
