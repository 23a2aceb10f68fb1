"""ONNX files, made valid by ONNX's own package and then broken."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

import npresnet as nr
from npresnet.errors import OnnxError
from tests.fuzz.mutate import some_bytes


def seeds():
    """A residual block with a head, in three spellings, and nodes that work out shapes."""
    rng = np.random.default_rng(0)

    def w(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    block = [
        ("Conv", ["x", "layer.conv.weight"], ["a"], {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}),
        ("BatchNormalization", ["a", "s", "s", "s", "v"], ["b"], {"epsilon": 1e-3}),
        ("Relu", ["b"], ["c"], {}),
        ("Add", ["c", "x"], ["d"], {}),
        ("MaxPool", ["d"], ["e"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("AveragePool", ["e"], ["f"], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
    ]
    heads = [
        [("GlobalAveragePool", ["f"], ["g"], {}), ("Flatten", ["g"], ["h"], {})],
        [("ReduceMean", ["f"], ["h"], {"axes": [2, 3], "keepdims": 0})],
        [
            ("GlobalAveragePool", ["f"], ["g"], {}),
            ("Shape", ["g"], ["i"], {}),
            ("Gather", ["i", "zero"], ["j"], {}),
            ("Concat", ["j", "rest"], ["k"], {"axis": 0}),
            ("Reshape", ["g", "k"], ["h"], {}),
        ],
    ]
    constants = {
        "layer.conv.weight": w(4, 4, 3, 3), "s": w(4), "v": np.abs(w(4)), "fc.weight": w(3, 4),
        "zero": np.array([0]), "rest": np.array([-1]),
    }  # fmt: skip
    made = []
    for head in heads:
        nodes = [*block, *head, ("Gemm", ["h", "fc.weight"], ["y"], {"transB": 1})]
        graph = helper.make_graph(
            [helper.make_node(kind, i, o, **more) for kind, i, o, more in nodes],
            "g",
            [helper.make_tensor_value_info("x", 1, ["n", 4, 6, 6])],
            [helper.make_tensor_value_info("y", 1, None)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opsets = [helper.make_opsetid("", 13)]
        made.append(helper.make_model(graph, opset_imports=opsets).SerializeToString())
    return made


TOKENS = [b"Reshape", b"Expand", b"Pad", b"Constant", b"x", b"fc.weight", b"\x0a\x00", b"\x2a\x00",
          b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\xff\xff\xff\xff\x0f"]  # fmt: skip


def mutate(data, rng):
    """Change some bytes."""
    return some_bytes(data, rng, TOKENS)


def read(path):
    """Load the file, and run what could be loaded; only loading has to name the file."""
    model = nr.load_onnx(path)
    try:
        with nr.use_backend("reference"), nr.no_grad(), np.errstate(all="ignore"):
            model(*(np.zeros((1, 4, 6, 6), np.float32) for _ in model.inputs))
    except nr.NpresnetError as error:
        raise OnnxError(f"{path}: {' '.join(str(error).split())[:1500]}") from None


TARGETS = {
    "onnx": {
        "seeds": seeds,
        "mutate": mutate,
        "read": read,
        "errors": (OnnxError,),
        "suffix": ".onnx",
    },
}
