"""The operations behind Tensor's arithmetic and shapes: each forward beside its backward.

Two arrays are broadcast as NumPy does; :func:`sum_to` is the adjoint of broadcasting and brings a
gradient back to the shape of the input it belongs to.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet.tape import Context, Operation
from npresnet_kernels.contract import Array, Shape

__all__ = [
    "Abs",
    "Add",
    "Amax",
    "Cast",
    "Clamp",
    "Concatenate",
    "Copy",
    "Divide",
    "Exp",
    "Expand",
    "Index",
    "Log",
    "MatMul",
    "Multiply",
    "Negate",
    "Permute",
    "Power",
    "Reshape",
    "Subtract",
    "Sum",
    "sum_to",
]


def sum_to(grad: Array, shape: Shape) -> Array:
    """Sum ``grad`` over the axes along which ``shape`` was broadcast."""
    if grad.shape == shape:
        return grad
    leading = grad.ndim - len(shape)
    axes = tuple(range(leading)) + tuple(
        leading + i for i, n in enumerate(shape) if n == 1 and grad.shape[leading + i] != 1
    )
    total: Array = grad.sum(axis=axes, keepdims=True).reshape(shape)
    return total


class Add(Operation):
    """x + y."""

    name = "add"
    returns_views = True

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        ctx.save(x.shape, y.shape)
        return ctx.add(x, y)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array, Array]:
        x_shape, y_shape = ctx.saved
        return sum_to(grad, x_shape), sum_to(grad, y_shape)


class Subtract(Operation):
    """x - y."""

    name = "sub"
    returns_views = True

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        ctx.save(x.shape, y.shape)
        return x - y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array, Array]:
        x_shape, y_shape = ctx.saved
        return sum_to(grad, x_shape), sum_to(-grad, y_shape)


class Multiply(Operation):
    """x * y."""

    name = "mul"

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        ctx.save(x, y)
        return x * y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array | None, Array | None]:
        x, y = ctx.saved
        return (
            sum_to(grad * y, x.shape) if ctx.needs_grad[0] else None,
            sum_to(grad * x, y.shape) if ctx.needs_grad[1] else None,
        )


class Divide(Operation):
    """x / y; integers are divided as floats."""

    name = "div"

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        ctx.save(x, y)
        return x / y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array | None, Array | None]:
        x, y = ctx.saved
        return (
            sum_to(grad / y, x.shape) if ctx.needs_grad[0] else None,
            sum_to(-grad * x / (y * y), y.shape) if ctx.needs_grad[1] else None,
        )


class Negate(Operation):
    """-x."""

    name = "neg"

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        return -x

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        return (-grad,)


class Power(Operation):
    """x ** exponent, for a number ``exponent``."""

    name = "pow"

    @staticmethod
    def forward(ctx: Context, x: Array, *, exponent: float) -> Array:
        ctx.save(x, exponent)
        result: Array = x**exponent
        return result

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        x, exponent = ctx.saved
        if exponent == 0:
            return (ctx.xp.zeros_like(grad),)
        return (grad * (exponent * x ** (exponent - 1)),)


class Exp(Operation):
    """e ** x."""

    name = "exp"

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y: Array = ctx.xp.exp(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        (y,) = ctx.saved
        return (grad * y,)


class Log(Operation):
    """Natural logarithm: -inf at 0 and NaN below, without a warning, as torch."""

    name = "log"

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        ctx.save(x)
        with np.errstate(divide="ignore", invalid="ignore"):
            y: Array = ctx.xp.log(x)
        return y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        (x,) = ctx.saved
        with np.errstate(divide="ignore", invalid="ignore"):
            return (grad / x,)


class Abs(Operation):
    """|x|; the gradient at 0 is 0."""

    name = "abs"

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        ctx.save(x)
        return abs(x)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        (x,) = ctx.saved
        return (grad * ctx.xp.sign(x),)


class Clamp(Operation):
    """x kept between ``low`` and ``high`` (None: no bound)."""

    name = "clamp"

    @staticmethod
    def forward(ctx: Context, x: Array, *, low: float | None, high: float | None) -> Array:
        ctx.save(x, low, high)
        y: Array = ctx.xp.clip(x, low, high)
        return y

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        x, low, high = ctx.saved
        inside = ctx.xp.ones(x.shape, dtype=bool)
        if low is not None:
            inside &= x >= low
        if high is not None:
            inside &= x <= high
        return (grad * inside,)


class MatMul(Operation):
    """x @ y, NumPy's rules for stacks of matrices."""

    name = "matmul"

    @staticmethod
    def forward(ctx: Context, x: Array, y: Array) -> Array:
        ctx.save(x, y)
        result: Array = ctx.xp.matmul(x, y)
        return result

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array, Array]:
        x, y = ctx.saved
        # A vector is a matrix with one row (x) or one column (y).
        rows = x[None, :] if x.ndim == 1 else x
        columns = y[:, None] if y.ndim == 1 else y
        if x.ndim == 1:
            grad = grad[..., None, :] if y.ndim > 1 else grad[..., None]
        if y.ndim == 1:
            grad = grad[..., None]
        grad_x = ctx.xp.matmul(grad, columns.swapaxes(-1, -2))
        grad_y = ctx.xp.matmul(rows.swapaxes(-1, -2), grad)
        return (
            sum_to(grad_x, rows.shape).reshape(x.shape),
            sum_to(grad_y, columns.shape).reshape(y.shape),
        )


