"""Sizes that grow with the batch, found by comparing two traces.

A model may write ``x.view(x.shape[0], -1)``: then the batch that was traced stands in the graph as
a plain number. The same model traced with one image more tells which numbers those are: a number
that is ``k * n`` in one trace and ``k * (n + 1)`` in the other becomes a :class:`Multiple`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Mismatch", "Multiple", "generalise", "grows", "resolve"]


class Mismatch(Exception):
    """Two traces differ by more than sizes that are multiples of the batch."""


@dataclass(frozen=True)
class Multiple:
    """``factor`` times the batch."""

    factor: int

    def __str__(self) -> str:
        return "N" if self.factor == 1 else f"{self.factor}*N"


def generalise(one: Any, other: Any, batch: int) -> Any:
    """Return what ``one`` (traced at ``batch``) and ``other`` (at ``batch + 1``) have in common.

    Raises
    ------
    Mismatch
        If they differ otherwise than a multiple of the batch does.
    """
    if isinstance(one, tuple | list) and type(one) is type(other) and len(one) == len(other):
        parts = [generalise(a, b, batch) for a, b in zip(one, other, strict=True)]
        return type(one)(parts) if type(one) in (tuple, list) else type(one)(*parts)
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return {key: generalise(one[key], other[key], batch) for key in one}
    if isinstance(one, slice) and isinstance(other, slice):
        ends = (one.start, one.stop, one.step), (other.start, other.stop, other.step)
        return slice(*generalise(*ends, batch))
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        a, b = np.asarray(one), np.asarray(other)
        if a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all()):
            return one
        raise Mismatch
    if type(one) is type(other) and (one == other or (one != one and other != other)):
        return one
    if type(one) is int and type(other) is int and one == (other - one) * batch:
        return Multiple(other - one)
    raise Mismatch


def resolve(template: Any, batch: int) -> Any:
    """Return ``template`` with every Multiple worked out for a batch."""
    if isinstance(template, Multiple):
        return template.factor * batch
    if type(template) in (tuple, list):
        return type(template)(resolve(part, batch) for part in template)
    if isinstance(template, dict):
        return {key: resolve(part, batch) for key, part in template.items()}
    if isinstance(template, slice):
        return slice(*resolve((template.start, template.stop, template.step), batch))
    return template


def grows(template: Any) -> bool:
    """Return whether there is a Multiple in ``template``."""
    if isinstance(template, dict):
        return any(grows(part) for part in template.values())
    if isinstance(template, slice):
        return grows((template.start, template.stop, template.step))
    if type(template) in (tuple, list):
        return any(grows(part) for part in template)
    return isinstance(template, Multiple)
