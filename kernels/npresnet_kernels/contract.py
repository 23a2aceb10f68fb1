"""The one list of kernel functions that every kernel set offers.

A kernel set is a module (``reference``, ``cpu``, ``gpu``) whose functions carry these names,
arguments and meanings; :class:`KernelSet` spells them out once, and mypy holds each set to it.
Kernels are pure functions on arrays: they know nothing of tensors, tapes or layers.

Conventions
-----------
*Shapes* are logical NCHW: ``x`` is (N, C, H, W), whatever its strides. *Memory* of what a kernel
returns is channels-last (NHWC) for 4-D arrays; a kernel takes any strides and converts once where
it must. *Weights* of a convolution are (O, I / groups, kH, kW). *dtypes*: float32 and float64 (the
gpu set takes float16 too), all floating arguments of a call alike; what is returned has the same
dtype. Integer targets and
indices are int64. *Sizes* are pairs (height, width). No kernel changes an argument, but for the
two optimizer updates, whose names end in ``_`` as torch's in-place functions do. *Validation* is
the caller's: a kernel may assume that shapes, dtypes and ranges fit. *N* may be 0.

Every backward gathers (each output element is written by one worker, in one fixed order): results
are deterministic, and gradients are not accumulated by atomics anywhere.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Pair: TypeAlias = tuple[int, int]
Shape: TypeAlias = tuple[int, ...]

__all__ = [
    "Array",
    "KernelSet",
    "Pair",
    "Shape",
]


class KernelSet(Protocol):
    """What a kernel set offers; a module satisfies it by having these functions.

    They are written as methods because mypy matches a module's functions with methods only.
    """

    # ------------------------------------------------------------------ convolution

    def im2col(
        self,
        x: Array,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        start: int = 0,
        stop: int | None = None,
    ) -> Array:
        """Rows of input patches, one row for each output pixel.

        Output pixels are numbered n * P * Q + p * Q + q; rows ``start`` to ``stop`` of them are
        returned as a C-contiguous (stop - start, kH * kW * C) array whose columns run over taps
        (i, j) first and channels last. Taps outside the image are 0.
        """
        ...

    def col2im(
        self,
        columns: Array,
        input_shape: Shape,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
    ) -> Array:
        """Adjoint of :func:`im2col` over all its rows: (N * P * Q, kH * kW * C) to (N, C, H, W)."""
        ...

    def conv2d(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> Array:
        """Cross-correlation of (N, C, H, W) with (O, C / groups, kH, kW): (N, O, P, Q)."""
        ...

    def conv2d_grad_input(
        self,
        grad_output: Array,
        weight: Array,
        input_shape: Shape,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> Array:
        """Gradient of the loss with respect to ``x``: (N, C, H, W)."""
        ...

    def conv2d_grad_weight(
        self,
        grad_output: Array,
        x: Array,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> Array:
        """Gradient with respect to the weight: (O, C / groups, kH, kW), C-contiguous."""
        ...

    def channel_sum(self, x: Array) -> Array:
        """Sum over every axis but axis 1: (N, C) or (N, C, H, W) to (C,). The bias gradient."""
        ...

    # ------------------------------------------------------------------ pooling

    def max_pool2d(
        self,
        x: Array,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        ceil_mode: bool,
    ) -> tuple[Array, npt.NDArray[np.int64]]:
        """Maximum over windows, padding with -inf: values and indices, both (N, C, P, Q).

        An index is h * W + w, the place of the maximum in its input plane. The first of equal
        values wins; a NaN wins over everything (the last NaN of a window, as in torch). A window
        wholly in the padding, which dilation can make, has -inf and index -1.
        """
        ...

    def max_pool2d_grad(
        self,
        grad_output: Array,
        indices: npt.NDArray[np.int64],
        input_shape: Shape,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
    ) -> Array:
        """Each input pixel gathers the gradients of the windows whose maximum it is."""
        ...

    def avg_pool2d(
        self,
        x: Array,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Array:
        """Mean over windows, torch's rules for the divisor: (N, C, P, Q)."""
        ...

    def avg_pool2d_grad(
        self,
        grad_output: Array,
        input_shape: Shape,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Array:
        """Gradient of :func:`avg_pool2d` with respect to its input."""
        ...

    def adaptive_avg_pool2d(self, x: Array, output_size: Pair) -> Array:
        """Mean over windows [floor(i * H / P), ceil((i + 1) * H / P)): (N, C, P, Q)."""
        ...

    def adaptive_avg_pool2d_grad(self, grad_output: Array, input_shape: Shape) -> Array:
        """Gradient of :func:`adaptive_avg_pool2d` with respect to its input."""
        ...

    # ------------------------------------------------------------------ batch norm

    def batch_norm_statistics(self, x: Array) -> tuple[Array, Array]:
        """Mean and biased variance of each channel over (N, H, W): two (C,) arrays.

        Accurate where the mean is far from 0: not the difference of two large sums in float32.
        Two arrays of zeros if there is nothing to average.
        """
        ...

    def batch_norm(
        self, x: Array, mean: Array, invstd: Array, weight: Array | None, bias: Array | None
    ) -> Array:
        """(x - mean) * invstd * weight + bias, a channel at a time; for training and evaluation."""
        ...

    def batch_norm_grad(
        self,
        grad_output: Array,
        x: Array,
        mean: Array,
        invstd: Array,
        weight: Array | None,
        training: bool,
    ) -> tuple[Array, Array, Array]:
        """Gradients (grad_x, grad_weight, grad_bias).

        With ``training`` the mean and variance are functions of ``x`` and grad_x flows through
        them; without, they are constants.
        """
        ...

    # ------------------------------------------------------------------ activations, linear, add

    def relu(self, x: Array) -> Array:
        """max(x, 0); NaN stays NaN."""
        ...

    def relu_grad(self, grad_output: Array, y: Array) -> Array:
        """grad_output where the output ``y`` is not <= 0 (a NaN lets it pass, as torch), else 0."""
        ...

    def add(self, x: Array, y: Array) -> Array:
        """Sum of two arrays of one shape: the residual connection."""
        ...

    def linear(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """X @ weight.T + bias: (M, I), (O, I), (O,) to (M, O)."""
        ...

    def linear_grad_input(self, grad_output: Array, weight: Array) -> Array:
        """(M, O), (O, I) to (M, I)."""
        ...

    def linear_grad_weight(self, grad_output: Array, x: Array) -> Array:
        """(M, O), (M, I) to (O, I)."""
        ...

    def softmax(self, x: Array, axis: int) -> Array:
        """exp(x - max) over its sum along ``axis``, any number of dimensions."""
        ...

    def softmax_grad(self, grad_output: Array, y: Array, axis: int) -> Array:
        """Gradient of softmax from its output ``y``."""
        ...

    def log_softmax(self, x: Array, axis: int) -> Array:
        """X - max - log(sum(exp(x - max))) along ``axis``."""
        ...

    def log_softmax_grad(self, grad_output: Array, y: Array, axis: int) -> Array:
        """Gradient of log-softmax from its output ``y``."""
        ...

    # ------------------------------------------------------------------ loss

    def cross_entropy(
        self,
        x: Array,
        target: npt.NDArray[np.int64],
        weight: Array | None,
        ignore_index: int,
        label_smoothing: float,
    ) -> tuple[Array, Array]:
        """Loss of each row, unreduced: (M, C) logits, (M,) classes to (M,) losses.

        With class weights w (all 1 if None), smoothing s and p = log-softmax(x), the loss of row m
        is -(1 - s) * w[t] * p[t] - s / C * sum_c w[c] * p[c]; 0 where t equals ``ignore_index``.
        Also returns p, (M, C), which the gradient needs.
        """
        ...

    def cross_entropy_grad(
        self,
        grad_output: Array,
        log_probabilities: Array,
        target: npt.NDArray[np.int64],
        weight: Array | None,
        ignore_index: int,
        label_smoothing: float,
    ) -> Array:
        """Gradient with respect to the logits from the (M,) gradient of each row's loss."""
        ...

    # ------------------------------------------------------------------ optimizer updates, in place

    def sgd_update_(
        self,
        parameter: Array,
        grad: Array,
        momentum_buffer: Array | None,
        first_step: bool,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        """One step of stochastic gradient descent as torch.optim.SGD defines it.

        d = grad + weight_decay * parameter; with momentum, buffer = momentum * buffer +
        (1 - dampening) * d (on the first step buffer = d) and d becomes buffer, or
        d + momentum * buffer with ``nesterov``; then parameter -= lr * d. Changes ``parameter``
        and ``momentum_buffer``, which is None exactly when momentum is 0.
        """
        ...

    def adamw_update_(
        self,
        parameter: Array,
        grad: Array,
        exp_avg: Array,
        exp_avg_sq: Array,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        """One step of AdamW (Loshchilov and Hutter 2019), ``step`` counting from 1.

        Changes ``parameter`` and both moment arrays.
        """
        ...
