"""The fast convolutions against a float64 im2col written here, and their promises of sameness."""

import multiprocessing
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npresnet_kernels.cpu import threads as pool
from npresnet_kernels.cpu.fast import parallel
from npresnet_kernels.cpu.fast.convolution import Convolution
from npresnet_kernels.cpu.fast.memory import aligned_empty

# batch, channels in and out, kernel, stride, padding, height, width
LAYERS = [
    (2, 64, 64, 3, 1, 1, 14, 14),
    (5, 17, 33, 3, 1, 1, 13, 9),
    (1, 3, 1, 3, 1, 0, 7, 7),
    (2, 1, 17, 3, 1, 2, 6, 5),
    (1, 160, 96, 3, 1, 1, 7, 7),
    (2, 80, 72, 3, 1, 1, 28, 28),
]
STRIDED = [
    (2, 64, 48, 3, 2, 1, 15, 14),
    (2, 3, 64, 7, 2, 3, 17, 20),
    (1, 64, 40, 1, 2, 0, 9, 8),
    (2, 17, 3, 3, 2, 1, 9, 7),
    (1, 3, 17, 5, 3, 2, 11, 13),
    (1, 21, 17, 3, 2, 1, 9, 9),
    (2, 16, 64, 1, 1, 0, 7, 5),
    (1, 3, 64, 7, 2, 3, 9, 461),
    (2, 3, 40, 3, 2, 1, 6, 500),
    (2, 3, 33, 3, 1, 1, 5, 130),
    (1, 3, 16, 5, 1, 4, 4, 2),
    (2, 16, 16, 2, 2, 0, 6, 7),
    (1, 16, 16, 1, 3, 0, 6, 7),
]
TINY = [
    (5, 32, 64, 3, 1, 1, 1, 1),
    (2, 64, 32, 3, 1, 1, 2, 2),
    (1, 17, 33, 3, 2, 1, 2, 2),
    (5, 32, 32, 3, 2, 1, 2, 2),
    (1, 33, 32, 3, 1, 1, 1, 1),
    (130, 80, 72, 3, 1, 1, 2, 2),
    (3, 16, 17, 3, 2, 2, 1, 2),
    (2, 16, 16, 5, 1, 2, 2, 3),
]
# transformed weights of more than 16 MiB, which are made as they are needed
LARGE = [
    ((2, 384, 320, 3, 1, 1, 5, 6), "winograd4"),
    ((1, 400, 330, 3, 1, 1, 7, 7), "winograd4"),
    ((1, 512, 528, 3, 1, 1, 4, 5), "winograd2"),
]
CASES = [(layer, "direct") for layer in LAYERS + STRIDED + TINY]
CASES += [(layer, form) for layer in LAYERS for form in ("winograd2", "winograd4")]
CASES += LARGE
CASES += [
    ((batch, *channels, 3, 1, 1, 2, 2), "winograd2x2")
    for batch, *channels in ((1, 17, 33), (2, 64, 32), (130, 80, 72))
]
TOLERANCE = {"direct": 5e-6, "winograd2x2": 5e-6, "winograd2": 5e-6, "winograd4": 2e-5}


def columns(x, kernel_size, stride, padding):
    """Return im2col of x (N, H, W, C) as (N, P, Q, R, S, C)."""
    around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, around), (kernel_size, kernel_size), axis=(1, 2)
    )
    return windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)


def reference(x, weight, stride, padding):
    """Return the convolution of x (N, H, W, C) with (K, C, R, S) in float64."""
    windows = columns(x.astype(np.float64), weight.shape[2], stride, padding)
    return np.einsum("npqrsc,kcrs->npqk", windows, weight.astype(np.float64), optimize=True)


def reference_grad_input(grad_y, weight, stride, padding, shape):
    """Return the gradient of x, scattered tap by tap in float64."""
    taps = weight.shape[2]
    padded = np.zeros((shape[0], shape[1] + 2 * padding, shape[2] + 2 * padding, shape[3]))
    rows, cols = stride * grad_y.shape[1], stride * grad_y.shape[2]
    for r in range(taps):
        for s in range(taps):
            part = grad_y.astype(np.float64) @ weight[:, :, r, s].astype(np.float64)
            padded[:, r : r + rows : stride, s : s + cols : stride][
                :, : part.shape[1], : part.shape[2]
            ] += part
    return padded[:, padding : padding + shape[1], padding : padding + shape[2]]


