"""Plans on the device: recorded, on several streams, with any loss, beside the truth in float64."""

from tests.engine.test_device_plans import (
    test_a_loss_that_leaves_an_output_out,
    test_a_loss_with_a_penalty,
    test_an_inference_plan_sees_recorded_steps,
    test_any_loss_will_do,
    test_changed_weights_are_seen,
    test_eager_steps_in_between,
    test_recorded_steps_follow_the_truth,
    test_several_threads_and_streams,
    test_sixteen_bits,
    test_steps_of_several_threads_follow_each_other,
    test_weights_that_change_between_calls_of_threads,
    test_what_has_no_kernel_is_not_recorded,
)
from tests.engine.test_lone import (
    test_networks_of_the_library_can_be_recorded,
    test_recorded_and_as_the_truth,
)
