"""Networks into ONNX files: ONNX Runtime gets the same numbers, and so do we reading them back."""

import numpy as np
import onnx
import pytest

import npresnet as nr
import npresnet.functional as F
from npresnet import models, nn
from npresnet.errors import ExtraError, GraphError, OnnxError, RangeError, WriteError
from npresnet.export import write
from tests.export.graphs import runtime
from tests.foreign import mobile, plain, residual


def wide():
    """Return what wide_resnet50_2 is made of, a block a stage."""
    return models.ResNet(models.Bottleneck, (1, 1, 1, 1), num_classes=3, base_width=128)


FAMILY = {
    "resnet18": (lambda: nr.resnet18(num_classes=10), (2, 3, 64, 64)),
    "resnet34": (lambda: nr.resnet34(num_classes=5, small_input=True), (1, 3, 32, 32)),
    "resnet50": (lambda: nr.resnet50(num_classes=5, in_chans=1), (2, 1, 64, 64)),
    "ResNet32": (lambda: nr.ResNet32(), (1, 3, 224, 224)),
    "resnext50_32x4d": (lambda: nr.resnext50_32x4d(num_classes=3), (1, 3, 32, 32)),
    "resnet18d": (lambda: nr.create_model("resnet18d", num_classes=3), (1, 3, 64, 64)),
    "seresnet18": (lambda: nr.create_model("seresnet18", num_classes=3), (1, 3, 32, 32)),
    "wide": (wide, (1, 3, 32, 32)),
    "mobile": (mobile.Net, (2, 3, 32, 32)),
}


def lived_in(model, rng):
    """Give batch norms statistics and weights as training would; return the model evaluating."""
    for key, value in model.state_dict().items():
        if key.endswith("running_mean"):
            value[...] = rng.standard_normal(value.shape) * 0.2
        elif key.endswith("running_var"):
            value[...] = rng.random(value.shape) + 0.5
        elif value.ndim == 1 and value.dtype == np.float32:
            value[...] += rng.standard_normal(value.shape) * 0.1
    return model.eval()


# unfolded: each kind of block and stem once more
UNFOLDED = ("resnet18", "resnet18d", "seresnet18", "wide", "mobile")


@pytest.mark.parametrize(
    ("name", "fold"), [*((n, True) for n in FAMILY), *((n, False) for n in UNFOLDED)]
)
def test_the_family_in_onnx_runtime(name, fold, tmp_path, rng):
    build, shape = FAMILY[name]
    model = lived_in(build(), rng)
    path = str(tmp_path / "a.onnx")
    nr.export_onnx(model, path, shape, fold=fold)
    x = rng.standard_normal((3 if shape[2] < 100 else 1, *shape[1:])).astype(np.float32)
    with nr.no_grad():
        expected = model(x).numpy()
        again = nr.load_onnx(path)(x).numpy()
    (found,) = runtime(path, x)  # of another batch than the one traced
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(again, expected, rtol=0, atol=1e-5 * scale)
    if not fold and name != "mobile":  # whose mean over maps becomes a pool
        np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("opset", [13, 17, 18, 21, None])
def test_versions(opset, tmp_path, rng):
    model = lived_in(mobile.Net(), rng)
    nr.export_onnx(model, tmp_path / "a.onnx", (2, 3, 32, 32), opset=opset)
    message = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(message, full_check=True)
    assert message.opset_import[0].version == (opset or onnx.defs.onnx_opset_version())
    assert message.producer_name == "npresnet"
    x = rng.standard_normal((5, 3, 32, 32)).astype(np.float32)
    with nr.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(
        runtime(str(tmp_path / "a.onnx"), x)[0],
        expected,
        rtol=0,
        atol=1e-5 * np.abs(expected).max(),
    )


def test_names(tmp_path, rng):
    model = lived_in(nr.resnet18(num_classes=4), rng)
    nr.export_onnx(model, tmp_path / "a.onnx", (1, 3, 32, 32), fold=False)
    plain_graph = onnx.load(tmp_path / "a.onnx").graph
    names = {c.name for c in plain_graph.initializer}
    assert names == {k for k in model.state_dict() if not k.endswith("num_batches_tracked")}
    assert [i.name for i in plain_graph.input] == ["input"]
    assert [o.name for o in plain_graph.output] == ["output"]
    sizes = plain_graph.input[0].type.tensor_type.shape.dim
    assert sizes[0].dim_param == "batch"
    assert [d.dim_value for d in sizes[1:]] == [3, 32, 32]
    assert {"layer1.0.conv1", "layer1.0.bn1", "fc"} <= {n.name for n in plain_graph.node}

    nr.export_onnx(model, tmp_path / "b.onnx", (1, 3, 32, 32))
    folded = onnx.load(tmp_path / "b.onnx").graph
    assert not any(n.op_type == "BatchNormalization" for n in folded.node)
    names = {c.name for c in folded.initializer}
    assert {"conv1.weight", "conv1.bias", "layer2.0.downsample.0.bias", "fc.bias"} <= names
    assert not any("bn" in name for name in names)


def test_a_round_trip_keeps_the_state_dict(tmp_path, rng):
    model = lived_in(nr.resnet18(num_classes=4), rng)
    nr.export_onnx(model, tmp_path / "a.onnx", (1, 3, 32, 32), fold=False)
    other = nr.resnet18(num_classes=4)
    other.load_state_dict(nr.load_onnx(tmp_path / "a.onnx").state_dict())
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[key], value)


def test_a_fixed_batch(tmp_path, rng):
    model = lived_in(nr.resnet18(num_classes=4), rng)
    nr.export_onnx(model, tmp_path / "a.onnx", (2, 3, 32, 32), dynamic_batch=False)
    message = onnx.load(tmp_path / "a.onnx")
    assert message.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2


