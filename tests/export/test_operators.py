"""Operators beyond the ONNX project's node tests: old versions, odd borders, forms of exporters."""

import numpy as np
import pytest

import npresnet as nr
from npresnet.errors import GraphError, NpresnetError, OnnxError
from tests.export.graphs import assert_same, graph, ours

X = np.random.default_rng(0).standard_normal((2, 4, 9, 8)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((6, 4, 3, 3)).astype(np.float32)
INTS = np.int64


def node(kind, *more, inputs=("x",), **attributes):
    return (kind, [*inputs, *more], ["y"], attributes)


ONE = {  # name: node, constants, opset
    "conv same upper": (node("Conv", "w", auto_pad="SAME_UPPER", strides=[2, 2]), {"w": W}, 17),
    "conv same lower": (node("Conv", "w", auto_pad="SAME_LOWER", strides=[2, 2]), {"w": W}, 17),
    "conv uneven": (node("Conv", "w", pads=[0, 1, 2, 0], strides=[2, 1]), {"w": W}, 17),
    "conv dilated": (node("Conv", "w", pads=[2, 1, 2, 1], dilations=[2, 3]), {"w": W}, 17),
    "conv groups": (node("Conv", "w", "b", group=2), {"w": W[:, :2], "b": W[:, 0, 0, 0]}, 11),
    "max pool uneven": (
        node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]), {}, 8),
    "max pool ceil": (node("MaxPool", kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1), {}, 12),
    "avg pool same": (
        node("AveragePool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"), {}, 11),
    "avg pool uneven": (node("AveragePool", kernel_shape=[3, 3], pads=[0, 1, 2, 0]), {}, 11),
    "avg pool uneven, border counts": (
        node("AveragePool", kernel_shape=[3, 3], pads=[0, 1, 2, 0], count_include_pad=1), {}, 11),
    "avg pool dilated": (
        node("AveragePool", kernel_shape=[2, 3], dilations=[2, 2], pads=[1, 1, 1, 1]), {}, 19),
    "batch norm, matrix": (
        ("BatchNormalization", ["flat", "s", "s", "m", "v"], ["y"], {"epsilon": 1e-3}),
        {"s": W[:4, 0, 0, 0], "m": W[:4, 1, 0, 0], "v": np.abs(W[:4, 2, 0, 0])}, 15),
    "softmax, axes from 1 on": (node("Softmax"), {}, 11),
    "log-softmax, axes from 2 on": (node("LogSoftmax", axis=2), {}, 11),
    "softmax, last axis": (node("Softmax"), {}, 13),
    "clip, attributes": (node("Clip", min=0.0, max=6.0), {}, 6 + 1),
    "clip, inputs": (node("Clip", "", "hi"), {"hi": np.float32(0.5)}, 13),
    "relu by clip": (node("Clip", "lo"), {"lo": np.float32(0)}, 13),
    "squeeze, attribute": (("Squeeze", ["one"], ["y"], {"axes": [-1]}), {}, 11),
    "pad, attribute": (node("Pad", pads=[0, 0, 1, 2, 0, 0, 3, 0], value=2.5), {}, 10),
    "pad, axes": (node("Pad", "p", "c", "a"), {
        "p": np.array([1, 0, 2, 1], INTS), "c": np.float32(-1), "a": np.array([-1, 1], INTS)}, 18),
    "pad, cutting": (node("Pad", "p"), {"p": np.array([0, 0, -1, 0, 0, -1, 0, -2], INTS)}, 13),
    "slice, attributes": (node("Slice", starts=[1, 0], ends=[9**9, -1], axes=[1, 3]), {}, 9),
    "slice, backwards": (node("Slice", "s", "e", "a", "t"), {
        "s": np.array([-1, 5]), "e": np.array([-100, 1]),
        "a": np.array([1, 2]), "t": np.array([-1, -2])}, 13),
    "reduce mean, attribute": (node("ReduceMean", axes=[2, 3], keepdims=0), {}, 13),
    "reduce mean, input": (node("ReduceMean", "a", keepdims=0), {"a": np.array([-1, -2])}, 18),
    "reduce mean, channels": (node("ReduceMean", "a"), {"a": np.array([1])}, 18),
    "reduce max": (node("ReduceMax", "a"), {"a": np.array([1, 3])}, 18),
    "reduce sum, all": (node("ReduceSum", keepdims=0), {}, 13),
    "matmul": (node("MatMul", "b"), {"b": W[0, 0].repeat(8, 0)[:8]}, 13),
    "matmul, stack": (node("MatMul", "b"), {"b": W.reshape(-1)[:4 * 8 * 2].reshape(4, 8, 2)}, 13),
    "add a bias": (node("Add", "b"), {"b": W[:4, :1, :1, 0]}, 14),
    "integer division": (
        ("Div", ["i", "d"], ["y"], {}), {"d": np.array(3, INTS)}, 14),
    "hard swish": (node("HardSwish"), {}, 14),
    "hard sigmoid": (node("HardSigmoid", alpha=0.3), {}, 14),
    "sum of three": (node("Sum", "x", "b"), {"b": W[:1, :1, :1, :1]}, 13),
    "power": (node("Pow", "e"), {"e": np.float32(2)}, 13),
    "expand": (("Expand", ["one", "s"], ["y"], {}), {"s": np.array([1, 1, 1, 1, 3])}, 13),
    "global max pool": (node("GlobalMaxPool"), {}, 13),
    "gather rows": (node("Gather", "i", axis=2), {"i": np.array([[0, -1], [3, 3]])}, 13),
}  # fmt: skip

