"""The readers that are fuzzed, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz import image_files, onnx_files, weight_files

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """A reader of files from strangers.

    Attributes
    ----------
    seeds : callable
        Makes some valid files.
    mutate : callable
        Makes another file of one of them, by a generator of random numbers.
    read : callable
        Reads a file by its path.
    errors : tuple of exception types
        Those that `read` documents. Their messages are one line that names the file.
    suffix : str
        Of the file's name.
    """

    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, Random], bytes]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]
    suffix: str


TARGETS = {
    name: Target(**parts)
    for targets in (weight_files.TARGETS, image_files.TARGETS, onnx_files.TARGETS)
    for name, parts in targets.items()
}
