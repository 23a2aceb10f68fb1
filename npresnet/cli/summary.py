"""``npresnet summary``: a network, layer by layer."""

from __future__ import annotations

import argparse

from npresnet.cli._network import add_network, network
from npresnet.cli._weights import FORMS_OF_WEIGHTS
from npresnet.inspect import summary
from npresnet.nn import init

__all__ = ["DESCRIPTION", "EPILOG", "HELP", "add_arguments", "run"]

HELP = "list the layers of a network"
DESCRIPTION = "Print a line a layer: output shape, parameters, multiply-adds."
EPILOG = f"""\
{FORMS_OF_WEIGHTS}
examples:
  npresnet summary resnet34
  npresnet summary resnet50 --input-size 3 320 320
  npresnet summary --weights runs/digits/best.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_network(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build or load the network and print its table."""
    with init.skip_random():  # no value shows in the table
        model, size = network(arguments)
    print(summary(model, arguments.input_size or size))
    return 0
