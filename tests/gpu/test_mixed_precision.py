"""Plans in 16 bits and TF32, and training with scaled losses, on the device."""

from __future__ import annotations

import numpy as np
import pytest

import npresnet as nr
from npresnet import functional as F
from npresnet.engine import TrainingPlan
from tests.engine.test_mixed_precision import (
    EPS,
    test_a_run_goes_on_where_it_stopped,
    test_a_step_that_overflows_is_left_out,
    test_each_gradient_is_that_of_the_same_roundings,
    test_inference_follows_the_truth,
    test_scaling_saves_small_gradients,
    test_training_follows_the_truth,
)
from tests.gpu.conftest import SHIM
from tests.gpu.on_device import to_host
from tests.parity import relative_error

__all__ = [
    "test_a_run_goes_on_where_it_stopped",
    "test_a_step_that_overflows_is_left_out",
    "test_each_gradient_is_that_of_the_same_roundings",
    "test_inference_follows_the_truth",
    "test_scaling_saves_small_gradients",
    "test_training_follows_the_truth",
]

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


@pytest.mark.skipif(SHIM, reason="takes minutes on the host")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_resnet34_as_float64_has_it(backend, rng, precision):
    """Logits of a whole network, against float64; an image has the same bits alone."""
    x = rng.standard_normal((8, 3, 64, 64)).astype(np.float32)
    nr.manual_seed(1)
    with nr.use_backend("cpu"), nr.no_grad():
        model = nr.resnet34(num_classes=7).eval()
        truth = model.double()(nr.tensor(x.astype(np.float64))).numpy()
    plan = nr.compile(model.float().to("gpu"), x.shape, precision=precision)
    logits = to_host(plan(nr.tensor(x).data))
    assert logits.dtype == np.float32
    assert relative_error(logits, truth) <= 40 * EPS[precision]  # 34 layers
    np.testing.assert_array_equal(to_host(plan(nr.tensor(x[:1]).data)), logits[:1])


@pytest.mark.skipif(SHIM, reason="takes minutes on the host")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_resnet18_learns(backend, rng, precision):
    """A batch is learnt by heart, by recorded steps, twice to the same bits."""
    x = rng.standard_normal((32, 3, 32, 32)).astype(np.float32)
    y = rng.integers(0, 5, 32)
    runs = []
    for _ in range(2):
        nr.manual_seed(2)
        model = nr.resnet18(num_classes=5, small_input=True).train()
        optimizer = nr.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        step = nr.compile_step(model, F.cross_entropy, optimizer, x.shape, precision=precision)
        assert isinstance(step, TrainingPlan)
        images = nr.tensor(x).data
        runs.append([step(images, y) for _ in range(25)])
        assert step.recorded
    assert runs[0] == runs[1]
    assert runs[0][-1] < 0.1 < runs[0][0]
