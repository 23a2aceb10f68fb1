"""The thousand classes of ImageNet (ILSVRC 2012), in the order in which networks number them.

Names and their sources: ``files/README.md``.
"""

from __future__ import annotations

import functools
from importlib import resources

__all__ = ["imagenet_classes", "imagenet_wnids"]


def imagenet_classes() -> tuple[str, ...]:
    """Return the 1,000 names, no two alike: ``"tench"``, ``"goldfish"`` and so on."""
    return _table()[1]


def imagenet_wnids() -> tuple[str, ...]:
    """Return the 1,000 WordNet ids: ``"n01440764"`` and so on, the names of ImageNet's folders."""
    return _table()[0]


@functools.cache
def _table() -> tuple[tuple[str, ...], tuple[str, ...]]:
    source = resources.files(__package__).joinpath("files", "imagenet1k.tsv")
    rows = [line.split("\t") for line in source.read_text(encoding="utf-8").splitlines()]
    return tuple(wnid for wnid, _ in rows), tuple(name for _, name in rows)
