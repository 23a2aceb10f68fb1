"""npresnet export: the file, what is printed, and how it fails."""

import numpy as np
import onnx
import pytest

import npresnet as nr
from npresnet.cli import main
from tests.export.graphs import runtime


def test_a_weight_file(tmp_path, capsys, rng):
    model = nr.resnet18(num_classes=4).eval()
    weights, out = tmp_path / "w.safetensors", tmp_path / "m.onnx"
    nr.weights.save_file(model.state_dict(), weights)
    arguments = ["--weights", str(weights), "--input-size", "3", "32", "32", "--opset", "17"]
    assert main(["export", "resnet18", str(out), *arguments]) == 0
    printed = capsys.readouterr().out
    assert f"written: {out} (" in printed
    assert "input N x 3 x 32 x 32" in printed
    assert onnx.load(out).opset_import[0].version == 17
    x = rng.standard_normal((2, 3, 32, 32)).astype(np.float32)
    with nr.no_grad():
        expected = model(x).numpy()
    found = runtime(str(out), x)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_random_weights_and_options(tmp_path, capsys):
    out = tmp_path / "m.onnx"
    size = ["--input-size", "1", "32", "32", "--small-input", "--num-classes", "3"]
    assert main(["export", "resnet18", str(out), *size, "--fixed-batch", "4", "--no-fold"]) == 0
    assert "random weights, input 4 x 1 x 32 x 32" in capsys.readouterr().out
    graph = onnx.load(out).graph
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [4, 1, 32, 32]
    assert any(n.op_type == "BatchNormalization" for n in graph.node)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["resnet18", "{}/none/m.onnx"], "no folder"),
        (["alexnet", "{}/m.onnx"], "no network 'alexnet'"),
        (["{}/m.onnx"], "expected a network"),
        (["resnet18", "{}/m.onnx", "--opset", "3"], "opset must be"),
    ],
)
def test_wrong_use(arguments, text, tmp_path, capsys):
    assert main(["export", *(a.format(tmp_path) for a in arguments)]) == 2
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