PREPARED = {  # values that some of the nodes above start from
    "flat": ("ReduceMean", ["x"], ["flat"], {"axes": [2, 3], "keepdims": 0}),
    "one": ("Unsqueeze", ["x"], ["one"], {"axes": [4]}),
    "i": ("Cast", ["x"], ["i"], {"to": 7}),
}


@pytest.mark.parametrize("name", ONE)
def test_one(name, backend):
    last, constants, opset = ONE[name]
    first = []
    for value in last[1]:
        if value in PREPARED and value not in constants:
            kind, inputs, outputs, attributes = PREPARED[value]
            if kind == "Unsqueeze" and opset >= 13:
                constants = {**constants, "last": np.array([4])}
                inputs, attributes = [*inputs, "last"], {}
            first = [(kind, inputs, outputs, attributes)]
    assert_same(graph([*first, last], constants, X.shape, opset=opset), X)


def test_three_axes(backend, rng):
    x = rng.standard_normal((2, 3, 6, 5, 7)).astype(np.float32)
    w = rng.standard_normal((4, 3, 3, 2, 3)).astype(np.float32)
    conv = node("Conv", "w", pads=[1, 0, 1, 0, 1, 1], strides=[2, 1, 2], dilations=[1, 2, 1])
    assert_same(graph([conv], {"w": w}, x.shape), x)
    for kind, more in (("MaxPool", {}), ("AveragePool", {"count_include_pad": 1})):
        pool = node(
            kind, kernel_shape=[2, 3, 2], strides=[1, 2, 2], pads=[1, 0, 1, 0, 1, 0], **more
        )
        assert_same(graph([pool], {}, x.shape), x)


def test_numbers_that_must_be_known_can_be_read_in_eager_execution_only():
    nodes = [
        ("ReduceMax", ["x"], ["m"], {"keepdims": 0}),
        ("Clip", ["x", "", "m"], ["y"]),
    ]
    model = graph(nodes, {}, ["n", 3])
    x = np.array([[1, 2, 3]], np.float32)
    np.testing.assert_array_equal(ours(model, x)[0], x)
    from npresnet.export.load import model_from_bytes

    network = model_from_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match=r"node 'Clip_1' \(Clip\).*can't be traced"):
        nr.compile(network, (2, 3))
    with pytest.raises(GraphError, match="no gradient passes"):
        network(nr.tensor(x, requires_grad=True))


WRONG = {
    "kernel too large": (node("MaxPool", kernel_shape=[99, 1]), {}, "larger than the input"),
    "pads that don't pair": (node("MaxPool", kernel_shape=[2, 2], pads=[1]), {}, "don't fit"),
    "stride 0": (node("MaxPool", kernel_shape=[2, 2], strides=[0, 1]), {}, "at least 1"),
    "gigantic border": (node("Conv", "w", pads=[2**40, 0, 0, 0]), {"w": W}, "at most"),
    "gigantic expansion": (node("Expand", "s"), {"s": np.array([2**40, 2, 4, 9, 8])}, "at most"),
    "gigantic product": (
        node("Expand", "s"), {"s": np.array([2**31, 2**31, 2, 4, 9, 8])}, "at most"),
    "negative expansion": (node("Expand", "s"), {"s": np.array([-1, 1, 1, 1])}, "at most"),
    "gigantic constant": (
        ("ConstantOfShape", ["s"], ["y"]), {"s": np.array([2**20, 2**20])}, "at most"),
    "endless range": (
        ("Range", ["a", "b", "c"], ["y"]),
        {"a": np.float32(0), "b": np.float32(np.inf), "c": np.float32(1)}, "at most"),
    "axis": (node("Softmax", axis=7), {}, "out of range"),
    "axis twice": (node("ReduceMean", axes=[1, -3]), {}, "twice"),
    "indices": (node("Gather", "i"), {"i": np.array([2])}, "from -2 to 1"),
    "float indices": (node("Gather", "i"), {"i": np.float32([1])}, "integers"),
    "shape of floats": (node("Reshape", "s"), {"s": np.float32([1])}, "list of integers"),
    "reshape": (node("Reshape", "s"), {"s": np.array([5, -1])}, "reshape"),
    "permutation": (node("Transpose", perm=[0, 0, 1, 2]), {}, "permute"),
    "other rank": (node("Conv", "w"), {"w": W[0]}, "doesn't fit"),
    "channels": (node("Conv", "w"), {"w": W[:, :3]}, "channels"),
    "broadcast": (node("Add", "w"), {"w": W}, "broadcast"),
    "dtype": (node("Conv", "w"), {"w": W.astype(np.float64)}, "dtype"),
    "squeeze": (node("Squeeze", axes=[1]), {}, "size 1"),
    "gemm of maps": (node("Gemm", "w"), {"w": W}, "two matrices"),
    "concat": (("Concat", ["x", "w"], ["y"], {"axis": 0}), {"w": W}, "cat"),
    "slice": (node("Slice", starts=[0], ends=[1, 2]), {}, "don't fit"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name):
    made, constants, text = WRONG[name]
    with pytest.raises(NpresnetError, match=text) as caught:
        ours(graph([made], constants, X.shape, opset=9), X)
    if not isinstance(caught.value, GraphError):
        assert "node '" in str(caught.value)


def test_constants_are_multiplied_with_one_another_only_when_small():
    """Rows times columns would make 2**40 numbers of 2**21."""
    size = 2**20
    nodes = [
        ("ConstantOfShape", ["s"], ["row"]),
        ("ConstantOfShape", ["t"], ["column"]),
        ("Mul", ["row", "column"], ["y"]),
    ]
    constants = {"s": np.array([1, size]), "t": np.array([size, 1])}
    with pytest.raises(OnnxError, match="at most"):
        ours(graph(nodes, constants, X.shape), X)
