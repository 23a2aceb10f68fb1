"""BatchNormalization."""

from __future__ import annotations

from typing import Any

from npresnet import functional as F
from npresnet.export.operators.registry import Call, Value, operator

__all__ = ["batch_normalization"]


def _refuse(attributes: dict[str, Any]) -> str | None:
    return None if attributes.get("spatial", 1) else "spatial=0: one statistic a pixel"


@operator(
    "BatchNormalization",
    outputs=5,
    parameters={1: "weight", 2: "bias"},
    buffers={3: "running_mean", 4: "running_var"},
    refuse=_refuse,
)
def batch_normalization(
    call: Call,
    x: Value,
    scale: Value,
    b: Value,
    mean: Value,
    var: Value,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
) -> Any:
    """Normalise each channel of (N, C, ...).

    By the running statistics; in the network's training mode by the batch's, and the running ones
    move as torch's do. A node that asks for ``training_mode`` itself returns the new running
    statistics instead, from the batch's biased variance, as ONNX has it.
    """
    x, scale, b, mean, var = (call.tensor(v) for v in (x, scale, b, mean, var))
    maps = x if x.ndim in (2, 4) else x.reshape(*x.shape[:2], -1, 1)
    if training_mode:
        y = F.batch_norm(maps, None, None, scale, b, training=True, eps=epsilon)
        axes = [i for i in range(maps.ndim) if i != 1]
        own_mean = maps.mean(axes)
        centred = maps - maps.mean(axes, keepdim=True)
        own_var = (centred * centred).mean(axes)
        moved = [
            old * momentum + new * (1 - momentum) for old, new in ((mean, own_mean), (var, own_var))
        ]
        return y.reshape(x.shape), *moved
    y = F.batch_norm(maps, mean, var, scale, b, call.training, 1 - momentum, epsilon)
    return y if maps is x else y.reshape(x.shape)
