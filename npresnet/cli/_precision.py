"""The option that says what a network is computed in."""

from __future__ import annotations

import argparse

from npresnet.backend import PRECISIONS

__all__ = ["add_precision"]


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Declare the argument."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="what to compute in: float32 (fp32, default); on a GPU also TF32 products, or 16-bit "
        "activations (weights stay float32)",
    )
