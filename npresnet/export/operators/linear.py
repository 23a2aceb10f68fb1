"""Matrix products: Gemm and MatMul."""

from __future__ import annotations

from npresnet import functional as F
from npresnet.errors import OnnxError
from npresnet.export.operators.registry import Call, Value, operator
from npresnet.tensor import Tensor

__all__ = ["gemm", "matmul"]


@operator("Gemm", parameters={1: "weight", 2: "bias"})
def gemm(
    call: Call,
    a: Value,
    b: Value,
    c: Value | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """Alpha * A' B' + beta * C; a linear layer where it is one."""
    a, b = call.tensor(a), call.tensor(b)
    if a.ndim != 2 or b.ndim != 2:
        raise OnnxError(f"expected two matrices, got shapes {a.shape} and {b.shape}")
    bias = None if c is None else call.tensor(c)
    rows = a.T if transA else a
    weight = b if transB else b.T
    floats = rows.is_floating_point()
    if floats and alpha == 1 and beta == 1 and bias is not None and bias.shape == weight.shape[:1]:
        return F.linear(rows, weight, bias)
    product = F.linear(rows, weight) if floats else rows @ weight.T
    if alpha != 1:
        product = product * alpha
    if bias is None or beta == 0:
        return product
    return product + (bias if beta == 1 else bias * beta)


@operator("MatMul", parameters={1: "weight"})
def matmul(call: Call, a: Value, b: Value) -> Tensor:
    """NumPy's matmul; a linear layer where the second is a matrix of the same floats."""
    a, b = call.tensor(a), call.tensor(b)
    if b.ndim == 2 and a.ndim > 1 and a.is_floating_point() and a.dtype == b.dtype:
        return F.linear(a, b.T)
    return a @ b
