"""What plans run beside their products, on the device: in each element type, and recorded."""

import pytest

from npresnet_kernels.gpu import plan_layout
from npresnet_kernels.gpu.device import empty
from npresnet_kernels.gpu.errors import DeviceError
from npresnet_kernels.gpu.graph import recorder
from tests.kernels.gpu.test_graph import (
    test_a_replay_works_on_the_same_memory,
    test_an_error_of_the_first_run_is_its_own,
)
from tests.kernels.gpu.test_plan_elementwise import (
    test_elementwise,
    test_gate,
    test_softmax_of_rows,
    test_to_channels_first,
)
from tests.kernels.gpu.test_plan_loss import test_loss_and_gradient, test_odd_logits_and_targets
from tests.kernels.gpu.test_plan_norm import (
    test_a_nan_travels,
    test_forward_and_backward,
    test_no_rows,
    test_running_statistics,
    test_sums,
)
from tests.kernels.gpu.test_plan_optim import (
    test_adamw,
    test_sgd,
    test_without_scaling_nothing_is_looked_at,
)
from tests.kernels.gpu.test_plan_pool import (
    test_add,
    test_cast,
    test_empty_batch,
    test_max_pool,
    test_mean,
    test_to_channels_last,
)

REFUSED = {
    "an allocation": lambda xp, x: empty((7,), x.dtype),
    "a result": lambda xp, x: x * 2,
    "a product": lambda xp, x: xp.matmul(x, x, out=x),
    "a number": lambda xp, x: float(x[0, 0]),
    "waiting": lambda xp, x: xp.cuda.Device().synchronize(),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_recorded_leaves_the_device_usable(xp, what):
    x = xp.ones((2, 2), "float32")
    first = []

    def run():
        if first:
            REFUSED[what](xp, x)
        first.append(True)

    with pytest.raises(DeviceError, match="can't be recorded as a CUDA graph"):
        recorder().record(run)
    plan_layout.add(x, x, x)
    assert float(x.sum()) == 8


def test_a_recorded_allocation_is_named(xp):
    with pytest.raises(DeviceError, match="28 bytes of device memory"):
        recorder().record(lambda: empty((7,), "float32"))