class Sum(Operation):
    """Sum over ``axes``; ``divisor`` (the count, for a mean) divides it."""

    name = "sum"
    returns_views = True

    @staticmethod
    def forward(
        ctx: Context, x: Array, *, axes: tuple[int, ...], keepdims: bool, divisor: int = 1
    ) -> Array:
        ctx.save(x.shape, axes, divisor)
        total: Array = x.sum(axis=axes, keepdims=keepdims)
        return total if divisor == 1 else (total / divisor).astype(total.dtype)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        shape, axes, divisor = ctx.saved
        kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
        grad = grad.reshape(kept)
        if divisor != 1:
            grad = grad / divisor
        return (ctx.xp.broadcast_to(grad, shape),)


class Amax(Operation):
    """Largest value over ``axes``; its gradient is shared out evenly among equals, as in torch."""

    name = "amax"

    @staticmethod
    def forward(ctx: Context, x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
        y: Array = x.max(axis=axes, keepdims=True)
        ctx.save(x, y, axes)
        return y if keepdims else y.squeeze(axes)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        x, y, axes = ctx.saved
        largest = x == y
        share = largest / largest.sum(axis=axes, keepdims=True)
        return ((grad.reshape(y.shape) * share).astype(x.dtype, copy=False),)


class Reshape(Operation):
    """The same elements, in logical order, under another shape."""

    name = "reshape"
    returns_views = True

    @staticmethod
    def forward(ctx: Context, x: Array, *, shape: Shape) -> Array:
        ctx.save(x.shape)
        return x.reshape(shape)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        (shape,) = ctx.saved
        return (grad.reshape(shape),)


class Permute(Operation):
    """Axes in another order."""

    name = "permute"
    returns_views = True

    @staticmethod
    def forward(ctx: Context, x: Array, *, axes: tuple[int, ...]) -> Array:
        ctx.save(axes)
        return x.transpose(axes)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        (axes,) = ctx.saved
        return (grad.transpose(tuple(int(i) for i in np.argsort(axes))),)


class Expand(Operation):
    """Broadcast to ``shape``."""

    name = "expand"

    @staticmethod
    def forward(ctx: Context, x: Array, *, shape: Shape) -> Array:
        ctx.save(x.shape)
        result: Array = ctx.xp.broadcast_to(x, shape)
        return result

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        (shape,) = ctx.saved
        return (sum_to(grad, shape).copy(),)


class Index(Operation):
    """x[index]; an element picked several times collects several gradients."""

    name = "index"

    @staticmethod
    def forward(ctx: Context, x: Array, *, index: Any) -> Array:
        ctx.save(x.shape, x.dtype, index)
        picked: Array = x[index]
        return picked

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        shape, dtype, index = ctx.saved
        whole = ctx.xp.zeros(shape, dtype)
        parts = index if isinstance(index, tuple) else (index,)
        if all(p is None or p is Ellipsis or isinstance(p, (int, slice)) for p in parts):
            whole[index] = grad  # basic indexing picks each element once
        else:
            ctx.xp.add.at(whole, index, grad)
        return (whole,)


class Concatenate(Operation):
    """Arrays joined along ``axis``."""

    name = "cat"
    returns_views = True

    @staticmethod
    def forward(ctx: Context, *arrays: Array, axis: int) -> Array:
        ctx.save(axis, [a.shape[axis] for a in arrays])
        result: Array = ctx.xp.concatenate(arrays, axis=axis)
        return result

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array, ...]:
        axis, sizes = ctx.saved
        return tuple(ctx.xp.split(grad, np.cumsum(sizes)[:-1].tolist(), axis=axis))


class Cast(Operation):
    """The same values in another dtype."""

    name = "cast"
    returns_views = True

    @staticmethod
    def forward(ctx: Context, x: Array, *, dtype: Any) -> Array:
        ctx.save(x.dtype)
        return x.astype(dtype)

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        (dtype,) = ctx.saved
        return (grad.astype(dtype, copy=False),)


class Copy(Operation):
    """The same values in memory of their own."""

    name = "clone"
    returns_views = True

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        return x.copy(order="K")

    @staticmethod
    def backward(ctx: Context, grad: Array) -> tuple[Array]:
        return (grad,)
