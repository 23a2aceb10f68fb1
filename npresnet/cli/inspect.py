"""``npresnet inspect``: what a weight file holds, without building a model."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import numpy as np

from npresnet.cli._weights import FORMS_OF_WEIGHTS
from npresnet.weights import WeightFile, find_weights, open_weights
from npresnet.weights.stored import StoredArray

__all__ = ["DESCRIPTION", "EPILOG", "HELP", "add_arguments", "run"]

HELP = "list what a weight file holds"
DESCRIPTION = """\
List the arrays of a weight file (.safetensors, torch's .pth or .pt, .npz): name, dtype in the file,
shape, and least, greatest, mean and standard deviation of the finite values. No model is built, and
nothing in the file is run."""
EPILOG = f"""\
{FORMS_OF_WEIGHTS}
examples:
  npresnet inspect resnet34-b627a593.pth
  npresnet inspect --json runs/digits/best.safetensors
"""
_WIDEST_TEXT = 70  # of metadata in the table
_STATISTICS = ("min", "max", "mean", "std")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", help="the weight file, or its name, see below")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Look at one array after the other, and print."""
    file = open_weights(find_weights(arguments.file).path)
    rows = [{"name": name, **_describe(array)} for name, array in file.items()]
    print(_json(file, rows) if arguments.json else _text(file, rows))
    return 0


def _describe(array: StoredArray) -> dict[str, Any]:
    """Return dtype, shape and statistics; of values that aren't finite the number only."""
    with array.borrowed() as values:
        wide = values.astype(np.float64).ravel()
    finite = wide[np.isfinite(wide)]
    numbers = (
        [float(f(finite)) for f in (np.min, np.max, np.mean, np.std)] if finite.size else [None] * 4
    )
    return {
        "dtype": array.stored,
        "shape": list(array.shape),
        **dict(zip(_STATISTICS, numbers, strict=True)),
        "not_finite": int(wide.size - finite.size),
    }


def _json(file: WeightFile, rows: list[dict[str, Any]]) -> str:
    return json.dumps(
        {
            "path": file.path,
            "bytes": file.size,
            "format": file.format,
            "part": file.part,
            "prefix": file.prefix,
            "metadata": file.metadata,
            "arrays": rows,
        }
    )


def _text(file: WeightFile, rows: list[dict[str, Any]]) -> str:
    lines = [f"{file.path}: {file.format}, {file.size:,} bytes"]
    if file.part:
        lines.append(f"taken from its {file.part!r}")
    if file.prefix:
        lines.append(f"prefix taken off: {file.prefix}")
    for key, text in file.metadata.items():
        short = text if len(text) <= _WIDEST_TEXT else f"{text[:_WIDEST_TEXT]}..."
        lines.append(f"{_printable(key)}: {_printable(short)}")
    table = [["name", "dtype", "shape", *_STATISTICS, ""]]
    for row in rows:
        odd = f"{row['not_finite']:,} not finite" if row["not_finite"] else ""
        numbers = ["-" if row[k] is None else f"{row[k]:.4g}" for k in _STATISTICS]
        shape = "x".join(map(str, row["shape"])) or "scalar"
        table.append([_printable(row["name"]), row["dtype"], shape, *numbers, odd])
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    lines.append("")
    for cells in table:
        left = [f"{cell:{width}}" for cell, width in zip(cells[:3], widths[:3], strict=True)]
        right = [f"{cell:>{width}}" for cell, width in zip(cells[3:], widths[3:], strict=True)]
        lines.append("  ".join(left + right).rstrip())
    count = sum(math.prod(row["shape"]) for row in rows)
    lines += ["", f"{len(rows)} arrays, {count:,} numbers"]
    return "\n".join(lines)


def _printable(text: str) -> str:
    """Leave out what could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
