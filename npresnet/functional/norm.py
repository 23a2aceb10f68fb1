"""Batch normalisation (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167)."""

from __future__ import annotations

from npresnet.errors import RangeError, ShapeError
from npresnet.functional._checks import per_channel, same_dtype
from npresnet.tape import Context, Operation
from npresnet.tensor import ArrayLike, Tensor, apply, as_tensor
from npresnet_kernels.contract import Array

__all__ = ["BatchNorm", "batch_norm"]


class BatchNorm(Operation):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, a channel at a time.

    In training the mean and the biased variance are the batch's own, and the running ones move
    towards it: running = (1 - momentum) * running + momentum * new, where the new variance is the
    unbiased one. In evaluation the running ones are used. With m values a channel, x_hat the
    normalised input and g the upstream gradient times the weight, the gradient in training is
    (g - mean(g) - x_hat * mean(g * x_hat)) / sqrt(var + eps).
    """

    name = "batch_norm"

    @staticmethod
    def forward(
        ctx: Context,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        running_mean: Array | None,
        running_var: Array | None,
        *,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Array:
        if x.size == 0:  # nothing to learn from: the running statistics stay, as in torch
            ctx.save(None, x.shape)
            return x.copy()
        if training:
            mean, var = ctx.kernels.batch_norm_statistics(x)  # each (C,)
            count = x.size // x.shape[1]
            if running_mean is not None:
                running_mean += momentum * (mean - running_mean)
            if running_var is not None:
                running_var += momentum * (var * (count / (count - 1)) - running_var)
        else:
            assert running_mean is not None
            assert running_var is not None
            # copies: the caller may train on before this call's backward
            mean, var = running_mean.copy(), running_var
        invstd = 1 / ctx.xp.sqrt(var + var.dtype.type(eps))
        ctx.save(x, x.shape, mean, invstd, weight, training)
        return ctx.kernels.batch_norm(x, mean, invstd, weight, bias)

    @staticmethod
    def backward(ctx: Context, grad_output: Array) -> tuple[Array | None, ...]:
        if ctx.saved[0] is None:
            shape = ctx.saved[1]
            zeros = ctx.xp.zeros(shape[1], dtype=grad_output.dtype)
            return grad_output, zeros, zeros.copy(), None, None
        x, _, mean, invstd, weight, training = ctx.saved
        grads = ctx.kernels.batch_norm_grad(grad_output, x, mean, invstd, weight, training)
        return *grads, None, None


def batch_norm(
    input: ArrayLike,
    running_mean: ArrayLike,
    running_var: ArrayLike,
    weight: ArrayLike = None,
    bias: ArrayLike = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-05,
) -> Tensor:
    """Normalise each channel over the batch.

    Parameters
    ----------
    input : Tensor
        (N, C, H, W) or (N, C).
    running_mean, running_var : Tensor or None
        (C,) each; changed in training, used in evaluation.
    weight, bias : Tensor, optional
        (C,) each.
    training : bool
        Whether to use the batch's own statistics.
    momentum : float
        The share of the new statistics in the running ones.
    eps : float
        Added to the variance.

    Returns
    -------
    Tensor
        The input's shape.

    Raises
    ------
    ShapeError, DtypeError, RangeError
        If shapes or dtypes don't fit, there is one value a channel in training, or no running
        statistics in evaluation.
    """
    x = as_tensor(input)
    w, b = (None if t is None else as_tensor(t) for t in (weight, bias))
    # an array that is changed stays where it is
    mean, var = (
        Tensor(t) if hasattr(t, "dtype") and not isinstance(t, Tensor) else t
        for t in (running_mean, running_var)
    )
    if x.ndim not in (2, 4):
        raise ShapeError(f"batch_norm expected (N, C, H, W) or (N, C), got shape {x.shape}")
    same_dtype("batch_norm", x, running_mean=mean, running_var=var, weight=w, bias=b)
    channels = x.shape[1]
    for name, vector in (("running_mean", mean), ("weight", w)):
        if vector is not None and vector.shape != (channels,):
            raise ShapeError(
                f"BatchNorm2d expected {vector.shape[0] if vector.ndim else 0} channels "
                f"(its {name}), got {channels} (input shape {x.shape})"
            )
    per_channel("batch_norm", channels, running_var=var, bias=b)
    if eps < 0:
        raise RangeError(f"batch_norm: eps must not be negative, got {eps}")
    if training and x.numel() == channels:
        raise ShapeError(
            "batch_norm in training needs more than one value a channel, got input shape "
            f"{x.shape}: use a larger batch, or eval()"
        )
    if not training and (mean is None or var is None):
        raise RangeError("batch_norm in evaluation needs running_mean and running_var, got None")
    maps = x if x.ndim == 4 else x.reshape((*x.shape, 1, 1))
    y = apply(BatchNorm, maps, w, b, mean, var, training=training, momentum=momentum, eps=eps)
    return y if x.ndim == 4 else y.reshape(x.shape)