def reference_grad_weight(x, grad_y, kernel_size, stride, padding):
    """Return the gradient of the weights in float64."""
    windows = columns(x.astype(np.float64), kernel_size, stride, padding)
    return np.einsum("npqrsc,npqk->kcrs", windows, grad_y.astype(np.float64), optimize=True)


class Layer:
    """A convolution with random arrays of its shapes."""

    def __init__(self, layer, algorithm, threads=2):
        batch, channels, out, taps, stride, padding, height, width = layer
        rng = np.random.default_rng(0)

        def draw(*shape):
            return rng.standard_normal(shape).astype(np.float32)

        self.convolution = Convolution(
            channels, out, taps, stride, padding, height, width, algorithm
        )
        self.x = draw(batch, height, width, channels)
        self.weight = draw(out, channels, taps, taps)
        self.bias = draw(out)
        self.residual = draw(batch, *self.convolution.output_size, out)
        self.grad_y = draw(*self.residual.shape)
        self.packed = self.convolution.pack(self.weight)
        self.scratch = aligned_empty(self.convolution.scratch_floats(threads, training=True))
        self.scratch[:] = np.nan

    def forward(self, images=slice(None), **options):
        """Return y for some of the images."""
        x = np.ascontiguousarray(self.x[images])
        y = np.full((len(x), *self.residual.shape[1:]), np.nan, dtype=np.float32)
        self.convolution.forward(x, self.packed, y, self.scratch, **options)
        return y


def relative(value, truth):
    """Return the largest error against the truth's spread."""
    return np.abs(value - truth).max() / max(truth.std(), 1e-3)


@pytest.fixture(autouse=True)
def two_threads():
    """Give threads back as they were."""
    before = pool.get_num_threads()
    yield
    pool.set_num_threads(before)


