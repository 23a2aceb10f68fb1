"""The networks as ONNX graphs, built from the weights node by node; the batch stays open."""

from __future__ import annotations

from pathlib import Path

import networks
import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save


class _Graph:
    """Nodes and weights, gathered while the network is walked."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = weights
        self.nodes: list = []
        self.constants: dict[str, np.ndarray] = {}

    def node(self, kind: str, inputs: list[str], constants: list[str] = (), **attributes) -> str:
        """Add a node that reads `inputs` and then the named weights; return its output's name."""
        for name in constants:
            self.constants[name] = self.weights[name]
        output = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [*inputs, *constants], [output], **attributes))
        return output

    def conv_norm(self, x: str, conv: networks.Conv) -> str:
        """Add a convolution and the batch norm behind it."""
        sides = [conv.kernel] * 2
        x = self.node(
            "Conv",
            [x],
            [f"{conv.name}.weight"],
            kernel_shape=sides,
            strides=[conv.stride] * 2,
            pads=[conv.padding] * 4,
        )
        prefix, _, last = conv.name.rpartition(".")
        norm = last.replace("conv", "bn") if last != "0" else "1"  # downsample.0 -> downsample.1
        norm = f"{prefix}.{norm}" if prefix else norm
        names = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        return self.node("BatchNormalization", [x], names, epsilon=1e-5)


def write(path: Path, weights: dict[str, np.ndarray], model: str, small_input: bool) -> None:
    """Write the network called `model` with these weights to a file."""
    graph = _Graph(weights)
    x = graph.node("Relu", [graph.conv_norm("images", networks.stem(small_input=small_input))])
    if not small_input:
        x = graph.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for block in networks.blocks(model, small_input=small_input):
        shortcut = graph.conv_norm(x, block.shortcut) if block.shortcut else x
        for conv in block.convs[:-1]:
            x = graph.node("Relu", [graph.conv_norm(x, conv)])
        x = graph.node("Add", [graph.conv_norm(x, block.convs[-1]), shortcut])
        x = graph.node("Relu", [x])
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x])])
    x = graph.node("Gemm", [x], ["fc.weight", "fc.bias"], transB=1)

    def value(name: str, shape: list) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    whole = helper.make_graph(
        graph.nodes,
        model,
        [value("images", ["batch", 3, "height", "width"])],
        [value(x, ["batch", len(weights["fc.bias"])])],
        [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    opset = helper.make_opsetid("", 17)
    file = helper.make_model(whole, opset_imports=[opset], ir_version=9, producer_name="npresnet")
    checker.check_model(file)
    save(file, str(path))
