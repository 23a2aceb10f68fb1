"""Products by wgmma on the host shim: at their tiles' edges, with every epilogue, and refused."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels.gpu import hopper, tensor_map
from npresnet_kernels.gpu.errors import DeviceError
from npresnet_kernels.gpu.graph import recorder
from npresnet_kernels.gpu.hopper import HopperProduct
from tests.kernels.gpu import products_against_truth as against
from tests.kernels.gpu.products_against_truth import Layer
from tests.shim import build, fake_cupy

pytestmark = [
    pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++"),
    pytest.mark.usefixtures("host"),
]

DRIVER = tensor_map.driver  # before its stand-in hides it


def forced(x, outs, kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    return Layer(x, outs, kernel, stride, padding, dilation, groups, "wgmma")


# Rows are no multiple of 128 anywhere; images end within a tile.
LAYERS = {
    "several images in a tile": forced((4, 6, 7, 64), 64, (3, 3), padding=(1, 1)),
    "several tiles, odd columns": forced((2, 11, 13, 64), 72, (3, 3), padding=(1, 1)),
    "stride 2": forced((3, 9, 8, 64), 64, (3, 3), (2, 2), (1, 1)),
    "one pixel, stride 2": forced((2, 7, 9, 128), 128, (1, 1), (2, 2)),
    "two slices, odd window": forced((2, 8, 5, 128), 64, (2, 5), (2, 1), (0, 3)),
    "groups and holes": forced((1, 9, 8, 128), 144, (3, 3), (1, 1), (2, 2), (2, 2), 2),
    "columns one by one": forced((1, 5, 5, 64), 13, (1, 1)),
}
EPILOGUES = ("bias", "relu moments", "bias residual relu", "scale bias residual relu")
each_precision = pytest.mark.parametrize("precision", ["fp16", "bf16"])


@pytest.fixture
def host():
    with fake_cupy.installed(), fake_cupy.Device(0):
        yield


def options(words):
    return dict.fromkeys(words.split(), True)


@each_precision
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_and_its_gradient(name, precision, rng):
    layer = LAYERS[name]
    fake_cupy.launched.clear()
    against.assert_forward(layer, precision, rng, moments=True)
    assert fake_cupy.launched[1] == "hopper_product"
    against.assert_grad_input(layer, precision, rng)
    against.assert_grad_input(layer, precision, rng, accumulate=True)
    fake_cupy.launched.clear()
    against.assert_grad_weight(layer, precision, rng)
    assert "hopper_weight" in fake_cupy.launched


@each_precision
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_epilogues(epilogue, precision, rng):
    for name in ("several images in a tile", "columns one by one"):
        against.assert_forward(LAYERS[name], precision, rng, **options(epilogue))


@each_precision
def test_the_wide_tile(precision, rng, monkeypatch):
    monkeypatch.setattr(hopper, "MULTIPROCESSORS", 1)
    layer = forced((1, 12, 13, 64), 136, (2, 2))
    against.assert_forward(layer, precision, rng, **options("bias residual relu moments"))
    against.assert_grad_input(layer._replace(outs=192), precision, rng)


def test_the_tile_is_wide_where_it_fills_a_device():
    product = forced((1, 56, 56, 64), 256, (3, 3), padding=(1, 1)).made("fp16")._forward
    assert product._tile(1) == hopper.NARROW  # 25 x 2 blocks
    assert product._tile(4) == hopper.WIDE
    narrow = forced((1, 56, 56, 64), 64, (3, 3), padding=(1, 1)).made("fp16")._forward
    assert narrow._tile(256) == hopper.NARROW


@each_precision
def test_the_sum_over_pixels_in_shares(precision, rng):
    layer = forced((2, 28, 27, 64), 136, (1, 1))  # 1,512 pixels: 8 stages of 64 a share
    assert layer.made(precision)._weight._shares(2) == (hopper.WIDE, 8, 3)
    against.assert_grad_weight(layer, precision, rng)


def test_gradients_of_odd_channels_are_left_to_the_other_products():
    made = LAYERS["several tiles, odd columns"].made("fp16")
    assert isinstance(made._forward, HopperProduct)
    assert not any(isinstance(product, HopperProduct) for _, product in made._parities)
    parities = LAYERS["one pixel, stride 2"].made("fp16")._parities
    assert [isinstance(product, HopperProduct) for _, product in parities] == [True, *[False] * 3]


def test_it_can_be_recorded(rng):
    layer = LAYERS["stride 2"]
    made = layer.made("fp16")
    x = against.device(rng.standard_normal(layer.x).astype(np.float16))
    w = against.device(rng.standard_normal(layer.weight).astype(np.float32))
    packed = against.unwritten((made.packed_size,), np.float16)
    y = against.unwritten((layer.x[0], *made.output, layer.outs), np.float16)
    room = against.scratch(made, layer.x[0])

    def run():
        made.pack(w, packed)
        made.forward(x, packed, y, room)

    replay = recorder().record(run)
    result = against.host(y)
    y.fill(0)
    replay()
    np.testing.assert_array_equal(against.host(y), result)


@pytest.mark.parametrize(
    ("layer", "precision", "message"),
    [
        (forced((1, 8, 8, 32), 64, (3, 3)), "fp16", "channels must be a multiple of 64, got 32"),
        (forced((1, 40, 40, 64), 64, (1, 1), (9, 9)), "bf16", "reach further"),
        (forced((1, 8, 8, 64), 64, (1, 1), padding=(129, 0)), "bf16", "reach further"),
    ],
)
def test_what_it_does_not_compute(layer, precision, message):
    with pytest.raises(DeviceError, match=rf'"wgmma" can\'t compute this: .*{message}.*"auto"'):
        layer.made(precision)


def test_float32_is_refused():
    with pytest.raises(DeviceError, match=r"needs float16 or bfloat16, got float32: use prec.*16"):
        LAYERS["stride 2"].made("fp32")


@pytest.mark.parametrize("capability", ["80", "89", "100", "120"])
def test_other_devices(capability, monkeypatch):
    monkeypatch.setattr(fake_cupy.Device, "compute_capability", capability)
    with pytest.raises(
        DeviceError, match=rf"needs .* 9\.0 .*, this one has {int(capability) / 10}"
    ):
        LAYERS["stride 2"].made("fp16")


def test_a_driver_that_is_not_there(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(tensor_map.ctypes, "CDLL", missing)
    with pytest.raises(DeviceError, match=r"can't load the driver's .*: install the driver"):
        DRIVER.__wrapped__()


def test_a_driver_that_is_too_old(monkeypatch, rng):
    monkeypatch.setattr(tensor_map, "driver", object)
    with pytest.raises(DeviceError, match="this driver has no cuTensorMapEncodeIm2col: update it"):
        against.assert_forward(LAYERS["stride 2"], "fp16", rng)
