"""Holding npresnet against torch: the same function on the same numbers, gradients included.

In float64 both must agree to 1e-10. In float32 the error against float64 truth may be four times
torch's own, plus a floor of a few roundings: torch's error can be 0 by luck.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import npresnet as nr

ROUNDINGS = 8 * float(np.finfo(np.float32).eps)


def relative_error(value: Any, truth: Any) -> float:
    """Largest error, relative to the largest true value; NaN and inf must match exactly."""
    value = value if isinstance(value, np.ndarray) else to_numpy(value)
    value, truth = value.astype(np.float64), np.asarray(truth, np.float64)
    assert value.shape == truth.shape, f"shape {value.shape}, expected {truth.shape}"
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(value[~finite], truth[~finite])
    if not finite.any():
        return 0.0
    scale = np.abs(truth[finite]).max()
    return float(np.abs(value[finite] - truth[finite]).max() / (scale if scale > 0 else 1.0))


def run_npresnet(
    function: Callable[..., Any], inputs: Sequence[np.ndarray], dtype: Any, grad: np.ndarray | None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the gradients of all inputs, and the output."""
    tensors = [nr.tensor(np.array(x, dtype), requires_grad=True) for x in inputs]
    before = [np.array(t.numpy()) for t in tensors]
    output = function(*tensors)
    assert output.dtype == dtype
    output.backward(None if grad is None else grad.astype(dtype))
    for tensor, old in zip(tensors, before, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), old, "an input was changed")
        assert tensor.grad is None or tensor.grad.dtype == dtype
    return [grad_of(t) for t in tensors], output.numpy()


def grad_of(tensor: nr.Tensor) -> np.ndarray:
    """The gradient that a tensor collected, as a NumPy array; 0 if none came."""
    return np.zeros(tensor.shape, tensor.dtype) if tensor.grad is None else to_numpy(tensor.grad)


def to_numpy(array: Any) -> np.ndarray:
    """An array of any backend, or of torch, as a NumPy array."""
    return nr.Tensor(array).numpy() if hasattr(array, "get") else np.asarray(array)


def run_torch(
    function: Callable[..., Any], inputs: Sequence[np.ndarray], dtype: Any, grad: np.ndarray | None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Do the same in torch."""
    kind = torch.float64 if dtype == np.float64 else torch.float32
    tensors = [torch.tensor(np.array(x, order="C"), dtype=kind) for x in inputs]
    for t in tensors:
        t.requires_grad_()
    output = function(*tensors)
    output.backward(None if grad is None else torch.tensor(grad, dtype=kind))
    grads = [np.zeros(t.shape, dtype) if t.grad is None else t.grad.numpy() for t in tensors]
    return grads, output.detach().numpy()


def assert_parity(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    inputs: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> None:
    """Compare output and gradients in float64 and float32, for a random upstream gradient."""
    with torch.no_grad():
        shape = theirs(*(torch.tensor(np.array(x, order="C")) for x in inputs)).shape
    grad = rng.standard_normal(tuple(shape)) if len(shape) else None
    # what float32 can hold, so that truth is about the same numbers
    inputs = [np.asarray(x, np.float32).astype(np.float64) for x in inputs]
    grad = None if grad is None else grad.astype(np.float32).astype(np.float64)
    truth_grads, truth = run_torch(theirs, inputs, np.float64, grad)
    our_grads, our_output = run_npresnet(ours, inputs, np.float64, grad)
    for mine, true in zip([our_output, *our_grads], [truth, *truth_grads], strict=True):
        assert relative_error(mine, true) <= 1e-10
    their_grads32, their_output32 = run_torch(theirs, inputs, np.float32, grad)
    our_grads32, our_output32 = run_npresnet(ours, inputs, np.float32, grad)
    for mine, other, true in zip(
        [our_output32, *our_grads32],
        [their_output32, *their_grads32],
        [truth, *truth_grads],
        strict=True,
    ):
        assert relative_error(mine, true) <= 4 * relative_error(other, true) + ROUNDINGS
