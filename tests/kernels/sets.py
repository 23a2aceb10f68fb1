"""The kernel sets that tests run over; the gpu set runs on the host (see tests/shim)."""

from __future__ import annotations

from npresnet_kernels import cpu, reference
from npresnet_kernels.contract import KernelSet
from tests.shim import build
from tests.shim.on_host import gpu_on_host

SETS: dict[str, KernelSet] = {"reference": reference, "cpu": cpu}
if build.compiler() is not None:
    SETS["gpu"] = gpu_on_host
