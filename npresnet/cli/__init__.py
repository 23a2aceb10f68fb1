"""The ``npresnet`` command: a file a subcommand.

Exit status: 0 if all went well, 2 after an error (one line on standard error, never a traceback),
130 after an interrupt.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import npresnet
from npresnet.cli import convert, devices, evaluate, export, inspect, predict, summary, train
from npresnet.errors import NpresnetError

__all__ = ["main"]

_COMMANDS = (train, predict, evaluate, summary, inspect, convert, export, devices)


class _Parser(argparse.ArgumentParser):
    """Keeps the line breaks of epilogs."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="npresnet",
        description="Residual networks on arrays: train, predict, evaluate, look inside.",
        epilog="'npresnet COMMAND --help' says more about a command.\n\nexample:\n"
        "  npresnet train digits --out runs/digits\n"
        "  npresnet predict --weights runs/digits/best.safetensors some.png",
    )
    parser.add_argument("--version", action="version", version=f"npresnet {npresnet.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        command = commands.add_parser(
            module.__name__.rpartition(".")[2],
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog=module.EPILOG,
        )
        module.add_arguments(command)
        if module is not devices:  # it computes nothing
            command.add_argument(
                "--backend",
                metavar="NAME",
                help="where to compute: cpu (default), reference (plain NumPy), gpu or gpu:N",
            )
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process if None.

    Returns
    -------
    int
        The exit status.
    """
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a file name or a class that the terminal's encoding lacks is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _run(arguments)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Write a warning as the command's own line, without the place in the code."""
    print(f"npresnet: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _run(arguments: argparse.Namespace) -> int:
    """Run a command; turn what it raises into a line and a status."""
    try:
        if hasattr(arguments, "backend"):
            if arguments.backend is not None:
                npresnet.set_backend(arguments.backend)
            npresnet.get_backend()  # one that the environment names wrongly is found out first
        status = int(arguments.run(arguments))
        sys.stdout.flush()  # a closed pipe shows here rather than at exit
        return status
    except BrokenPipeError:  # the reader, head for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as interrupt:
        print(f"\nnpresnet: {interrupt or 'interrupted'}", file=sys.stderr)
        return 130
    except (NpresnetError, OSError, MemoryError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"npresnet: error: {text}", file=sys.stderr)
        return 2