@pytest.mark.parametrize(("shape", "algorithm"), CASES)
def test_forward(shape, algorithm):
    layer = Layer(shape, algorithm)
    truth = reference(layer.x, layer.weight, shape[4], shape[5])
    assert relative(layer.forward(), truth) < TOLERANCE[algorithm]
    truth = np.maximum(truth + layer.bias + layer.residual, 0)
    moments = np.empty((2, shape[2]))
    y = layer.forward(bias=layer.bias, residual=layer.residual, relu=True, moments=moments)
    assert relative(y, truth) < TOLERANCE[algorithm]
    exact = y.astype(np.float64)
    np.testing.assert_allclose(moments[0], exact.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(moments[1], exact.var((0, 1, 2)), rtol=1e-9)


@pytest.mark.parametrize(("shape", "algorithm"), CASES)
def test_gradients(shape, algorithm):
    layer = Layer(shape, algorithm)
    _, _, _, taps, stride, padding, _, _ = shape
    grad_x = np.full(layer.x.shape, np.nan, dtype=np.float32)
    packed = layer.convolution.pack_grad_input(layer.weight)
    layer.convolution.grad_input(layer.grad_y, packed, grad_x, layer.scratch)
    truth = reference_grad_input(layer.grad_y, layer.weight, stride, padding, layer.x.shape)
    assert relative(grad_x, truth) < TOLERANCE[algorithm]

    grad_weight = np.full(layer.weight.shape, np.nan, dtype=np.float32)
    layer.convolution.grad_weight(layer.x, layer.grad_y, grad_weight, layer.scratch)
    truth = reference_grad_weight(layer.x, layer.grad_y, taps, stride, padding)
    # F(3x3, 4x4), which has the points of F(4x4, 3x3), stands for both forms
    form = "direct" if algorithm == "direct" else "winograd4"
    assert relative(grad_weight, truth) < TOLERANCE[form]


@pytest.mark.parametrize(
    ("shape", "algorithm"),
    [
        ((5, 17, 33, 3, 1, 1, 13, 9), "winograd4"),
        ((5, 64, 96, 3, 1, 1, 7, 7), "winograd4"),
        ((40, 64, 32, 3, 1, 1, 8, 8), "winograd4"),
        ((5, 64, 96, 3, 1, 1, 7, 7), "winograd2"),
        ((5, 256, 136, 3, 1, 1, 13, 13), "winograd4"),  # an image alone: by channels
        ((5, 64, 96, 3, 2, 1, 15, 15), "direct"),
        ((5, 3, 64, 7, 2, 3, 33, 32), "direct"),
        ((40, 32, 64, 3, 1, 1, 2, 2), "direct"),
    ],
)
def test_same_bits(shape, algorithm):
    """An image's result is the same alone, in any batch, on any number of threads."""
    most = 4
    layer = Layer(shape, algorithm, threads=most)
    pool.set_num_threads(most)
    whole = layer.forward()
    for threads in range(1, most + 1):
        pool.set_num_threads(threads)
        np.testing.assert_array_equal(layer.forward(), whole)
        for images in (slice(0, 1), slice(3, 4), slice(1, 4)):
            np.testing.assert_array_equal(layer.forward(images), whole[images])


def test_gradients_same_bits_on_any_threads():
    most = 4
    for shape, algorithm in (
        ((3, 17, 33, 3, 1, 1, 13, 9), "winograd4"),
        ((3, 32, 64, 3, 2, 1, 15, 15), "direct"),
        ((3, 3, 64, 7, 2, 3, 33, 32), "direct"),
        ((9, 80, 64, 3, 1, 1, 2, 2), "direct"),
        ((9, 80, 64, 3, 1, 1, 2, 2), "winograd2x2"),
    ):
        layer = Layer(shape, algorithm, threads=most)
        packed = layer.convolution.pack_grad_input(layer.weight)
        results = []
        for threads in (1, most):
            pool.set_num_threads(threads)
            grad_x, grad_weight = np.empty_like(layer.x), np.empty_like(layer.weight)
            layer.convolution.grad_input(layer.grad_y, packed, grad_x, layer.scratch)
            layer.convolution.grad_weight(layer.x, layer.grad_y, grad_weight, layer.scratch)
            results.append((grad_x, grad_weight))
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("shape", "algorithm"),
    [
        ((5, 17, 33, 3, 1, 1, 13, 9), "winograd4"),  # blocks of tiles, or groups of channels
        ((40, 64, 32, 3, 1, 1, 8, 8), "winograd2"),
        ((1, 160, 96, 3, 1, 1, 7, 7), "winograd4"),
        ((5, 64, 96, 3, 2, 1, 15, 15), "direct"),
        ((2, 64, 200, 1, 1, 0, 5, 5), "direct"),  # one block, by parts of its channels
        ((5, 3, 64, 7, 2, 3, 33, 32), "direct"),  # images: several rows, or a part of one
        ((2, 3, 40, 3, 1, 1, 5, 250), "direct"),
        ((70, 32, 64, 3, 1, 1, 2, 2), "direct"),  # a pixel of many images
    ],
)
def test_moments_have_the_same_bits_on_any_threads(shape, algorithm):
    """Whoever finishes a band of rows, or a block, sums it up."""
    layer = Layer(shape, algorithm, threads=4)
    layer.x += 3  # means far from 0, where squares cancel
    found = []
    for threads in (1, 2, 4, 4, 4):
        pool.set_num_threads(threads)
        moments = np.full((2, shape[2]), np.nan)
        y = layer.forward(moments=moments)
        found.append(moments)
    for moments in found:
        np.testing.assert_array_equal(moments, found[0])
    exact = y.astype(np.float64)
    np.testing.assert_allclose(found[0][0], exact.mean((0, 1, 2)), rtol=1e-11)
    np.testing.assert_allclose(found[0][1], exact.var((0, 1, 2)), rtol=1e-9)


@st.composite
def layers(draw):
    """Any small layer, with an algorithm that can do it."""
    kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, kernel - 1))
    least = max(kernel - 2 * padding, 1)
    size = (least + draw(st.integers(0, 20)), least + draw(st.integers(0, 20)))
    channels = draw(st.sampled_from([1, 3, 16, 17, 32])), draw(st.integers(1, 70))
    algorithm = "direct"
    if kernel == 3 and stride == 1:
        algorithm = draw(st.sampled_from(["direct", "winograd2", "winograd4"]))
    return (draw(st.integers(0, 9)), *channels, kernel, stride, padding, *size), algorithm


