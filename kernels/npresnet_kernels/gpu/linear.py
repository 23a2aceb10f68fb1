"""Matrix products by cuBLAS, and the fully connected layer.

float32 products are exact unless :mod:`npresnet_kernels.gpu.precision` says TF32; float16 is summed
in float32.
"""

from __future__ import annotations

from npresnet_kernels.contract import Array
from npresnet_kernels.gpu.device import array_module
from npresnet_kernels.gpu.precision import products_in

__all__ = ["linear", "linear_grad_input", "linear_grad_weight", "matmul"]


def matmul(x: Array, y: Array, out: Array | None = None) -> Array:
    """Return x @ y; an empty sum is 0."""
    xp = array_module()
    with products_in(xp, x.dtype):
        product: Array = xp.matmul(x, y) if out is None else xp.matmul(x, y, out=out)
    return product


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """The product y = x W^T + bias."""
    y = matmul(x, weight.T)  # (M, I) (I, O): (M, O)
    if bias is not None:
        y += bias
    return y


def linear_grad_input(grad_output: Array, weight: Array) -> Array:
    """grad_x = grad_y W."""
    return matmul(grad_output, weight)  # (M, O) (O, I): (M, I)


def linear_grad_weight(grad_output: Array, x: Array) -> Array:
    """grad_W = grad_y^T x."""
    return matmul(grad_output.T, x)  # (O, M) (M, I): (O, I)
