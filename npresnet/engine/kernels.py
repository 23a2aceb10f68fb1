"""What a plan asks of a backend beyond the contract: kernels that write into given memory.

Maps are (N, H, W, C), C-contiguous, in the plan's storage type: float32, float16, or bfloat16,
whose bits a uint16 array holds. Features (N, C), logits, parameters, statistics and gradients of
parameters are float32. ``scratch`` is working memory, as float32, at least as large as the function
beside it says. A backend that has such kernels offers a module of them as
:attr:`npresnet.backend.Backend.plan_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np

from npresnet.engine.recording import Recorder
from npresnet_kernels.contract import Array, Pair
from npresnet_kernels.shapes import ConvShape, PoolWindow

__all__ = [
    "Convolution",
    "Dense",
    "MeanPool",
    "PlanKernels",
    "PooledConvolution",
    "RecordedKernels",
    "recorded_kernels",
]


class PackedLayer(Protocol):
    """A layer of one shape that multiplies by weights; it knows neither batch nor weights."""

    @property
    def packed_size(self) -> int:
        """Elements of the storage type that ``pack`` makes."""
        ...

    @property
    def packed_grad_size(self) -> int:
        """Elements of the storage type that ``pack_grad_input`` makes."""
        ...

    def scratch_floats(self, threads: int, training: bool = False, batch: int = 1) -> int:
        """Return how much scratch memory the calls below need, for up to so many images."""
        ...

    def pack(self, weight: Array, out: Array | None = None) -> Array:
        """Return weights, as the state dict has them, as ``forward`` reads them.

        Where it reads them as they are, ``packed_size`` is 0, and they themselves come back.
        """
        ...

    def pack_grad_input(self, weight: Array, out: Array | None = None) -> Array:
        """Return weights as ``grad_input`` reads them."""
        ...


class Dense(PackedLayer, Protocol):
    """A linear layer: weights (O, I)."""

    def forward(
        self, x: Array, packed: Array, y: Array, scratch: Array, bias: Array | None = None
    ) -> None:
        """Y = x W^T + bias, (N, I) to (N, O)."""
        ...

    def grad_input(self, grad_y: Array, packed_grad: Array, grad_x: Array, scratch: Array) -> None:
        """Write the gradient of x."""
        ...

    def grad_weight(self, x: Array, grad_y: Array, grad_weight: Array, scratch: Array) -> None:
        """Write the gradient of the weights (O, I)."""
        ...


class Convolution(PackedLayer, Protocol):
    """A convolution: weights (O, I, k, k)."""

    @property
    def input_channels(self) -> int:
        """Channels that x is read with, zeros behind the true ones; an x with fewer is copied."""
        ...

    def scratch_floats(
        self, threads: int, training: bool = False, batch: int = 1, channels: int | None = None
    ) -> int:
        """Return how much scratch memory the calls below need, for up to so many images.

        ``channels`` are those that x comes with, if not the layer's own.
        """
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


class PooledConvolution(Convolution, Protocol):
    """A convolution that can take a max pool in."""

    def forward_pooled(
        self,
        x: Array,
        packed: Array,
        y: Array,
        scratch: Array,
        bias: Array | None = None,
        relu: bool = False,
        *,
        window: int,
        stride: int,
        padding: int,
    ) -> None:
        """Y = max_pool(relu(conv(x) + bias)), where ``fuses_pool`` says so."""
        ...


class MeanPool(Protocol):
    """Means over windows of one geometry; maps (N, H, W, C)."""

    def forward(self, x: Array, y: Array) -> None:
        """Write the means."""
        ...

    def backward(self, grad_y: Array, grad_x: Array) -> None:
        """Write the gradient of x."""
        ...


class PlanKernels(Protocol):
    """A module of plan kernels."""

    STATISTICS: np.dtype[Any]
    """What means and variances of batches are kept in."""

    OWN_ALGORITHMS: tuple[str, ...]
    """Of convolutions, those that other kernels don't have."""

    def memory(self, size: int) -> Array:
        """Return so many uninitialised bytes as an aligned array of uint8."""
        ...

    RECORDS_STEPS: bool
    """Whether whole training steps can be recorded: it has all that `RecordedKernels` lists."""

    def recorder(self) -> Recorder | None:
        """Return what records a run; None if nothing does."""
        ...

    def choose_algorithm(
        self, layer: ConvShape, asked: str, dtype: np.dtype[Any], training: bool
    ) -> str:
        """Return the algorithm for a layer, ``"im2col"`` if only the contract's fits."""
        ...

    def convolution(
        self, layer: ConvShape, algorithm: str, dtype: np.dtype[Any], images: int = 0
    ) -> Convolution:
        """Return the convolution of a layer's shape, for maps in a storage type.

        ``images`` is the most in a call of ``forward``; 0 where weights are packed for each call.
        """
        ...

    def dense(self, in_features: int, out_features: int, dtype: np.dtype[Any]) -> Dense:
        """Return the linear layer of a shape; it multiplies in ``dtype``, or better."""
        ...

    def thread_count(self) -> int:
        """Return how many threads kernels use now."""
        ...

    def cast(self, x: Array, out: Array) -> None:
        """Write x in another element type."""
        ...

    def add(self, x: Array, y: Array, out: Array) -> None:
        """Write x + y, maps of the storage type; ``out`` may be x."""
        ...

    def to_channels_last(self, x: Array, out: Array) -> None:
        """Write (N, C, H, W), C-contiguous float32, as (N, H, W, C) in the type of ``out``."""
        ...

    def channel_sum(self, x: Array, out: Array, scratch: Array) -> None:
        """Write the sum of each channel of (N, H, W, C) or (N, C)."""
        ...

    def takes_max_pool(self, window: PoolWindow) -> bool:
        """Return whether the max pools below can do this window."""
        ...

    def max_pool_forward(
        self, x: Array, y: Array, winners: Array | None, window: PoolWindow
    ) -> None:
        """Maximum over windows; ``winners`` (bytes) gets where it stood, for backward."""
        ...

    def max_pool_backward(
        self, grad_y: Array, winners: Array, grad_x: Array, window: PoolWindow
    ) -> None:
        """Gradient of :meth:`max_pool_forward`."""
        ...

    def average_pool_forward(self, x: Array, y: Array) -> None:
        """Mean over all pixels, (N, H, W, C) to float32 (N, C)."""
        ...

    def average_pool_backward(self, grad_y: Array, grad_x: Array) -> None:
        """Gradient of :meth:`average_pool_forward`."""
        ...

    def norm_scratch_bytes(self, rows: int, channels: int) -> int:
        """Return the scratch that `channel_sum` and the functions below need for N*H*W rows."""
        ...

    def moments(self, x: Array, out: Array, scratch: Array) -> None:
        """Write mean and biased variance of each channel, (2, C) of `STATISTICS`."""
        ...

    def update_running_(
        self,
        moments: Array,
        running_mean: Array,
        running_var: Array,
        momentum: float,
        count: int,
    ) -> None:
        """Move running statistics towards a batch's, which had ``count`` values a channel."""
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
        relu: bool,
        y: Array | None,
        grad_residual: Array | None,
        eps: float,
        *,
        grad_gamma: Array,
        grad_beta: Array,
        scratch: Array,
    ) -> None:
        """Write the gradients of x, the residual, gamma and beta.

        ``y`` is asked for if a residual was added before a ReLU. The gradient of the residual, or
        else that of x, may take the place of ``grad_y``.
        """
        ...

    def cross_entropy(
        self,
        logits: Array,
        target: Array,
        loss: Array,
        grad_logits: Array,
        scale: Array,
        *,
        ignore_index: int,
        label_smoothing: float,
        scratch: Array,
    ) -> None:
        """Write the mean loss (1,) of (N, C), and its gradient times ``scale`` (1,).

        ``scratch`` has a float32 for each row.
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


class RecordedKernels(PlanKernels, Protocol):
    """What a module that records training steps offers too, so that all of them is kernels.

    Its ``batch_norm_backward`` takes ``frozen``, for statistics that are constants.

    Operations that stand alone, where other backends' plans run them as eager does; arrays are maps
    (N, H, W, C) or rows (N, C) of one element type, and a gradient may lie where that of the output
    lay. And what ends a training step, all on the device.

    Numbers that change from step to step are read from the device's memory. ``clock`` (2,) float64
    is the learning rate and the steps done before; ``scaling`` (3,) float32 is the loss scale, 1
    over it, and whether all gradients are finite (1 or 0). Where they aren't, updates change
    nothing.
    """

    def update_table(
        self, parameters: Sequence[Array], grads: Sequence[Array], *states: Sequence[Array]
    ) -> Any:
        """Return tensors that are updated alike, with their states; not while recording."""
        ...

    def all_finite(self, tables: Sequence[Any], scaling: Array, loss: Array | None = None) -> None:
        """Write to ``scaling`` whether all gradients are finite, and the loss (1,) if given."""
        ...

    def sgd_step_(
        self,
        table: Any,
        clock: Array,
        scaling: Array,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        """Take one step of SGD; after 0 steps the momentum begins as the direction."""
        ...

    def adamw_step_(
        self,
        table: Any,
        clock: Array,
        scaling: Array,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        """Take one step of AdamW."""
        ...

    def count_step_(self, clock: Array, scaling: Array) -> None:
        """Count a step, if it was taken."""
        ...

    def fuses_pool(
        self,
        layer: ConvShape,
        algorithm: str,
        dtype: np.dtype[Any],
        window: tuple[int, int, int],
    ) -> bool:
        """Return whether such a convolution takes the max pool behind it in.

        It is a `PooledConvolution` then; ``window`` is the pool's size, stride and padding.
        """
        ...

    def relu(self, x: Array, y: Array) -> None:
        """Y = max(x, 0); y may be x."""
        ...

    def relu_grad(self, grad_y: Array, y: Array, grad_x: Array) -> None:
        """Write the gradient of x."""
        ...

    def sigmoid(self, x: Array, y: Array) -> None:
        """Y = 1 / (1 + exp(-x))."""
        ...

    def sigmoid_grad(self, grad_y: Array, y: Array, grad_x: Array) -> None:
        """Write the gradient of x."""
        ...

    def softmax_forward(self, x: Array, y: Array, log: bool) -> None:
        """Write the softmax of each row, or its logarithm."""
        ...

    def softmax_backward(self, grad_y: Array, y: Array, grad_x: Array, log: bool) -> None:
        """Write the gradient of x."""
        ...

    def scale(self, x: Array, number: Array, y: Array) -> None:
        """Write x times a float32 number, an array of one element or a constant; y may be x."""
        ...

    def move_channels(self, x: Array, x_first: int, y: Array, y_first: int, count: int) -> None:
        """Write channels of x, the last axis, from a first one on over those of y."""
        ...

    def gate(self, x: Array, gates: Array, y: Array) -> None:
        """Write maps times gates (N, C) float32."""
        ...

    def gate_grad(
        self, grad_y: Array, x: Array, gates: Array, grad_x: Array, grad_gates: Array
    ) -> None:
        """Write the gradients of maps and gates."""
        ...

    def average_pool(self, size: Pair, *options: Any) -> MeanPool:
        """Return the pool of the contract's ``avg_pool2d``, for maps of a size."""
        ...

    def adaptive_average_pool(self, size: Pair, output_size: Pair) -> MeanPool:
        """Return the pool of the contract's ``adaptive_avg_pool2d``."""
        ...

    def pad_channels(self, x: Array, out: Array) -> None:
        """Write (N, H, W, C) with more channels, zeros, in the type of ``out``."""
        ...

    def to_channels_first(self, x: Array, out: Array) -> None:
        """Write (N, H, W, C) as (N, C, H, W), C-contiguous, in the type of ``out``."""
        ...


def recorded_kernels(kernels: PlanKernels | None) -> RecordedKernels | None:
    """Return kernels whose training steps can be recorded; None if they can't."""
    if kernels is None or not kernels.RECORDS_STEPS:
        return None
    return cast(RecordedKernels, kernels)
