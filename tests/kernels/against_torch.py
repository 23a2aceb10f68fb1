"""Holding a kernel against torch on the same numbers, in both dtypes and any memory order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tests.parity import ROUNDINGS, relative_error

LAYOUTS = ("nchw", "nhwc", "strided")


def arrange(x: np.ndarray, layout: str) -> np.ndarray:
    """Return the same values in another memory order."""
    if layout == "nhwc" and x.ndim == 4:
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if layout == "strided" and x.ndim > 1:
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        wide[..., ::-2] = x
        return wide[..., ::-2]
    return np.array(x, order="C")


def assert_agrees(
    ours: Callable[..., Sequence[np.ndarray]],
    theirs: Callable[..., Sequence[torch.Tensor]],
    inputs: Sequence[np.ndarray],
    layout: str = "nchw",
) -> None:
    """Compare all results: 1e-10 in float64; in float32 at most 4x torch's error and a floor.

    Floating inputs are float64 arrays and come to both sides in the dtype that is tested; integer
    ones come as they are. Four-dimensional results must be channels-last in memory.
    """
    # what float32 can hold, so that truth is about the same numbers
    inputs = [x.astype(np.float32).astype(np.float64) if x.dtype.kind == "f" else x for x in inputs]

    def cast(dtype: Any) -> list[np.ndarray]:
        return [x.astype(dtype) if x.dtype.kind == "f" else x for x in inputs]

    def torch_results(dtype: Any) -> list[np.ndarray]:
        return [r.detach().numpy() for r in theirs(*map(torch.from_numpy, cast(dtype)))]

    truths = torch_results(np.float64)
    for dtype in (np.float64, np.float32):
        arrays = [arrange(x, layout) for x in cast(dtype)]
        before = [x.copy() for x in arrays]
        results = ours(*arrays)
        for x, old in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(x, old, "an input was changed")
        bounds = [1e-10] * len(truths)
        if dtype == np.float32:
            errors = [
                relative_error(a, b) for a, b in zip(torch_results(dtype), truths, strict=True)
            ]
            bounds = [4 * error + ROUNDINGS for error in errors]
        for result, truth, bound in zip(results, truths, bounds, strict=True):
            assert result.dtype == (dtype if truth.dtype.kind == "f" else truth.dtype)
            if truth.size:
                assert relative_error(result, truth) <= bound
            assert result.shape == truth.shape


def is_channels_last(x: np.ndarray) -> bool:
    return bool(x.transpose(0, 2, 3, 1).flags.c_contiguous)
