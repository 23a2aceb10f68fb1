"""The batch-norm layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet import functional as F
from npresnet.backend import for_arrays
from npresnet.errors import RangeError, ShapeError
from npresnet.nn import init
from npresnet.nn._new import new_buffer, new_parameter
from npresnet.nn.module import Module
from npresnet.tensor import Tensor

__all__ = ["BatchNorm2d"]


class BatchNorm2d(Module):
    """Batch normalisation of (N, C, H, W), with running statistics.

    Parameters
    ----------
    num_features : int
        C.
    eps : float
        Added to the variance.
    momentum : float or None
        The share of the new statistics in the running ones; None averages over all batches.
    affine : bool
        Whether there are a learned weight and bias.
    track_running_stats : bool
        Whether running statistics are kept; without, evaluation uses the batch's own.
    bias : bool
        Whether ``affine`` brings a bias along with the weight.

    Raises
    ------
    RangeError
        If there are no channels.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-05,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise RangeError(f"BatchNorm2d needs at least one channel, got {num_features}")
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        n, tracked = num_features, track_running_stats
        for name, value, learned in (("weight", 1.0, affine), ("bias", 0.0, affine and bias)):
            new = new_parameter(n, value=value, dtype=dtype) if learned else None
            self.register_parameter(name, new)
        for name, value in (("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, new_buffer(n, value=value, dtype=dtype) if tracked else None)
        self.register_buffer(
            "num_batches_tracked", new_buffer(value=0, dtype=np.int64) if tracked else None
        )
        if device is not None:
            self.to(device)

    def reset_running_stats(self) -> None:
        """Set the running statistics back to mean 0 and variance 1."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Set weight 1, bias 0 and the running statistics back."""
        self.reset_running_stats()
        for parameter, value in ((self.weight, 1), (self.bias, 0)):
            if parameter is not None:
                init.constant_(parameter, value)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel; in training also move the running statistics.

        Raises
        ------
        ShapeError
            If the input isn't (N, C, H, W), or a training batch has one value a channel.
        """
        if input.ndim != 4:
            raise ShapeError(
                f"BatchNorm2d expected (N, C, H, W), got shape {input.shape}: a single image is a "
                "batch of one, image[None]"
            )
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats:
            counter = self.num_batches_tracked.data
            with for_arrays([counter]).scope():
                counter[...] += 1
            for buffer in (self.running_mean, self.running_var, self.num_batches_tracked):
                buffer._version += 1
            if self.momentum is None:
                momentum = 1 / int(self.num_batches_tracked)
        own = self.training or not self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            own,
            momentum,
            self.eps,
        )

    def extra_repr(self) -> str:
        """Return the arguments."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )
