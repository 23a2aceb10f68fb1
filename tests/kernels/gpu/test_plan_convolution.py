"""Plans' convolutions and linear layers on the host shim: every epilogue, at every tile's edges."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels.gpu import products
from npresnet_kernels.gpu.errors import DeviceError
from npresnet_kernels.gpu.graph import recorder
from npresnet_kernels.gpu.tiles import TILES
from tests.kernels.gpu import products_against_truth as against
from tests.kernels.gpu.products_against_truth import Layer
from tests.shim import build, fake_cupy

pytestmark = [
    pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++"),
    pytest.mark.usefixtures("host"),
]

LAYERS = {
    "one channel short": Layer((1, 9, 8, 31), 63, (3, 3), padding=(1, 1)),
    "whole vectors": Layer((2, 5, 7, 16), 72, (3, 3), (2, 2), (1, 1)),
    "a stem": Layer((1, 10, 14, 3), 8, (7, 7), (2, 2), (3, 3)),
    "an odd stem": Layer((1, 11, 13, 3), 8, (7, 7), (2, 2), (3, 3)),
    "one pixel": Layer((2, 7, 6, 16), 24, (1, 1), (2, 2)),
    "groups of one channel": Layer((2, 5, 6, 9), 9, (3, 3), (2, 2), (1, 1), groups=9),
    "groups in slices": Layer((1, 4, 5, 128), 192, (1, 3), padding=(0, 1), groups=4),
    "a group a slice": Layer((1, 3, 4, 128), 128, (2, 2), (1, 2), groups=2),
    "dilation": Layer((2, 8, 9, 8), 16, (3, 2), (2, 1), (2, 1), (2, 3)),
    "shares": Layer((2, 23, 19, 4), 5, (1, 3), padding=(0, 1)),
}
EPILOGUES = (
    *("bias", "relu", "moments", "bias moments", "bias relu", "bias residual relu"),
    *("scale bias relu", "scale bias residual relu"),
)
each_precision = pytest.mark.parametrize("precision", against.DTYPES)


@pytest.fixture
def host():
    with fake_cupy.installed(), fake_cupy.Device(0):
        yield


def options(words: str) -> dict[str, bool]:
    return dict.fromkeys(words.split(), True)


@each_precision
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_and_its_gradients(name, precision, rng):
    layer = LAYERS[name]
    against.assert_forward(layer, precision, rng, moments=True)
    against.assert_grad_input(layer, precision, rng)
    against.assert_grad_input(layer, precision, rng, accumulate=True)
    against.assert_grad_weight(layer, precision, rng)


@each_precision
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_epilogues(epilogue, precision, rng):
    for name in ("whole vectors", "shares"):  # stores of vectors, and of numbers one by one
        against.assert_forward(LAYERS[name], precision, rng, **options(epilogue))


@each_precision
@pytest.mark.parametrize("tile", TILES[:-1])
def test_large_tiles(tile, precision, rng, monkeypatch):
    monkeypatch.setattr(products, "choose_tile", lambda *_: tile)
    layer = Layer((1, 10, 13, 8), 136, (2, 2))  # 108 rows, 136 columns
    against.assert_forward(layer, precision, rng, **options("bias residual relu moments"))
    against.assert_grad_weight(layer, precision, rng)


@each_precision
def test_images_that_come_padded(precision, rng):
    against.assert_forward(LAYERS["a stem"], precision, rng, bias=True, padded=True)


POOLED = {  # a convolution, and the pool behind it
    "a stem": (Layer((2, 66, 62, 3), 64, (7, 7), (2, 2), (3, 3)), (3, 2, 1)),
    "an odd stem": (Layer((1, 35, 37, 3), 8, (7, 7), (2, 2), (3, 3)), (3, 2, 1)),
    "columns beyond a tile": (Layer((1, 9, 17, 4), 72, (1, 1)), (2, 2, 0)),
    "neighbours": (Layer((1, 16, 15, 4), 16, (2, 3), padding=(0, 1)), (3, 1, 1)),
    "gaps": (Layer((3, 19, 20, 8), 16, (3, 3), dilation=(2, 1)), (2, 3, 0)),
    "the widest window": (Layer((1, 17, 18, 4), 8, (1, 1)), (15, 1, 7)),
}


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
@pytest.mark.parametrize("name", POOLED)
def test_a_max_pool_on_the_way_out(name, precision, rng):
    against.assert_pooled(*POOLED[name], precision, rng)
    against.assert_pooled(*POOLED[name], precision, rng, bias=False, relu=False)


def test_a_pool_is_taken_in_where_little_is_computed_twice(rng):
    resnet = Layer((1, 224, 224, 3), 64, (7, 7), (2, 2), (3, 3))
    assert not resnet.made("fp32").pays_pooled(3, 2, 1)
    for precision in ("tf32", "fp16", "bf16"):
        assert resnet.made(precision).pays_pooled(3, 2, 1)
        assert not resnet._replace(x=(1, 224, 224, 64)).made(precision).pays_pooled(3, 2, 1)
        assert not resnet._replace(x=(1, 70, 70, 3)).made(precision).pays_pooled(3, 2, 1)
        assert not resnet._replace(outs=62).made(precision).pays_pooled(3, 2, 1)
        assert not resnet.made(precision).pays_pooled(17, 1, 0)
    with pytest.raises(DeviceError, match="ask pays_pooled"):
        against.assert_pooled(resnet._replace(x=(1, 9, 9, 3)), (3, 2, 1), "fp32", rng)
    groups = Layer((1, 64, 64, 128), 128, (1, 1), groups=2)
    assert groups._replace(groups=1).made("bf16").pays_pooled(2, 2, 0)
    assert not groups.made("bf16").pays_pooled(2, 2, 0)


def test_a_stem_of_16_bits_takes_pixels_in_pairs(rng):
    made = LAYERS["a stem"].made("bf16")
    assert made.input_channels == 4
    assert made.packed_size == 8 * 7 * 4 * 8  # seven rows of four pairs, each a vector
    assert LAYERS["an odd stem"].made("bf16").input_channels == 8
    assert LAYERS["a stem"].made("fp32").input_channels == 4


@each_precision
def test_linear_layers(precision, rng):
    against.assert_dense(3, 20, 10, precision, rng, wide=True)
    against.assert_dense(70, 16, 65, precision, rng)


def test_many_blocks_moments_are_joined_in_groups(rng, monkeypatch):
    monkeypatch.setattr(products, "JOINED", 2)
    against.assert_forward(LAYERS["shares"], "fp32", rng, moments=True)  # 874 rows, 14 blocks


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_call_can_be_recorded(precision, rng):
    """Nothing allocates, copies, waits or calls cuBLAS; what packs is among it."""
    layer = LAYERS["a stem"]._replace(outs=9)
    made = layer.made(precision)
    dtype = against.DTYPES[precision]
    x, dy = (
        against.device(against.stored(rng.standard_normal(s).astype(np.float32), precision))
        for s in (layer.x, (1, *made.output, 9))
    )
    w, b = (against.device(rng.standard_normal(s).astype("f")) for s in (layer.weight, (9,)))
    packed, turned = (
        against.unwritten((n,), dtype) for n in (made.packed_size, made.packed_grad_size)
    )
    y, dx = against.unwritten(dy.shape, dtype), against.unwritten(layer.x, dtype)
    moments, dw = (against.unwritten(s, np.float32) for s in ((2, 9), layer.weight))
    room = against.scratch(made, 1)

    def run():
        made.pack(w, packed)
        made.pack_grad_input(w, turned)
        made.forward(x, packed, y, room, b, relu=True, moments=moments)
        made.grad_input(dy, turned, dx, room)
        made.grad_weight(x, dy, dw, room)

    replay = recorder().record(run)
    results = [against.host(a) for a in (y, moments, dx, dw)]
    for a in (y, moments, dx, dw):
        a.fill(0)
    replay()
    for result, again in zip(results, (y, moments, dx, dw), strict=True):
        np.testing.assert_array_equal(against.host(again), result)
        assert again.any()


def test_nan_passes_a_relu(rng):
    layer = LAYERS["one pixel"]
    made = layer.made("fp16")
    x = rng.standard_normal(layer.x).astype(np.float16)
    x[0, 0, 0, 0] = np.nan
    w = rng.standard_normal(layer.weight).astype(np.float32)
    y = against.unwritten((2, *made.output, layer.outs), np.float16)
    packed = made.pack(against.device(w))
    made.forward(against.device(x), packed, y, against.scratch(made, 2), relu=True)
    wrong = np.isnan(against.host(y))
    assert wrong[0, 0, 0].all()
    assert wrong.sum() == layer.outs


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("bf16", r'bfloat16 needs .* 8\.0, this one has 7\.5: use precision="fp16"'),
        ("tf32", r'TF32 needs .* 8\.0, this one has 7\.5: use precision="fp32"'),
    ],
)
def test_a_device_too_old_for_a_precision(precision, message, monkeypatch):
    monkeypatch.setattr(fake_cupy.Device, "compute_capability", "75")
    LAYERS["one pixel"].made("fp16")
    LAYERS["one pixel"].made("fp32")
    with pytest.raises(DeviceError, match=message):
        LAYERS["one pixel"].made(precision)


def test_too_little_scratch(rng):
    layer = LAYERS["one pixel"]
    made = layer.made("fp32")
    x, dy = (against.unwritten(s, np.float32) for s in (layer.x, (2, *made.output, layer.outs)))
    dw, little = (against.unwritten(s, np.float32) for s in (layer.weight, (64,)))
    with pytest.raises(DeviceError, match=r"needs \d+ bytes of scratch, got 256"):
        made.grad_weight(x, dy, dw, little)
