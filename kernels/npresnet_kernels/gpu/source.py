"""CUDA sources as text, with the local headers that they include put in place.

The text that goes to a compiler is whole, so that CuPy's disk cache, whose key is the text and the
options, notices an edited header.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["HERE", "kernel_names", "read_source", "with_headers"]

HERE = Path(__file__).parent

_INCLUDE = re.compile(r'^#include "([\w./]+)"\n', re.MULTILINE)
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(")


def read_source(*names: str) -> str:
    """Return the text of files here, each ``#include "..."`` replaced by that file, once.

    Comments mark where an included file begins and ends.
    """
    return with_headers("".join(_text(name) for name in names))


def with_headers(code: str) -> str:
    """Return a text whose ``#include "..."`` are replaced likewise."""
    seen = set()

    def included(match: re.Match[str]) -> str:
        header = match[1]
        if header in seen:
            return ""
        seen.add(header)
        inner = _INCLUDE.sub(included, _text(header))
        return f"// begin {header}\n{inner}// end {header}\n"

    return _INCLUDE.sub(included, code)


def _text(file: str) -> str:
    return (HERE / file).read_text(encoding="utf-8").replace("#pragma once\n", "")


def kernel_names(code: str) -> list[str]:
    """Return the names of the ``__global__`` functions that ``code`` defines."""
    return _KERNEL.findall(code)
