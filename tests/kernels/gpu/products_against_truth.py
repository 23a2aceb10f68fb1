"""Plans' convolutions and linear layers against float64, on whatever ``array_module`` is.

Truth is computed from the operands as they are stored, so what is left is the sums' rounding and
the results': |error| <= u |y| + n eps (|x| * |w| + ...), with u the unit roundoff of the type of y
and n additions in float32 (Higham 2002, *Accuracy and Stability of Numerical Algorithms*, 3.1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from npresnet_kernels import reference
from npresnet_kernels.gpu.convolution import Convolution
from npresnet_kernels.gpu.dense import Dense
from npresnet_kernels.gpu.device import array_module
from npresnet_kernels.gpu.plan_pool import max_pool_forward
from npresnet_kernels.gpu.precision import use_precision
from npresnet_kernels.shapes import ConvShape, PoolWindow, conv_output_size

EPS = 2.0**-24

ROUNDING = {"fp32": EPS, "tf32": EPS, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Unit roundoff of what is stored."""

DTYPES = {"fp32": np.float32, "tf32": np.float32, "fp16": np.float16, "bf16": np.uint16}


class Layer(NamedTuple):
    """A convolution of NHWC maps."""

    x: tuple[int, int, int, int]
    outs: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    algorithm: str = "auto"

    @property
    def weight(self) -> tuple[int, int, int, int]:
        return (self.outs, self.x[3] // self.groups, *self.kernel)

    def made(self, precision: str) -> Convolution:
        _, height, width, channels = self.x
        maps = (channels, height, width)
        with use_precision("tf32" if precision == "tf32" else "fp32"):
            window = self.stride, self.padding, self.dilation
            shape = ConvShape(maps, self.weight, *window, self.groups)
            return Convolution(shape, DTYPES[precision], self.algorithm)

    @property
    def window(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups


def to_bits(x: np.ndarray) -> np.ndarray:
    """float32 as bfloat16's bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bits(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def stored(x: np.ndarray, precision: str) -> np.ndarray:
    """Numbers as arrays of a precision hold them."""
    return to_bits(x) if precision == "bf16" else x.astype(DTYPES[precision])


def values(x: np.ndarray) -> np.ndarray:
    """What an array holds, in float64."""
    return (from_bits(x) if x.dtype == np.uint16 else x).astype(np.float64)


def multiplied(x: np.ndarray, precision: str) -> np.ndarray:
    """Numbers as a product takes them: TF32 has 10 bits of mantissa, ties go away from zero."""
    if precision != "tf32":
        return values(stored(x, precision))
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(np.float64)


def device(x: np.ndarray | None) -> Any:
    return None if x is None else array_module().asarray(x)


def host(x: Any) -> np.ndarray:
    found: np.ndarray = array_module().asnumpy(x)
    return found


def unwritten(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of NaN, whatever the type."""
    xp = array_module()
    return xp.full(shape, 0x7FFF if dtype == np.uint16 else np.nan, dtype)


def scratch(layer: Convolution | Dense, batch: int, **more: Any) -> Any:
    return unwritten((layer.scratch_floats(1, True, batch, **more),), np.float32)


def nchw(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2)


def nhwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


def assert_within(
    result: Any, truth: np.ndarray, size: np.ndarray, terms: int, unit: float
) -> None:
    """``size`` is the sum of the magnitudes of what was added up, ``terms`` how many those are."""
    error = np.abs(values(host(result)) - truth)
    bound = unit * np.abs(truth) + (terms + 4) * EPS * size * (1 + unit)
    if unit == ROUNDING["fp16"]:
        bound += 2.0**-25  # half the distance of numbers below 2^-14
    assert (error <= bound).all(), f"error {(error / bound).max():.2f} times the bound"


def assert_forward(
    layer: Layer,
    precision: str,
    rng: np.random.Generator,
    *,
    scale: bool = False,
    bias: bool = False,
    residual: bool = False,
    relu: bool = False,
    moments: bool = False,
    padded: bool = False,
) -> None:
    made = layer.made(precision)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (layer.x, layer.weight))
    x += np.float32(3) * moments  # means that aren't small beside the deviations
    size = (layer.x[0], *made.output, layer.outs)
    s = rng.standard_normal(layer.outs).astype(np.float32) if scale else None
    b = rng.standard_normal(layer.outs).astype(np.float32) if bias else None
    r = stored(rng.standard_normal(size).astype(np.float32), precision) if residual else None
    y = unwritten(size, DTYPES[precision])
    pair = unwritten((2, layer.outs), np.float32) if moments else None
    image = stored(x, precision)
    if padded:
        short = made.input_channels - layer.x[3]
        image = np.pad(image, ((0, 0), (0, 0), (0, 0), (0, short)))
    packed = made.pack(device(w))
    assert packed.size == made.packed_size
    more = {"bias": device(b), "residual": device(r), "relu": relu, "moments": pair}
    room = scratch(made, layer.x[0], channels=image.shape[3])
    made.forward(device(image), packed, y, room, scale=device(s), **more)

    a, c = multiplied(x, precision), multiplied(w, precision)
    product = nhwc(reference.conv2d(nchw(a), c, None, *layer.window))
    magnitude = nhwc(reference.conv2d(nchw(np.abs(a)), np.abs(c), None, *layer.window))
    terms = int(np.prod(layer.weight[1:]))
    truth, total = product, magnitude
    if s is not None:
        truth, total = truth * s, total * np.abs(s)
    if b is not None:
        truth, total = truth + b, total + np.abs(b)
    if pair is not None:
        rows = truth.reshape(-1, layer.outs)
        mean, variance = values(host(pair))
        largest = total.reshape(-1, layer.outs).max(0)
        spread = rows.std(0)
        error = (terms + 4) * EPS * largest  # of one sum
        assert (np.abs(mean - rows.mean(0)) <= error + 64 * EPS * largest).all()
        assert (np.abs(variance - rows.var(0)) <= 2 * error * spread + 64 * EPS * spread**2).all()
    if r is not None:
        truth, total = truth + values(r), total + np.abs(values(r))
    if relu:
        truth = np.maximum(truth, 0)
    assert_within(y, truth, total, terms, ROUNDING[precision])


def assert_pooled(
    layer: Layer,
    window: tuple[int, int, int],
    precision: str,
    rng: np.random.Generator,
    *,
    bias: bool = True,
    relu: bool = True,
) -> None:
    """One kernel writes the bits of two, wherever NaN, infinities and equal numbers stand."""
    made = layer.made(precision)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (layer.x, layer.weight))
    x.reshape(-1)[rng.integers(0, x.size, 3)] = np.nan, np.inf, -np.inf
    x[-1, : layer.x[1] // 2] = 0
    b = rng.standard_normal(layer.outs).astype(np.float32) if bias else None
    dtype = DTYPES[precision]
    between = unwritten((layer.x[0], *made.output, layer.outs), dtype)
    there, packed = device(stored(x, precision)), made.pack(device(w))
    room = scratch(made, layer.x[0])
    made.forward(there, packed, between, room, device(b), relu=relu)
    rule = [(n, n) for n in (*window, 1)]
    size = (layer.x[0], *conv_output_size(made.output, *rule), layer.outs)
    truth, y = unwritten(size, dtype), unwritten(size, dtype)
    max_pool_forward(between, truth, None, PoolWindow(*rule))
    names = dict(zip(("window", "stride", "padding"), window, strict=True))
    made.forward_pooled(there, packed, y, room, device(b), relu, **names)
    np.testing.assert_array_equal(host(y), host(truth))


def assert_grad_input(
    layer: Layer, precision: str, rng: np.random.Generator, *, accumulate: bool = False
) -> None:
    made = layer.made(precision)
    size = (layer.x[0], *made.output, layer.outs)
    dy, w = (rng.standard_normal(s).astype(np.float32) for s in (size, layer.weight))
    before = stored(rng.standard_normal(layer.x).astype(np.float32), precision)
    dx = device(before) if accumulate else unwritten(layer.x, DTYPES[precision])
    packed = made.pack_grad_input(device(w))
    assert packed.size == made.packed_grad_size
    made.grad_input(
        device(stored(dy, precision)), packed, dx, scratch(made, layer.x[0]), accumulate
    )
    a, c = multiplied(dy, precision), multiplied(w, precision)
    shape = nchw(np.empty(layer.x)).shape
    truth = nhwc(reference.conv2d_grad_input(nchw(a), c, shape, *layer.window))
    total = nhwc(reference.conv2d_grad_input(nchw(np.abs(a)), np.abs(c), shape, *layer.window))
    if accumulate:
        truth, total = truth + values(before), total + np.abs(values(before))
    terms = layer.outs // layer.groups * int(np.prod(layer.kernel))
    assert_within(dx, truth, total, terms, ROUNDING[precision])


def assert_grad_weight(layer: Layer, precision: str, rng: np.random.Generator) -> None:
    made = layer.made(precision)
    size = (layer.x[0], *made.output, layer.outs)
    x, dy = (rng.standard_normal(s).astype(np.float32) for s in (layer.x, size))
    operands = device(stored(x, precision)), device(stored(dy, precision))
    results = [unwritten(layer.weight, np.float32) for _ in range(2)]
    for dw in results:
        made.grad_weight(*operands, dw, scratch(made, layer.x[0]))
    np.testing.assert_array_equal(host(results[0]), host(results[1]))  # to the bit
    a, c = multiplied(x, precision), multiplied(dy, precision)
    options = (layer.kernel, *layer.window)
    truth = reference.conv2d_grad_weight(nchw(c), nchw(a), *options)
    total = reference.conv2d_grad_weight(nchw(np.abs(c)), nchw(np.abs(a)), *options)
    assert_within(results[0], truth, total, int(np.prod(size[:3])), EPS)


def assert_dense(
    rows: int,
    ins: int,
    outs: int,
    precision: str,
    rng: np.random.Generator,
    *,
    wide: bool = False,
) -> None:
    """Forward and gradients; ``wide``: x in float32 whatever the precision."""
    with use_precision("tf32" if precision == "tf32" else "fp32"):
        layer = Dense(ins, outs, DTYPES[precision])
    shapes = (rows, ins), (outs, ins), (outs,), (rows, outs)
    x, w, b, dy = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    room = scratch(layer, rows)
    given = device(x if wide else stored(x, precision))
    y, dw = unwritten((rows, outs), np.float32), unwritten((outs, ins), np.float32)
    dx = unwritten((rows, ins), DTYPES[precision])
    layer.forward(given, layer.pack(device(w)), y, room, device(b))
    layer.grad_input(device(dy), layer.pack_grad_input(device(w)), dx, room)
    layer.grad_weight(given, device(dy), dw, room)

    a, c, g = (multiplied(v, precision) for v in (x, w, dy))
    assert_within(y, a @ c.T + b, np.abs(a) @ np.abs(c).T + np.abs(b), ins, EPS)
    assert_within(dx, g @ c, np.abs(g) @ np.abs(c), outs, ROUNDING[precision])
    assert_within(dw, g.T @ a, np.abs(g).T @ np.abs(a), rows, EPS)
