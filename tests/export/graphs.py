"""ONNX files made by code, and ONNX Runtime as the judge of what they compute."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import npresnet as nr
from npresnet.export.load import model_from_bytes

FLOAT = TensorProto.FLOAT


def graph(nodes, constants, shape, outputs=("y",), opset=17, kind=FLOAT):
    """Return the ModelProto of nodes with one input ``x``."""
    return helper.make_model(
        helper.make_graph(
            [helper.make_node(*n[:3], **n[3] if len(n) > 3 else {}) for n in nodes],
            "g",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )


def typed(model):
    """Give the outputs the types that ONNX infers: ONNX Runtime wants them."""
    inferred = onnx.shape_inference.infer_shapes(model)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    return model


def runtime(model, *inputs):
    """Return what ONNX Runtime makes of a ModelProto or file."""
    source = model if isinstance(model, str) else typed(model).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})


def ours(model, *inputs):
    """Return what npresnet makes of a ModelProto, as arrays."""
    network = model_from_bytes(model.SerializeToString())
    with nr.no_grad():
        found = network(*inputs)
    return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]


def assert_same(model, *inputs, tolerance=1e-5):
    """Compare with ONNX Runtime: dtypes, shapes, numbers."""
    for mine, other in zip(ours(model, *inputs), runtime(model, *inputs), strict=True):
        assert mine.dtype == other.dtype
        assert mine.shape == other.shape
        scale = max(np.abs(other[np.isfinite(other)]).max(initial=0), 1e-3)
        np.testing.assert_allclose(mine, other, rtol=0, atol=tolerance * scale)
