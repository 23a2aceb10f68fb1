"""Networks out of ONNX files, as torch and as TensorFlow's converter write them."""

import os
import sys
import warnings

import numpy as np
import onnx
import pytest
import torch

import npresnet as nr
from npresnet.errors import OnnxError, ShapeError
from npresnet.inspect import summary
from tests.export.graphs import assert_same, graph, runtime, typed
from tests.models.torch_resnet import TorchResNet


@pytest.fixture(scope="module")
def theirs():
    """A torch ResNet-18 with running statistics worth the name."""
    torch.manual_seed(18)
    model = TorchResNet((1, 1, 1, 1), num_classes=7).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    return model


def exported(model, path, **options):
    """Let torch write a file for two images; its exporter warns of much."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(2, 3, 64, 64),), path, verbose=False, **options)
    model.eval()
    return str(path)


EXPORTS = {
    "torchscript": {"dynamo": False, "opset_version": 17},
    "torchscript, batch norm kept": {
        "dynamo": False,
        "opset_version": 11,
        "training": torch.onnx.TrainingMode.PRESERVE,
        "keep_initializers_as_inputs": True,
    },
    "torchscript, any batch": {
        "dynamo": False,
        "input_names": ["images"],
        "dynamic_axes": {"images": {0: "n"}},
    },
    "dynamo": {"dynamo": True, "external_data": False},
    "dynamo, any batch": {"dynamo": True, "dynamic_shapes": ({0: "n"},)},
}


@pytest.mark.parametrize("name", EXPORTS)
def test_torch_exports_run_in_a_plan(name, theirs, tmp_path, rng):
    path = exported(theirs, tmp_path / "theirs.onnx", **EXPORTS[name])
    model = nr.load_onnx(path)
    assert not model.training
    x = rng.standard_normal((3, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(x)).numpy()
    with nr.no_grad():
        eager = model(x).numpy()
    plan = nr.compile(model, (4, 3, 64, 64))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(eager, expected, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(plan(x), expected, rtol=0, atol=1e-5 * scale)
    fused = [n for n in plan.graph.nodes if n.operation.name == "conv2d_epilogue"]
    assert len(fused) == 12  # every convolution, with its batch norm, addition and ReLU
    assert not any(n.operation.name in ("relu", "batch_norm", "add") for n in plan.graph.nodes)


def test_an_unfolded_export_has_the_state_dict_of_the_network(theirs, tmp_path):
    path = exported(
        theirs, tmp_path / "a.onnx", dynamo=False, training=torch.onnx.TrainingMode.PRESERVE
    )
    state = nr.load_onnx(path).state_dict()
    expected = {k: v.numpy() for k, v in theirs.state_dict().items() if "num_batches" not in k}
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(state[key], value)


def test_equal_constants_that_exporters_share_become_tensors_of_their_own(tmp_path):
    """A fresh network's batch norms are all alike; torch writes one, and Identities of it."""
    fresh = TorchResNet((1, 1, 1, 1), num_classes=3)
    path = exported(
        fresh, tmp_path / "a.onnx", dynamo=False, training=torch.onnx.TrainingMode.PRESERVE
    )
    model = nr.load_onnx(path)
    buffers = list(model.buffers())
    assert len(buffers) == 24
    assert len({id(b.data) for b in buffers}) == 24


def test_an_imported_network_trains_as_torch_does(theirs, tmp_path, rng):
    path = exported(
        theirs, tmp_path / "a.onnx", dynamo=False, training=torch.onnx.TrainingMode.PRESERVE
    )
    ours = nr.load_onnx(path).double().train()
    twin = TorchResNet((1, 1, 1, 1), num_classes=7).double().train()
    twin.load_state_dict(theirs.state_dict())
    x, y = rng.standard_normal((6, 3, 64, 64)), rng.integers(0, 7, 6)
    mine = nr.optim.SGD(ours.parameters(), lr=0.01, momentum=0.9)
    other = torch.optim.SGD(twin.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        loss = nr.functional.cross_entropy(ours(nr.Tensor(x)), y)
        mine.zero_grad()
        loss.backward()
        mine.step()
        expected = torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(y))
        other.zero_grad()
        expected.backward()
        other.step()
        assert abs(loss.item() - expected.item()) < 1e-9
    truth = twin.state_dict()
    for key, value in ours.state_dict().items():
        np.testing.assert_allclose(value, truth[key].numpy(), rtol=0, atol=1e-8)


def test_summary_lists_the_layers(theirs, tmp_path):
    path = exported(theirs, tmp_path / "a.onnx", dynamo=False)
    table = summary(nr.load_onnx(path), (2, 3, 64, 64))
    convolutions = [row for row in table.rows if row.type == "Conv"]
    assert len(convolutions) == 12
    assert table.parameters == sum(p.numel() for p in nr.load_onnx(path).parameters())
    assert convolutions[0].output_shape == (2, 64, 32, 32)
    assert convolutions[0].multiply_adds == 2 * 64 * 32 * 32 * 3 * 49


