"""Where mypy holds each kernel set to the contract; nothing happens here at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npresnet_kernels import cpu, gpu, reference
    from npresnet_kernels.contract import KernelSet

    REFERENCE: KernelSet = reference
    CPU: KernelSet = cpu
    GPU: KernelSet = gpu
