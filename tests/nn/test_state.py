import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npresnet.errors import NpresnetError, WeightsError
from npresnet.nn.state import check_state

EXPECTED = {
    "conv1.weight": (64, 3, 7, 7),
    "bn1.weight": (64,),
    "bn1.running_mean": (64,),
    "bn1.num_batches_tracked": (),
    "fc.weight": (10, 512),
    "fc.bias": (10,),
}


def state(shapes=EXPECTED):
    return {key: np.zeros(shape) for key, shape in shapes.items()}


def test_a_fitting_state_reports_nothing():
    report = check_state(EXPECTED, state())
    assert report.missing_keys == []
    assert report.unexpected_keys == []


@pytest.mark.parametrize("strict", [True, False])
def test_missing_num_batches_tracked_is_tolerated(strict):
    given = state()
    del given["bn1.num_batches_tracked"]
    assert check_state(EXPECTED, given, strict) == ([], [])


def test_one_error_lists_every_kind():
    given = state()
    del given["fc.bias"]
    given["extra"] = np.zeros(1)
    given["fc.weight"] = np.zeros((1000, 512))
    with pytest.raises(WeightsError) as caught:
        check_state(EXPECTED, given, owner="ResNet")
    assert str(caught.value) == (
        "the state dict doesn't fit ResNet: 1 missing key: fc.bias; 1 unexpected key: extra; "
        "1 mis-shaped key: fc.weight (expected (10, 512), got (1000, 512)): build the model with "
        "the sizes that the weights were made for, or drop those keys"
    )
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, NpresnetError)


def test_not_strict_reports_keys_but_refuses_shapes():
    given = state()
    del given["fc.bias"]
    given["extra"] = np.zeros(1)
    assert check_state(EXPECTED, given, strict=False) == (["fc.bias"], ["extra"])
    given["bn1.weight"] = np.zeros((1, 64))
    with pytest.raises(WeightsError, match=r"bn1.weight \(expected \(64,\), got \(1, 64\)\)") as e:
        check_state(EXPECTED, given, strict=False)
    assert "missing" not in str(e.value)


def test_long_lists_end_in_a_count():
    expected = {f"layer{i}.weight": (1,) for i in range(100)}
    with pytest.raises(WeightsError) as caught:
        check_state(expected, {})
    message = str(caught.value)
    assert "100 missing keys: layer0.weight, layer1.weight" in message
    assert "layer4.weight and 95 more" in message
    assert "layer5.weight" not in message
    assert "\n" not in message


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_a_wrappers_prefix_is_recognised(prefix):
    wrapped = {prefix + key: value for key, value in state().items()}
    with pytest.raises(WeightsError, match=f'take the prefix "{prefix}" off its keys$'):
        check_state(EXPECTED, wrapped)
    held = {prefix + key: shape for key, shape in EXPECTED.items()}
    with pytest.raises(WeightsError, match=f'put the prefix "{prefix}" before its keys$'):
        check_state(held, state())


def test_values_that_are_no_arrays_are_named():
    given = state()
    given["fc.bias"] = [0.0] * 10
    with pytest.raises(WeightsError, match=r"fc.bias \(expected an array, got list\)"):
        check_state(EXPECTED, given)


@pytest.mark.parametrize("given", [None, 3, [("a", 1)], "file.safetensors"])
def test_something_else_than_a_mapping(given):
    with pytest.raises(WeightsError, match="the model expected a state dict"):
        check_state(EXPECTED, given)


KEYS = st.dictionaries(
    st.sampled_from([f"{a}.{b}" for a in "abcd" for b in ("weight", "bias")]),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
)


@given(KEYS, KEYS)
def test_accepts_exactly_what_agrees(expected, found):
    arrays = state(found)
    shapes_agree = all(found[k] == expected[k] for k in expected.keys() & found.keys())
    if expected == found:
        assert check_state(expected, arrays) == ([], [])
    else:
        with pytest.raises(WeightsError):
            check_state(expected, arrays)
    if shapes_agree:
        report = check_state(expected, arrays, strict=False)
        assert set(report.missing_keys) == expected.keys() - found.keys()
        assert set(report.unexpected_keys) == found.keys() - expected.keys()
