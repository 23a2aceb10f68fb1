"""The network that a command line names: what ``summary`` and ``export`` share."""

from __future__ import annotations

import argparse

from npresnet import models
from npresnet.cli._numbers import positive_int
from npresnet.cli._weights import add_weights
from npresnet.errors import RangeError
from npresnet.models.create import no_such_network
from npresnet.nn import Module
from npresnet.training import load_model
from npresnet.training.checkpoint import ARCHITECTURES

__all__ = ["add_network", "network"]


def add_network(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say which network it is."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="NAME",
        help="resnet34, resnet50d, resnext50_32x4d, ... or ResNet32",
    )
    add_weights(parser, "the network of these weights instead, see below", required=False)
    parser.add_argument(
        "--input-size",
        nargs=3,
        type=positive_int,
        metavar=("C", "H", "W"),
        help="channels, height and width of an image (default 3 224 224, or as the file says)",
    )
    parser.add_argument("--num-classes", type=positive_int, metavar="N", help="size of the output")
    parser.add_argument("--small-input", action="store_true", help="the stem for small images")


def network(arguments: argparse.Namespace) -> tuple[Module, tuple[int, int, int]]:
    """Return the network that the arguments name, and the image size that it is made for."""
    if arguments.weights is not None:
        if arguments.num_classes is not None or arguments.small_input:
            raise RangeError(
                "--weights says how the network is built: leave out --num-classes and --small-input"
            )
        model, settings = load_model(arguments.weights, arguments.model)
        steps = settings.preprocessing
        return model, (steps.channels, *steps.size)
    name = arguments.model
    if name is None:
        names = ", ".join([*ARCHITECTURES, "ResNet32"])
        raise RangeError(f"expected a network or --weights FILE; the networks are {names}")
    if name not in ARCHITECTURES and name != "ResNet32":
        raise RangeError(no_such_network(name))
    options = {} if arguments.num_classes is None else {"num_classes": arguments.num_classes}
    if name == "ResNet32":
        if arguments.small_input:
            raise RangeError("ResNet32 has one stem only: leave out --small-input")
        return models.ResNet32(**options), (3, 224, 224)
    channels = arguments.input_size[0] if arguments.input_size else 3
    build = ARCHITECTURES[name]
    model = build(in_chans=channels, small_input=arguments.small_input, **options)
    return model, (3, 32, 32) if arguments.small_input else (3, 224, 224)
