"""Numbers on the command line, checked where argparse can name the option."""

from __future__ import annotations

import argparse
import math

__all__ = ["positive_float", "positive_int", "whole"]


def positive_int(text: str) -> int:
    """Return an integer of at least 1."""
    return _integer(text, 1)


def whole(text: str) -> int:
    """Return an integer of at least 0."""
    return _integer(text, 0)


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text!r}")
    return value


def positive_float(text: str) -> float:
    """Return a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value