class Odd(nn.Module):
    """What residual networks don't do, but users might."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.bare = nn.BatchNorm2d(4, affine=False)
        self.scale = nn.Parameter(np.float32([0.5, 2.0, 1.5, 1.0]))

    def forward(self, x):
        a = self.norm(self.conv(x))
        b = F.avg_pool2d(a, 3, 2, 1, count_include_pad=False)
        b = b + F.avg_pool2d(a, 3, 2, 1) * F.avg_pool2d(a, 3, 2, 1, divisor_override=5)
        b = F.pad(b, (1, 0, -1, 2), value=0.5)
        b = self.bare(F.max_pool2d(b, 3, 2, 1, ceil_mode=True))
        c = F.adaptive_avg_pool2d(a, 2).permute(0, 2, 3, 1).reshape(len(x), -1)  # (N, 16)
        d = nr.cat([b.mean((2, 3)), b.sum(3).amax(2), c], dim=1)  # (N, 24)
        d = (d - d.mean(1, keepdim=True)).abs().sqrt() + d.clamp(-1, 1).exp() / 3
        e = d[:, 2:20:3] - d[:, -6:]  # (N, 6)
        f = (e * e).log() + (-e) ** 2
        g = f.reshape(-1, 2, 3) @ nr.ones(3, 4)  # (N, 2, 4)
        h = g[:, 0] * self.scale + g[:, -1, ::2].mean(1, keepdim=True).expand(-1, 4)
        return {"p": F.softmax(h, 1), "log": F.log_softmax(g, 2), "same": h, "x": x.double()}


@pytest.mark.parametrize("opset", [13, 18])
def test_odd_networks(opset, tmp_path, rng):
    model = lived_in(Odd(), rng)
    path = str(tmp_path / "a.onnx")
    model.conv.bias.data[...] = 0.1
    nr.export_onnx(model, path, (2, 3, 10, 10), opset=opset)
    x = rng.standard_normal((3, 3, 10, 10)).astype(np.float32)
    with nr.no_grad():
        expected = [t.numpy() for t in model(nr.tensor(x)).values()]
        again = nr.load_onnx(path)(x)
    for found in (runtime(path, x), [t.numpy() for t in again]):
        for mine, other in zip(expected, found, strict=True):
            assert mine.dtype == other.dtype
            np.testing.assert_allclose(other, mine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("foreign", [plain, residual])
def test_foreign_networks(foreign, tmp_path, rng):
    model, images = foreign.make()
    lived_in(model, rng)
    path = str(tmp_path / "a.onnx")
    nr.export_onnx(model, path, images.shape)
    with nr.no_grad():
        expected = model(images).numpy()
    found = runtime(path, images.numpy())[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_float64(tmp_path, rng):
    model = lived_in(nr.resnet18(num_classes=3).double(), rng)
    nr.export_onnx(model, tmp_path / "a.onnx", (1, 3, 32, 32), fold=False)
    x = rng.standard_normal((2, 3, 32, 32))
    with nr.no_grad():
        expected = model(x).numpy()
        again = nr.load_onnx(tmp_path / "a.onnx")(x).numpy()
    assert again.dtype == np.float64
    np.testing.assert_allclose(again, expected, rtol=1e-12)


class Unknown(nn.Module):
    def forward(self, x):
        picked = x[np.array([0, 0])]
        return F.adaptive_avg_pool2d(picked, 3) + F.adaptive_avg_pool2d(x[:1], 2).sum()


def test_all_that_cant_be_written_is_listed(tmp_path):
    with pytest.raises(OnnxError, match="3 operations") as caught:
        nr.export_onnx(Unknown(), tmp_path / "a.onnx", (2, 3, 7, 7), dynamic_batch=False)
    assert "index: picking by arrays" in str(caught.value)
    assert "adaptive_avg_pool2d: maps of (7, 7) can't be parted evenly into (3, 3)" in str(
        caught.value
    )
    assert not (tmp_path / "a.onnx").exists()


class OfTheBatch(nn.Module):
    def forward(self, x):
        return x.squeeze() if len(x) > 1 else x


class OfValues(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_wrong_use(tmp_path, monkeypatch):
    model, path = nr.resnet18(num_classes=2), tmp_path / "a.onnx"
    with pytest.raises(RangeError, match="opset must be 13 to"):
        nr.export_onnx(model, path, (1, 3, 32, 32), opset=12)
    with pytest.raises(nr.NpresnetError, match="shape of a batch"):
        nr.export_onnx(model, path, 224)
    with pytest.raises(OnnxError, match="dynamic_batch=False"):
        nr.export_onnx(OfTheBatch(), path, (2, 1, 3, 3))
    with pytest.raises(GraphError, match="can't be traced"):
        nr.export_onnx(OfValues(), path, (2, 3))
    with pytest.raises(WriteError, match="no folder"):
        nr.export_onnx(model, tmp_path / "none" / "a.onnx", (1, 3, 32, 32))
    monkeypatch.setattr(write, "_LARGEST", 1000)
    with pytest.raises(OnnxError, match="2 GB"):
        nr.export_onnx(model, path, (1, 3, 32, 32))
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ExtraError, match=r"npresnet\[onnx\]"):
        nr.export_onnx(model, path, (1, 3, 32, 32))
    assert list(tmp_path.iterdir()) == []


def test_the_model_stays_as_it_is(tmp_path, rng):
    model = lived_in(nr.resnet18(num_classes=2), rng).train()
    before = {k: v.copy() for k, v in model.state_dict().items()}
    nr.export_onnx(model, tmp_path / "a.onnx", (1, 3, 32, 32))
    assert model.training
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
