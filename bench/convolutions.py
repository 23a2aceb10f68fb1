"""One convolution as timed work: npresnet's algorithms, its eager kernels, torch.

Activations are NHWC arrays; `conv` holds the fields of `networks.Conv`, `direction` is "forward",
"grad_input" or "grad_weight". One image's result is compared with float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from networks import Conv
from numpy.lib.stride_tricks import sliding_window_view
from peers import threads
from worker import Skip, Work

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def _draw(conv: Conv, batch: int) -> Arrays:
    """Return x (N, H, W, C), weight (K, C, R, S) and grad_y (N, P, Q, K)."""
    rng = np.random.default_rng(11)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    weight = normal(conv.channels_out, conv.channels_in, conv.kernel, conv.kernel)
    x = normal(batch, conv.size, conv.size, conv.channels_in)
    return x, weight, normal(batch, conv.out_size, conv.out_size, conv.channels_out)


def truth(
    conv: Conv, direction: str, x: np.ndarray, weight: np.ndarray, grad_y: np.ndarray
) -> np.ndarray:
    """Return y, grad_x (N, H, W, C) or grad_weight (K, C, R, S) in float64."""
    x, weight, grad_y = (array.astype(np.float64) for array in (x, weight, grad_y))
    pad = conv.padding
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    if direction == "grad_input":
        grad = np.zeros_like(padded)
        reach = (conv.out_size - 1) * conv.stride + 1
        for r, s in np.ndindex(conv.kernel, conv.kernel):
            places = slice(r, r + reach, conv.stride), slice(s, s + reach, conv.stride)
            grad[:, places[0], places[1]] += grad_y @ weight[:, :, r, s]
        return grad[:, pad : pad + conv.size, pad : pad + conv.size]
    windows = sliding_window_view(padded, (conv.kernel, conv.kernel), axis=(1, 2))
    windows = windows[:, :: conv.stride, :: conv.stride]  # (N, P, Q, C, R, S)
    if direction == "forward":
        return np.tensordot(windows, weight, axes=([3, 4, 5], [1, 2, 3]))
    return np.tensordot(grad_y, windows, axes=([0, 1, 2], [0, 1, 2]))


def _work(
    conv: Conv,
    batch: int,
    direction: str,
    make: Callable[[Arrays], tuple[Callable[[], object], Callable[[], np.ndarray]]],
    note: str = "",
) -> Work:
    """Return the work of `make(arrays) -> (run, result)`, checked on one image."""
    arrays = _draw(conv, batch)
    run, _ = make(arrays)

    def check() -> dict[str, float]:
        x, weight, grad_y = arrays
        one = (x[:1].copy(), weight, grad_y[:1].copy())
        compute, result = make(one)
        compute()
        right = truth(conv, direction, *one)
        error = result() - right
        scale = np.sqrt(np.mean(right**2))
        return {
            "rms_error": float(np.sqrt(np.mean(error**2)) / scale),
            "max_error": float(np.abs(error).max() / scale),
        }

    return Work(run, check, {"flop": float(conv.flop(batch))}, note)


def fast(algorithm: str, conv: dict[str, Any], batch: int, direction: str) -> Work:
    """npresnet's `Convolution`, with weights packed beforehand."""
    from npresnet_kernels.cpu.fast.convolution import Convolution
    from npresnet_kernels.cpu.fast.memory import aligned_empty

    shape = Conv(**conv)
    try:
        made = Convolution(
            shape.channels_in,
            shape.channels_out,
            shape.kernel,
            shape.stride,
            shape.padding,
            shape.size,
            shape.size,
            algorithm=algorithm,
            images=batch if direction == "forward" else 0,
        )
    except ValueError as error:
        raise Skip(str(error)) from None
    if algorithm.startswith("winograd") and (shape.kernel, shape.stride) != (3, 1):
        raise Skip("Winograd is for 3x3 kernels of stride 1")

    def make(arrays: Arrays) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:
        x, weight, grad_y = arrays
        scratch = aligned_empty(made.scratch_floats(threads(), training=direction != "forward"))
        if direction == "forward":
            packed, y = made.pack(weight), np.empty_like(grad_y)
            return lambda: made.forward(x, packed, y, scratch), lambda: y
        if direction == "grad_input":
            packed, grad_x = made.pack_grad_input(weight), np.empty_like(x)
            return lambda: made.grad_input(grad_y, packed, grad_x, scratch), lambda: grad_x
        grad = np.empty_like(weight)
        return lambda: made.grad_weight(x, grad_y, grad, scratch), lambda: grad

    note = made.algorithm if made.algorithm != algorithm else ""
    return _work(shape, batch, direction, make, note)


def eager(conv: dict[str, Any], batch: int, direction: str, kernels: str = "cpu") -> Work:
    """A kernel set's function of the contract, as eager calls it."""
    import importlib

    module = importlib.import_module(f"npresnet_kernels.{kernels}")
    shape = Conv(**conv)
    sides = (shape.kernel, shape.kernel)
    rest = ((shape.stride,) * 2, (shape.padding,) * 2, (1, 1), 1)

    def make(arrays: Arrays) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:
        x, weight, grad_y = arrays
        x, grad_y = x.transpose(0, 3, 1, 2), grad_y.transpose(0, 3, 1, 2)
        calls: dict[str, Callable[[], np.ndarray]] = {
            "forward": lambda: module.conv2d(x, weight, None, *rest),
            "grad_input": lambda: module.conv2d_grad_input(grad_y, weight, x.shape, *rest),
            "grad_weight": lambda: module.conv2d_grad_weight(grad_y, x, sides, *rest),
        }
        return _keeping(calls[direction], direction)

    return _work(shape, batch, direction, make)


def torch_conv(conv: dict[str, Any], batch: int, direction: str) -> Work:
    """Torch's convolution in channels_last."""
    import torch

    torch.set_num_threads(threads())
    shape = Conv(**conv)
    sides, pads, ones = [shape.stride] * 2, [shape.padding] * 2, [1, 1]

    def make(arrays: Arrays) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:
        x, weight, grad_y = (torch.from_numpy(array) for array in arrays)
        x, grad_y = x.permute(0, 3, 1, 2), grad_y.permute(0, 3, 1, 2)
        weight = weight.to(memory_format=torch.channels_last)

        def call() -> Any:
            with torch.no_grad():
                if direction == "forward":
                    return torch.conv2d(x, weight, None, sides, pads)
                wanted = [direction == "grad_input", direction == "grad_weight", False]
                grads = torch.ops.aten.convolution_backward(
                    grad_y, x, weight, None, sides, pads, ones, False, [0, 0], 1, wanted
                )
                return grads[wanted.index(True)]

        return _keeping(call, direction, lambda y: y.numpy())

    return _work(shape, batch, direction, make)


def _keeping(
    call: Callable[[], Any], direction: str, to_numpy: Callable[[Any], np.ndarray] = np.asarray
) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:
    """Return `call`, and a function that returns its result as activations in NHWC or weights."""

    def result() -> np.ndarray:
        found = to_numpy(call())
        return found if direction == "grad_weight" else found.transpose(0, 2, 3, 1)

    return call, result
