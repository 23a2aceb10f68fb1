"""Convolutions by wgmma and TMA on the device: layers of ResNets, against float64."""

from __future__ import annotations

import pytest

from npresnet_kernels.gpu.device import array_module
from tests.gpu.conftest import SHIM
from tests.kernels.gpu import hopper_parts as parts
from tests.kernels.gpu import products_against_truth as against
from tests.kernels.gpu.products_against_truth import Layer

LAYERS = {
    "layer1": Layer((4, 56, 56, 64), 64, (3, 3), padding=(1, 1)),
    "layer2, its first": Layer((3, 56, 56, 64), 128, (3, 3), (2, 2), (1, 1)),
    "layer2, its shortcut": Layer((3, 56, 56, 64), 128, (1, 1), (2, 2)),
    "layer2, the wide tile": Layer((44, 28, 28, 128), 128, (3, 3), padding=(1, 1)),
    "layer4": Layer((5, 7, 7, 512), 512, (3, 3), padding=(1, 1)),
    "groups and dilation": Layer((3, 28, 28, 128), 128, (3, 3), (1, 1), (2, 2), (2, 2), 2),
    "odd sizes": Layer((3, 29, 31, 192), 131, (5, 3), (2, 1), (2, 0)),
}
if SHIM:
    LAYERS = {"small": Layer((2, 5, 6, 64), 64, (3, 3), padding=(1, 1))}


@pytest.fixture(autouse=True)
def hopper():
    capability = int(array_module().cuda.Device().compute_capability)
    if capability != 90:
        pytest.skip(f"wgmma needs a GPU of compute capability 9.0, this has {capability / 10:.1f}")


def test_copies(rng):
    parts.check_a_column()
    for step in ((1, 1), (2, 2), (2, 1)):
        parts.check_offsets(step, rng)
    parts.check_a_box(rng)


@pytest.mark.parametrize("turned", [False, True])
def test_products(turned, rng):
    parts.check_a_product(turned, rng)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_by_wgmma(name, precision, rng):
    layer = LAYERS[name]._replace(algorithm="wgmma")
    against.assert_forward(layer, precision, rng, moments=True)
    against.assert_forward(layer, precision, rng, bias=True, residual=True, relu=True)
    against.assert_forward(layer, precision, rng, scale=True, bias=True, relu=True)
    against.assert_grad_input(layer, precision, rng)
    against.assert_grad_input(layer, precision, rng, accumulate=True)
    against.assert_grad_weight(layer, precision, rng)