@settings(max_examples=60, deadline=None)
@given(case=layers(), threads=st.integers(1, 4), clamped=st.booleans())
def test_moments_of_any_shape(case, threads, clamped):
    """They are those of y in float64, NaN of none; y is what it is without them."""
    layer = Layer(*case, threads=threads)
    layer.x += 3
    moments = np.empty((2, case[0][2]))
    more = {"bias": layer.bias, "residual": layer.residual, "relu": True} if clamped else {}
    pool.set_num_threads(threads)
    y = layer.forward(moments=moments, **more)
    np.testing.assert_array_equal(y, layer.forward(**more))
    if not len(y):
        assert np.isnan(moments).all()
        return
    exact = y.astype(np.float64)
    largest = np.abs(exact).max(initial=0)
    np.testing.assert_allclose(moments[0], exact.mean((0, 1, 2)), rtol=1e-11, atol=1e-14 * largest)
    np.testing.assert_allclose(moments[1], exact.var((0, 1, 2)), rtol=1e-9, atol=1e-14 * largest**2)


@pytest.mark.parametrize("algorithm", ["winograd4", "winograd2", "direct"])
def test_nan_travels(algorithm):
    layer = Layer((2, 17, 33, 3, 1, 1, 13, 9), algorithm)
    layer.x[1, 6, 4, 3] = np.nan
    y = layer.forward(relu=True)
    assert np.isnan(y[1, 5:8, 3:6]).all()
    assert not np.isnan(y[0]).any()


def test_repacking_in_place():
    layer = Layer((2, 17, 33, 3, 1, 1, 13, 9), "winograd4")
    out = aligned_empty(layer.packed.size)
    out[:] = np.nan
    assert layer.convolution.pack(layer.weight, out=out) is out
    np.testing.assert_array_equal(out, layer.packed)


def test_large_weights_are_read_as_they_are():
    layer = Layer((1, 512, 528, 3, 1, 1, 4, 5), "winograd2")
    assert layer.packed is layer.weight
    assert layer.convolution.packed_size == layer.convolution.packed_grad_size == 0


def test_empty_batch():
    layer = Layer((2, 16, 16, 3, 1, 1, 5, 5), "winograd4")
    assert layer.forward(slice(0, 0)).shape == (0, 5, 5, 16)


@pytest.mark.parametrize(
    ("shape", "algorithm"),
    [
        ((1, 16, 16, 3, 1, 1, 5, 5), "winograd4"),
        ((1, 16, 16, 3, 1, 1, 9, 9), "direct"),
        ((1, 64, 16, 3, 1, 1, 1, 1), "direct"),
    ],
)
def test_no_images_no_weight_gradient(shape, algorithm):
    layer = Layer(shape, algorithm)
    grad_weight = np.full(layer.weight.shape, np.nan, dtype=np.float32)
    layer.convolution.grad_weight(layer.x[:0], layer.grad_y[:0], grad_weight, layer.scratch)
    assert not grad_weight.any()


def test_several_python_threads_at_once():
    """Calls in flight share nothing but packed weights."""
    layer = Layer((2, 32, 32, 3, 1, 1, 14, 14), "winograd4")
    whole = layer.forward()
    rooms = [np.empty_like(layer.scratch) for _ in range(4)]

    def work(room):
        y = np.empty_like(whole)
        for _ in range(20):
            layer.convolution.forward(layer.x, layer.packed, y, room)
        return y

    with ThreadPoolExecutor(4) as callers:
        for y in callers.map(work, rooms):
            np.testing.assert_array_equal(y, whole)


def _child(queue):
    queue.put(Layer(CHILD, "winograd4").forward())


CHILD = (2, 32, 32, 3, 1, 1, 14, 14)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes(method):
    """OpenMP's threads don't survive a fork; a child must not wait for them."""
    pool.set_num_threads(2)
    whole = Layer(CHILD, "winograd4").forward()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks with threads
        child = context.Process(target=_child, args=(queue,))
        child.start()
    np.testing.assert_array_equal(queue.get(timeout=60), whole)
    child.join(60)
    assert child.exitcode == 0


def test_without_openmp(monkeypatch):
    pool.set_num_threads(3)
    layer = Layer((2, 17, 33, 3, 1, 1, 13, 9), "winograd4", threads=3)
    whole = layer.forward()
    monkeypatch.setattr(parallel, "_loaded_openmp", lambda: None)
    np.testing.assert_array_equal(layer.forward(), whole)
