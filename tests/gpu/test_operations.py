"""Operations with their gradients, networks and optimizers on the device, against torch."""

from tests.functional.test_parity import (
    test_any_memory_order,
    test_batch_norm,
    test_batch_norm_without_weights_and_statistics,
    test_conv2d,
    test_cross_entropy,
    test_cross_entropy_against_probabilities,
    test_empty_batch,
    test_empty_batch_leaves_running_statistics,
    test_linear,
    test_max_pool2d_indices_are_torchs,
    test_nll_loss,
    test_pools,
    test_relu,
    test_softmax,
    test_softmax_of_large_logits_stays_finite,
    test_softmax_without_dim_follows_torchs_old_rule,
)
from tests.models.test_foreign import test_a_torch_network_runs_here
from tests.models.test_networks import (
    test_float32_is_as_exact_as_torch,
    test_ten_sgd_steps_agree_to_1e_9,
    test_training_step_in_float64,
)
from tests.nn.test_layers import test_batch_norm_moves_its_statistics_as_torch
from tests.optim.test_optimizers import test_steps_as_torch
