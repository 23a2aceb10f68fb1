"""Plans' convolutions and linear layers on the device: layers of ResNets, in every precision."""

from __future__ import annotations

import pytest

from npresnet_kernels.gpu.device import array_module
from tests.gpu.conftest import SHIM
from tests.kernels.gpu import products_against_truth as against
from tests.kernels.gpu.products_against_truth import Layer

LAYERS = {
    "stem": Layer((4, 224, 224, 3), 64, (7, 7), (2, 2), (3, 3)),
    "layer1": Layer((4, 56, 56, 64), 64, (3, 3), padding=(1, 1)),
    "layer2, its first": Layer((3, 56, 56, 64), 128, (3, 3), (2, 2), (1, 1)),
    "layer2, its shortcut": Layer((3, 56, 56, 64), 128, (1, 1), (2, 2)),
    "layer2": Layer((44, 28, 28, 128), 128, (3, 3), padding=(1, 1)),  # the largest tile
    "layer4": Layer((5, 7, 7, 512), 512, (3, 3), padding=(1, 1)),
    "odd numbers": Layer((3, 29, 31, 37), 131, (5, 3), (2, 1), (2, 0)),
}
if SHIM:
    LAYERS = {"small": Layer((2, 9, 8, 3), 16, (3, 3), (2, 2), (1, 1))}


@pytest.fixture(params=against.DTYPES)
def precision(request):
    capability = int(array_module().cuda.Device().compute_capability)
    if request.param in ("tf32", "bf16") and capability < 80:
        pytest.skip(f"{request.param} needs a GPU of compute capability 8.0")
    return request.param


@pytest.mark.parametrize("name", LAYERS)
def test_forward(name, precision, rng):
    layer = LAYERS[name]
    against.assert_forward(layer, precision, rng, moments=True)
    against.assert_forward(layer, precision, rng, bias=True, residual=True, relu=True)
    against.assert_forward(layer, precision, rng, scale=True, bias=True, relu=True, padded=True)


def test_a_stem_with_its_pool(precision, rng):
    if precision == "fp32":
        pytest.skip("plans in fp32 pool in a kernel of its own")
    layer = next(iter(LAYERS.values()))
    against.assert_pooled(layer, (3, 2, 1), precision, rng)
    against.assert_pooled(layer, (2, 2, 0), precision, rng, bias=False, relu=False)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name, precision, rng):
    layer = LAYERS[name]
    against.assert_grad_input(layer, precision, rng)
    against.assert_grad_input(layer, precision, rng, accumulate=True)
    against.assert_grad_weight(layer, precision, rng)


@pytest.mark.parametrize(("rows", "ins", "outs"), [(256, 512, 1000), (1, 512, 1000), (33, 75, 10)])
def test_linear(rows, ins, outs, precision, rng):
    against.assert_dense(rows, ins, outs, precision, rng)
    against.assert_dense(rows, ins, outs, precision, rng, wide=True)
