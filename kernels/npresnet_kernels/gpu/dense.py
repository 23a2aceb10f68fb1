"""The linear layer of a plan: a convolution of 1x1 maps, with float32 on its outer side."""

from __future__ import annotations

from typing import Any

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.convolution import Convolution
from npresnet_kernels.shapes import ConvShape

__all__ = ["Dense"]


class Dense:
    """A linear layer's shape; it knows neither batch nor weights.

    What it gives and the gradient it gets are float32, so that logits and losses are; x may be
    float32 or of the dtype, in which the products' operands are. Neither number of features needs
    to be whole vectors. Nothing allocates or waits, as in :class:`Convolution`.

    Parameters
    ----------
    in_features, out_features : int
        Columns of x and y.
    dtype : dtype
        As in :class:`Convolution`, and so is what it raises.
    """

    def __init__(self, in_features: int, out_features: int, dtype: Any) -> None:
        layer = ConvShape((in_features, 1, 1), (out_features, in_features, 1, 1))
        self._convolution = Convolution(layer, dtype)
        self.packed_size = self._convolution.packed_size
        self.packed_grad_size = self._convolution.packed_grad_size

    def scratch_floats(self, threads: int, training: bool = False, batch: int = 1) -> int:
        """Return how many float32 of scratch the calls need for a batch, or a smaller one."""
        return self._convolution.scratch_floats(threads, training, batch, converts=True)

    def pack(self, weight: Array, out: Array | None = None) -> Array:
        """Return weights (O, I) as ``forward`` reads them."""
        return self._convolution.pack(weight, out)

    def pack_grad_input(self, weight: Array, out: Array | None = None) -> Array:
        """Return weights as ``grad_input`` reads them."""
        return self._convolution.pack_grad_input(weight, out)

    def forward(
        self, x: Array, packed: Array, y: Array, scratch: Array, bias: Array | None = None
    ) -> None:
        """Write y = x W^T + bias: (N, I) to (N, O) float32."""
        self._convolution.forward(_maps(x), packed, _maps(y), scratch, bias)

    def grad_input(self, grad_y: Array, packed_grad: Array, grad_x: Array, scratch: Array) -> None:
        """Write the gradient of x, grad_y W."""
        self._convolution.grad_input(_maps(grad_y), packed_grad, _maps(grad_x), scratch)

    def grad_weight(self, x: Array, grad_y: Array, grad_weight: Array, scratch: Array) -> None:
        """Write the gradient of the weights, grad_y^T x: (O, I) float32."""
        filters = grad_weight.reshape(*grad_weight.shape, 1, 1)
        self._convolution.grad_weight(_maps(x), _maps(grad_y), filters, scratch)


def _maps(x: Array) -> Array:
    """(N, C) as (N, 1, 1, C)."""
    rows, columns = x.shape
    return x.reshape(rows, 1, 1, columns)
