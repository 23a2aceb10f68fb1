"""What a plan asks of a backend beyond the contract: kernels that write into given memory.

Activations are (N, H, W, C), C-contiguous float32. A backend that has such kernels offers a module
of them as :attr:`npresnet.backend.Backend.plan_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from npresnet_kernels.contract import Array, Pair, Shape

__all__ = ["Convolution", "PlanKernels"]


class Convolution(Protocol):
    """A convolution of one layer's shape; it knows neither batch nor weights."""

    def scratch_floats(self, threads: int, training: bool = False) -> int:
        """Return how much scratch memory the calls below need."""
        ...

    def pack(self, weight: Array, out: Array | None = None) -> Array:
        """Return weights (O, I, k, k) as ``forward`` reads them."""
        ...

    def pack_grad_input(self, weight: Array, out: Array | None = None) -> Array:
        """Return weights as ``grad_input`` reads them."""
        ...

    def forward(
        self,
        x: Array,
        packed: Array,
        y: Array,
        scratch: Array,
        bias: Array | None = None,
        residual: Array | None = None,
        relu: bool = False,
        moments: Array | None = None,
    ) -> None:
        """Y = relu(conv(x) + bias + residual); ``moments`` (2, O) gets means and variances."""
        ...

    def grad_input(
        self,
        grad_y: Array,
        packed_grad: Array,
        grad_x: Array,
        scratch: Array,
        accumulate: bool = False,
    ) -> None:
        """Write the gradient of x, or add it to what is there."""
        ...

    def grad_weight(self, x: Array, grad_y: Array, grad_weight: Array, scratch: Array) -> None:
        """Write the gradient of the weights (O, I, k, k)."""
        ...


class PlanKernels(Protocol):
    """A module of plan kernels."""

    def choose_algorithm(
        self,
        maps: Shape,
        weight: Shape,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
        asked: str,
    ) -> str:
        """Return the algorithm for maps (C, H, W), ``"im2col"`` if only the contract's fits."""
        ...

    def convolution(
        self, maps: Shape, weight: Shape, stride: Pair, padding: Pair, algorithm: str
    ) -> Convolution:
        """Return the convolution of a layer's shape."""
        ...

    def thread_count(self) -> int:
        """Return how many threads kernels use now."""
        ...

    def to_channels_last(self, x: Array, out: Array) -> None:
        """Write (N, C, H, W), C-contiguous, as (N, H, W, C)."""
        ...

    def takes_max_pool(self, kernel_size: Pair, stride: Pair, padding: Pair) -> bool:
        """Return whether the max pools below can do this window."""
        ...

    def max_pool_forward(
        self,
        x: Array,
        y: Array,
        winners: Array | None,
        kernel_size: int,
        stride: int,
        padding: int,
    ) -> None:
        """Maximum over windows; ``winners`` (bytes) gets where it stood, for backward."""
        ...

    def max_pool_backward(
        self,
        grad_y: Array,
        winners: Array,
        grad_x: Array,
        kernel_size: int,
        stride: int,
        padding: int,
    ) -> None:
        """Gradient of :meth:`max_pool_forward`."""
        ...

    def average_pool_forward(self, x: Array, y: Array) -> None:
        """Mean over all pixels, (N, H, W, C) to (N, C)."""
        ...

    def average_pool_backward(self, grad_y: Array, grad_x: Array) -> None:
        """Gradient of :meth:`average_pool_forward`."""
        ...

    def moments(self, x: Array, out: Array | None = None) -> Array:
        """Mean and biased variance of each channel, (2, C) float64."""
        ...

    def batch_norm_forward(
        self,
        x: Array,
        mean: Array,
        variance: Array,
        gamma: Array,
        beta: Array,
        y: Array,
        residual: Array | None = None,
        relu: bool = False,
        eps: float = 1e-5,
    ) -> None:
        """Y = relu((x - mean) / sqrt(variance + eps) * gamma + beta + residual)."""
        ...

    def batch_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        mean: Array,
        variance: Array,
        gamma: Array,
        beta: Array,
        grad_x: Array,
        relu: bool = False,
        y: Array | None = None,
        grad_residual: Array | None = None,
        eps: float = 1e-5,
    ) -> tuple[Array, Array]:
        """Write the gradients of x and the residual; return those of gamma and beta.

        ``y`` is asked for if a residual was added before a ReLU. The gradient of the residual, or
        else that of x, may take the place of ``grad_y``.
        """
        ...

    def takes_update(self, *arrays: Array | None) -> bool:
        """Return whether the updates below can do these arrays."""
        ...

    sgd_update_: Callable[..., None]
    """The contract's, for arrays that it takes."""

    adamw_update_: Callable[..., None]
    """Likewise."""

    def announce(self) -> None:
        """Say on stderr that kernels are compiled, if none are kept from an earlier run."""
        ...
