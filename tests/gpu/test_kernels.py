"""The kernel set's tests on the device: against torch, in float32 and float64, any memory order."""

from tests.kernels.test_conv import test_against_torch as test_convolution
from tests.kernels.test_conv import test_an_image_keeps_its_result_in_any_batch as test_any_batch
from tests.kernels.test_conv import test_col2im_against_torch as test_col2im
from tests.kernels.test_elementwise import (
    test_four_axes_come_back_channels_last,
    test_linear,
    test_relu_and_add,
    test_relu_of_odd_values,
    test_softmax,
    test_softmax_of_odd_values,
)
from tests.kernels.test_loss import test_against_torch as test_cross_entropy
from tests.kernels.test_loss import test_logits_far_apart
from tests.kernels.test_norm import (
    test_channel_sum,
    test_evaluation,
    test_statistics_far_from_zero,
    test_training,
)
from tests.kernels.test_norm import test_memory_and_empty_batch as test_norm_of_empty_batch
from tests.kernels.test_optim import test_adamw, test_sgd
from tests.kernels.test_pool import (
    test_adaptive,
    test_average,
    test_infinities_stay_in_their_windows,
    test_large_window_is_summed_accurately,
    test_max,
    test_max_of_odd_values,
)
from tests.kernels.test_pool import test_memory_and_empty_batch as test_pools_of_empty_batch
