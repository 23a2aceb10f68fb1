"""Arguments are named, ordered and defaulted as torch's."""

import inspect

import pytest
import torch.nn.functional as TF

import npresnet.functional as F

# torch dispatches these to C or hides them behind a flag; the text is from its documentation.
DOCUMENTED = {
    "conv2d": "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1",
    "avg_pool2d": "input, kernel_size, stride=None, padding=0, ceil_mode=False, "
    "count_include_pad=True, divisor_override=None",
    "max_pool2d": "input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, "
    "return_indices=False",
    "linear": "input, weight, bias=None",
    "adaptive_avg_pool2d": "input, output_size",
}


def _plain(function):
    return ", ".join(
        p.name if p.default is p.empty else f"{p.name}={p.default}"
        for p in inspect.signature(function).parameters.values()
    )


@pytest.mark.parametrize("name", F.__all__)
def test_signature(name):
    expected = DOCUMENTED.get(name) or _plain(getattr(TF, name))
    assert _plain(getattr(F, name)) == expected
