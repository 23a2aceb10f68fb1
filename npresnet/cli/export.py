"""``npresnet export``: a network as an ONNX file."""

from __future__ import annotations

import argparse
import os

from npresnet.cli._network import add_network, network
from npresnet.cli._numbers import positive_int
from npresnet.cli._weights import FORMS_OF_WEIGHTS
from npresnet.export import export_onnx

__all__ = ["DESCRIPTION", "EPILOG", "HELP", "add_arguments", "run"]

HELP = "write a network as an ONNX file"
DESCRIPTION = "Write a network with its weights as an ONNX file that takes batches of any size."
EPILOG = f"""\
Without --weights the values are random: enough to measure another runtime with.

{FORMS_OF_WEIGHTS}
examples:
  npresnet export resnet34 resnet34.onnx --weights resnet34.pth
  npresnet export digits.onnx --weights runs/digits/best.safetensors --opset 17
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_network(parser)
    parser.add_argument("out", metavar="OUT.onnx", help="the file to make or replace")
    parser.add_argument(
        "--opset",
        type=positive_int,
        metavar="N",
        help="version of the operators (default: the newest that the installed onnx knows)",
    )
    parser.add_argument(
        "--fixed-batch", type=positive_int, metavar="N", help="take batches of N only"
    )
    parser.add_argument(
        "--no-fold", action="store_true", help="keep batch norm apart from the convolutions"
    )


def run(arguments: argparse.Namespace) -> int:
    """Build or load the network and write it."""
    model, size = network(arguments)
    shape = (arguments.fixed_batch or 1, *(arguments.input_size or size))
    export_onnx(
        model,
        arguments.out,
        shape,
        opset=arguments.opset,
        dynamic_batch=arguments.fixed_batch is None,
        fold=not arguments.no_fold,
    )
    values = f"weights of {arguments.weights}" if arguments.weights else "random weights"
    batch = arguments.fixed_batch or "N"
    sizes = " x ".join(map(str, (batch, *shape[1:])))
    megabytes = os.path.getsize(arguments.out) / 1e6
    print(f"written: {arguments.out} ({megabytes:.1f} MB), {values}, input {sizes}")
    return 0
