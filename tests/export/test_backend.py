"""The ONNX project's own node tests, run by our operations through its backend interface."""

import importlib
import re
import sys
import warnings

import numpy as np
import onnx
import pytest
from onnx import helper

from npresnet.errors import ExtraError, NpresnetError, OnnxError, ShapeError
from npresnet.export import backend as ours
from tests.export.graphs import graph, typed

# What each group of tests is called; all of them run, but for EXCLUDED.
GROUPS = {
    "conv": r"(basic_)?conv_\w*",
    "average pool": r"(global)?averagepool\w*",
    "max pool": r"(global)?maxpool\w*",
    "batch norm": r"batchnorm_\w*",
    "gemm": r"gemm_\w*",
    "matmul": r"matmul_\w*",
    "softmax": r"softmax_\w*",
    "log-softmax": r"logsoftmax_\w*",
    "relu": r"relu\w*",
    "add": r"add(_\w*)?",
    "flatten": r"flatten_\w*",
    "cross-entropy": r"(sce|nllloss)_\w*",
    "shapes": r"(reshape|transpose|squeeze|unsqueeze|concat|slice|expand|shape|size)(_\w*)?",
    "numbers": r"(gather|identity|constant|range)(_\w*)?",
    "arithmetic": r"(sub|mul|div|neg|abs|exp|log|sqrt|clip|sum|reciprocal)(_\w*)?",
    "hard activations": r"(hardsigmoid|hardswish)(_\w*)?",
    "reductions": r"reduce_(mean|sum|max|sum_square)(_\w*)?",
    "dropout": r"dropout_\w*",
}

# Excluded, with the reason; none of the operators that residual networks are made of is here.
EXCLUDED = {
    "identity_sequence": "a sequence is no tensor",
    "identity_opt": "an optional is no tensor",
    "range_float_type_positive_delta_expanded": "made of Loop: control flow isn't run",
    "range_float16_type_positive_delta_expanded": "made of Loop",
    "range_bfloat16_type_positive_delta_expanded": "made of Loop",
    "range_int32_type_negative_delta_expanded": "made of Loop",
    "range_bfloat16_type_positive_delta": "NumPy has no bfloat16; only constants are widened",
    "reduce_max_empty_set": "the largest of nothing is an error, as in torch; ONNX says -inf",
    "reduce_max_empty_set_bool": "the largest of nothing is an error, as in torch",
}


@pytest.fixture(scope="module")
def cases():
    """All node tests, by name; the package makes them when it is asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it divides by zero on purpose
        from onnx.backend.test.loader import load_model_tests

        return {case.name.removeprefix("test_"): case for case in load_model_tests(kind="node")}


def run(case):
    """Run one of them as the project's own runner does; raise if something differs."""
    prepared = ours.prepare(case.model)
    for inputs, outputs in case.data_sets:
        with np.errstate(all="ignore"):
            found = prepared.run(inputs)
        assert len(found) == len(outputs)
        for mine, expected in zip(found, outputs, strict=True):
            assert mine.dtype == expected.dtype
            np.testing.assert_allclose(mine, expected, rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("group", GROUPS)
def test_nodes(group, cases, host_backend):
    names = [n for n in cases if re.fullmatch(GROUPS[group], n) and n not in EXCLUDED]
    assert names
    failed = {}
    for name in names:
        try:
            run(cases[name])
        except (Exception, AssertionError) as error:
            failed[name] = " ".join(str(error).split())[:300]
    assert not failed, f"{len(failed)} of {len(names)}"


def test_exclusions_are_needed(cases):
    for name in EXCLUDED:
        with pytest.raises(NpresnetError):
            run(cases[name])


def test_the_interface(rng):
    x = rng.standard_normal((1, 2, 4, 4)).astype(np.float32)
    model = graph([("Relu", ["x"], ["y"])], {}, x.shape)
    typed(model)
    for outputs in (
        ours.run_model(model, [x]),
        ours.prepare(model, device="CPU").run({"x": x}),
        ours.run_node(helper.make_node("Relu", ["x"], ["y"]), [x]),
        ours.NpresnetBackend.run_node(model.graph.node[0], [x], opset_version=13),
    ):
        np.testing.assert_array_equal(outputs.y, np.maximum(x, 0))
    shape = helper.make_node("Reshape", ["x", "s"], ["y"])
    assert ours.run_node(shape, [x, np.array([2, -1])]).y.shape == (2, 16)
    assert issubclass(ours.NpresnetBackend, onnx.backend.base.Backend)
    assert ours.NpresnetBackend.is_compatible(model)


def test_devices():
    assert ours.supports_device("CPU")
    assert not ours.supports_device("CUDA:97")
    assert not ours.supports_device("QPU")


def test_wrong_use_of_the_interface(rng):
    x = rng.standard_normal((1, 2)).astype(np.float32)
    model = typed(graph([("Relu", ["x"], ["y"])], {}, x.shape))
    prepared = ours.prepare(model)
    with pytest.raises(OnnxError, match="takes the inputs"):
        prepared.run({"z": x})
    with pytest.raises(ShapeError, match="takes 1 inputs"):
        prepared.run([x, x])
    with pytest.raises(OnnxError, match="takes 1 inputs"):
        ours.run_node(model.graph.node[0], [])
    model.graph.node[0].op_type = "Nothing"
    with pytest.raises(OnnxError, match="Nothing"):
        ours.prepare(model)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "npresnet.export.backend")
    with pytest.raises(ExtraError, match=r"npresnet\[onnx\]"):
        importlib.import_module("npresnet.export.backend")