def keras(rng):
    """A small residual network as tf2onnx writes Keras's: NHWC outside, borders apart, MatMul."""

    def w(*shape):
        return rng.standard_normal(shape).astype(np.float32) * 0.3

    def norm(prefix, channels):
        parts = {
            "gamma": w(channels),
            "beta": w(channels),
            "mean": w(channels),
            "var": np.abs(w(channels)) + 0.5,
        }
        return {f"{prefix}/{k}/ReadVariableOp:0": v for k, v in parts.items()}

    constants = {
        "pads:0": np.array([0, 0, 3, 3, 0, 0, 3, 3]),
        "pool_pads:0": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "model/conv1/Conv2D/ReadVariableOp:0": w(8, 3, 7, 7),
        "model/conv2/Conv2D/ReadVariableOp:0": w(8, 8, 3, 3),
        "model/conv2/bias:0": w(1, 8, 1, 1),
        "model/conv3/Conv2D/ReadVariableOp:0": w(12, 8, 3, 3),
        "model/shortcut/Conv2D/ReadVariableOp:0": w(12, 8, 1, 1),
        "model/fc/MatMul/ReadVariableOp:0": w(12, 5),
        "model/fc/BiasAdd/ReadVariableOp:0": w(5),
        "first:0": np.array([0]),
        "second:0": np.array([1]),
        "one:0": np.array([1]),
        "rest:0": np.array([-1]),
        "axes:0": np.array([1, 2]),
        **norm("bn1", 8),
        **norm("bn3", 12),
    }

    def normed(name, x, y):
        parts = [f"{name}/{k}/ReadVariableOp:0" for k in ("gamma", "beta", "mean", "var")]
        return ("BatchNormalization", [x, *parts], [y], {"epsilon": 1.001e-5})

    def conv(name, x, y, **more):
        return ("Conv", [x, f"model/{name}/Conv2D/ReadVariableOp:0"], [y], more)

    nodes = [
        ("Transpose", ["x"], ["nchw"], {"perm": [0, 3, 1, 2]}),
        ("Pad", ["nchw", "pads:0"], ["padded"]),
        conv("conv1", "padded", "a", strides=[2, 2], auto_pad="VALID", kernel_shape=[7, 7]),
        normed("bn1", "a", "b"),
        ("Relu", ["b"], ["c"]),
        ("Pad", ["c", "pool_pads:0"], ["d"]),
        ("MaxPool", ["d"], ["e"], {"kernel_shape": [3, 3], "strides": [2, 2]}),
        conv("conv2", "e", "f", auto_pad="SAME_UPPER"),
        ("Add", ["f", "model/conv2/bias:0"], ["g"]),
        ("Clip", ["g", "low", "high"], ["h"]),  # ReLU6
        conv("conv3", "h", "i", strides=[2, 2], pads=[0, 0, 1, 1]),  # SAME of even maps
        normed("bn3", "i", "j"),
        conv("shortcut", "e", "k", strides=[2, 2]),
        ("Add", ["j", "k"], ["l"]),
        ("Relu", ["l"], ["m"]),
        ("Transpose", ["m"], ["nhwc"], {"perm": [0, 2, 3, 1]}),
        ("ReduceMean", ["nhwc"], ["n"], {"axes": [1, 2], "keepdims": 1}),
        ("Shape", ["n"], ["shape"]),  # flatten, as a chain over the shape
        ("Cast", ["shape"], ["shape32"], {"to": 6}),
        ("Slice", ["shape32", "first:0", "second:0", "first:0"], ["batch"]),
        ("Squeeze", ["batch", "first:0"], ["scalar"]),
        ("Unsqueeze", ["scalar", "first:0"], ["again"]),
        ("Cast", ["again"], ["batch64"], {"to": 7}),
        ("Concat", ["batch64", "rest:0"], ["flat"], {"axis": 0}),
        ("Reshape", ["n", "flat"], ["o"]),
        ("MatMul", ["o", "model/fc/MatMul/ReadVariableOp:0"], ["p"]),
        ("Add", ["p", "model/fc/BiasAdd/ReadVariableOp:0"], ["q"]),
        ("Softmax", ["q"], ["r"], {"axis": -1}),
        ("Identity", ["r"], ["y"]),
    ]
    constants |= {"low": np.float32(0), "high": np.float32(6)}
    return graph(nodes, constants, ["unk__1", 32, 32, 3], opset=13)


def test_a_network_as_tensorflow_writes_it(rng, tmp_path, host_backend):
    model = keras(rng)
    x = rng.standard_normal((3, 32, 32, 3)).astype(np.float32)
    assert_same(model, x)
    (expected,) = runtime(model, x)
    onnx.save(model, tmp_path / "tf.onnx")
    network = nr.load_onnx(tmp_path / "tf.onnx")
    plan = nr.compile(network, (4, 32, 32, 3))
    np.testing.assert_allclose(plan(x), expected, rtol=0, atol=1e-5)
    learned = {name for name, _ in network.named_parameters()}
    assert len(learned) == 4 + 1 + 4 + 2  # convolutions, a bias, two batch norms, the last layer
    step = nr.optim.SGD(network.parameters(), lr=0.1)
    loss = (network(x) * nr.tensor(rng.standard_normal((3, 5)), dtype="float32")).sum()
    loss.backward()
    assert all(np.abs(p.grad).max() > 0 for p in network.parameters())
    step.step()


