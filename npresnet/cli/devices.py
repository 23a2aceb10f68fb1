"""``npresnet devices``: where npresnet can compute on this machine."""

from __future__ import annotations

import argparse
import os
import platform

from npresnet.backend import cuda_devices
from npresnet.errors import BackendError

__all__ = ["DESCRIPTION", "EPILOG", "HELP", "add_arguments", "run"]

HELP = "list the processors and GPUs, and why one can't be used"
DESCRIPTION = "Print a line a device: the name --backend takes, what it is, its memory."
EPILOG = """\
example:
  npresnet devices
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: there are none."""


def run(arguments: argparse.Namespace) -> int:
    """Print the list."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"cpu    {platform.machine()}, {cores} processor{'' if cores == 1 else 's'}")
    try:
        devices = cuda_devices()
    except BackendError as error:
        print(f"gpu    none: {error}")
        return 0
    for device in devices:
        major, minor = device.capability
        print(
            f"gpu:{device.index}  {device.name}, compute capability {major}.{minor}, "
            f"{_gibibytes(device.free)} of {_gibibytes(device.total)} GiB free"
        )
        if device.problem is not None:
            print(f"       can't be used: {device.problem}")
    return 0


def _gibibytes(size: int) -> str:
    return f"{size / 2**30:.1f}"
