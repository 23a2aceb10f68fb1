"""The metrics file: a JSON object a line, a line an epoch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from npresnet.errors import DataError
from npresnet.weights import write_text

__all__ = ["read_metrics", "write_metrics"]


def write_metrics(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace the file by these rows, whole or not at all.

    The whole file is written each time: it is small, and appending could leave half a line.
    """
    lines = [json.dumps({k: _finite(v) for k, v in row.items()}) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a metrics file.

    Raises
    ------
    DataError
        It is missing, or a line isn't a JSON object.
    """
    name = os.fspath(path)
    rows: list[dict[str, Any]] = []
    try:
        with open(name, encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("not an object")
                    rows.append(row)
    except FileNotFoundError:
        raise DataError(f"there is no metrics file {name!r}: check the run folder") from None
    except OSError as error:
        raise DataError(f"can't read {name!r}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DataError(
            f"entry {len(rows) + 1} of {name!r} isn't a JSON object: expected a line an epoch"
        ) from None
    return rows


def _finite(value: Any) -> Any:
    """JSON has no word for NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