def test_16_bit_weights_are_computed_in_float32(rng):
    w = rng.standard_normal((4, 3, 3, 3)).astype(np.float16)
    model = graph([("Conv", ["x", "w"], ["y"])], {"w": w}, [1, 3, 8, 8], kind=10)
    from npresnet.export.load import model_from_bytes

    network = model_from_bytes(model.SerializeToString())
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float16)
    with nr.no_grad():
        y = network(x)
    assert y.dtype == np.float32
    (expected,) = runtime(typed(model), x)
    np.testing.assert_allclose(y.numpy(), expected.astype(np.float32), atol=2e-2)


def test_reading_needs_no_package(tmp_path, monkeypatch, rng):
    """Neither onnx nor anything else."""
    onnx.save(graph([("Relu", ["x"], ["y"])], {}, [1, 3]), tmp_path / "a.onnx")
    for package in ("onnx", "google.protobuf", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    x = rng.standard_normal((1, 3)).astype(np.float32)
    np.testing.assert_array_equal(nr.load_onnx(tmp_path / "a.onnx")(x).numpy(), np.maximum(x, 0))


def test_a_training_plan_takes_an_imported_network(theirs, tmp_path, rng):
    path = exported(
        theirs, tmp_path / "a.onnx", dynamo=False, training=torch.onnx.TrainingMode.PRESERVE
    )
    planned, eager = nr.load_onnx(path).train(), nr.load_onnx(path).train()
    x = rng.standard_normal((4, 3, 64, 64)).astype(np.float32)
    y = rng.integers(0, 7, 4)
    optimizers = [nr.optim.SGD(m.parameters(), lr=0.01) for m in (planned, eager)]
    step = nr.compile_step(planned, nr.functional.cross_entropy, optimizers[0], x.shape)
    loss = nr.functional.cross_entropy(eager(x), y)
    loss.backward()
    optimizers[1].step()
    assert abs(float(step(x, y)) - loss.item()) < 1e-4 * loss.item()
    for key, value in planned.state_dict().items():
        np.testing.assert_allclose(value, eager.state_dict()[key], rtol=0, atol=1e-3)


def test_external_data(theirs, tmp_path, rng):
    path = exported(theirs, tmp_path / "a.onnx", dynamo=False)
    onnx.save(
        onnx.load(path), tmp_path / "b.onnx", save_as_external_data=True, location="weights.bin"
    )
    assert os.path.getsize(tmp_path / "b.onnx") < 100_000
    x = rng.standard_normal((2, 3, 64, 64)).astype(np.float32)
    with nr.no_grad():
        one, other = nr.load_onnx(path)(x), nr.load_onnx(tmp_path / "b.onnx")(x)
    np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_everything_that_cant_be_run_is_listed_at_once(tmp_path):
    nodes = [
        ("Einsum", ["x"], ["a"], {"equation": "ij->ji", "name": "first"}),
        ("Relu", ["a"], ["b"]),
        ("Pad", ["b"], ["c"], {"mode": "reflect", "pads": [1, 1, 1, 1]}),
        ("Gelu", ["c"], ["d"], {"domain": "com.microsoft"}),
        ("Conv", ["d"], ["e"]),
        ("MaxPool", ["e"], ["f"]),
        ("Relu", ["f"], ["y"], {"slope": 0.5}),
    ]
    onnx.save(graph(nodes, {}, [2, 2]), tmp_path / "a.onnx")
    with pytest.raises(OnnxError) as caught:
        nr.load_onnx(tmp_path / "a.onnx")
    text = str(caught.value)
    for line in (
        "6 of 7 nodes can't be run (opset 17)",
        "Einsum ('first'): the operator isn't known",
        "Pad ('Pad_2'): mode 'reflect': only constant borders are built",
        "Gelu ('Gelu_3'): operators of the domain 'com.microsoft' aren't known",
        "Conv ('Conv_4'): 1 inputs, expected 2 to 3",
        "MaxPool ('MaxPool_5'): the attribute 'kernel_shape' is missing",
        "Relu ('Relu_6'): the attribute 'slope' isn't known",
    ):
        assert line in text


def test_inputs_are_checked(theirs, tmp_path):
    model = nr.load_onnx(exported(theirs, tmp_path / "a.onnx", dynamo=False))
    with pytest.raises(ShapeError, match=r"is \(2, 3, 64, 64\), got shape \(1, 3, 32, 32\)"):
        model(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(ShapeError, match="takes 1 inputs"):
        model()


def test_several_outputs_come_as_a_tuple(rng):
    from npresnet.export.load import model_from_bytes

    model = graph([("Relu", ["x"], ["a"]), ("Neg", ["a"], ["b"])], {}, [1, 3], outputs=("b", "a"))
    network = model_from_bytes(model.SerializeToString())
    x = rng.standard_normal((1, 3)).astype(np.float32)
    b, a = nr.compile(network, (1, 3))(x)
    np.testing.assert_array_equal(a, np.maximum(x, 0))
    np.testing.assert_array_equal(b, -a)
