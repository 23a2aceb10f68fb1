"""Heads and feature maps, with timm's names; weights for other heads and images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import npresnet as nr
from npresnet.errors import RangeError, WeightsError
from npresnet.models import BasicBlock, FeatureListNet, ResNet
from npresnet.weights import save_file
from tests.engine.networks import lived_in
from tests.parity import assert_parity, relative_error


def small(**options):
    nr.manual_seed(3)
    return lived_in(ResNet(BasicBlock, (1, 1, 1, 1), **{"num_classes": 4, **options})).eval()


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture
def x(rng):
    return nr.Tensor(rng.standard_normal((2, 3, 64, 48)).astype(np.float32))


def test_the_parts_make_the_whole(model, x):
    with nr.no_grad():
        maps = model.forward_features(x)
        assert maps.shape == (2, 512, 2, 2)
        vector = model.forward_head(maps, pre_logits=True)
        assert vector.shape == (2, model.num_features) == (2, 512)
        np.testing.assert_array_equal(model.fc(vector).numpy(), model(x).numpy())
        np.testing.assert_array_equal(model.forward_head(maps).numpy(), model(x).numpy())


def test_intermediates(model, x):
    with nr.no_grad():
        last, maps = model.forward_intermediates(x)
        assert [m.shape[1:] for m in maps] == [
            (info["num_chs"], 64 // info["reduction"], -(-48 // info["reduction"]))
            for info in model.feature_info
        ]
        assert [info["module"] for info in model.feature_info] == [
            "relu",
            "layer1",
            "layer2",
            "layer3",
            "layer4",
        ]
        np.testing.assert_array_equal(last.numpy(), model.forward_features(x).numpy())

        def taken(*args, **options):
            _, some = model.forward_intermediates(x, *args, **options)
            return [next(i for i, m in enumerate(maps) if m.shape == s.shape) for s in some]

        assert taken(2) == [3, 4]
        assert taken([-1, 0]) == [0, 4]
        assert taken((1,)) == [1]
        early, (second,) = model.forward_intermediates(x, [2], stop_early=True)
        np.testing.assert_array_equal(early.numpy(), second.numpy())
        pooled, (stem,) = model.forward_intermediates(x, [0], stop_early=True)
        np.testing.assert_array_equal(stem.numpy(), maps[0].numpy())
        np.testing.assert_array_equal(pooled.numpy(), model.maxpool(stem).numpy())
        only = model.forward_intermediates(x, [4], intermediates_only=True)
        np.testing.assert_array_equal(only[0].numpy(), last.numpy())
    for wrong in ([5], [-6], [], 0, 6):
        with pytest.raises(RangeError, match="indices -5 to 4"):
            model.forward_intermediates(x, wrong)
    with pytest.raises(RangeError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_features_only(x):
    net = nr.create_model("resnet18", features_only=True, out_indices=(-2, 1)).eval()
    assert isinstance(net, FeatureListNet)
    assert not [key for key in net.state_dict() if key.startswith(("layer4", "fc"))]
    assert net.feature_info.out_indices == (1, 3)
    assert net.feature_info.channels() == [64, 256]
    assert net.feature_info.reduction() == [4, 16]
    assert net.feature_info.module_name() == ["layer1", "layer3"]
    assert net.feature_info.info[4] == {
        "num_chs": 512,
        "reduction": 32,
        "module": "layer4",
        "index": 4,
    }
    with nr.no_grad():
        maps = net(x)
    assert [m.shape for m in maps] == [(2, 64, 16, 12), (2, 256, 4, 3)]
    for mine, planned in zip(maps, nr.compile(net, x.shape)(x), strict=True):
        assert relative_error(planned.numpy(), mine.numpy()) <= 1e-5


def test_features_train_in_a_plan(rng):
    """Every map goes into the loss; eager and plan take the same step."""
    shape = (2, 3, 32, 32)
    x, weights = rng.standard_normal(shape), rng.standard_normal(5)

    def loss(maps, target):
        total = nr.zeros(1, dtype=np.float64)
        for weight, part in zip(weights, maps, strict=True):
            total = total + (part * part).mean() * float(weight)
        return total.sum()

    results = []
    for planned in (False, True):
        net = FeatureListNet(small(num_classes=0)).double().train()
        optimizer = nr.optim.SGD(net.parameters(), lr=0.01)
        if planned:
            value = nr.compile_step(net, loss, optimizer, shape)(x, None)
        else:
            tensor = loss(net(nr.Tensor(x)), None)
            tensor.backward()
            optimizer.step()
            value = float(tensor)
        results.append((value, net.state_dict()))
    assert abs(results[0][0] - results[1][0]) <= 1e-10 * abs(results[0][0])
    for key, value in results[0][1].items():
        assert relative_error(results[1][1][key], value) <= 1e-9, key


@pytest.mark.parametrize("kind", ["avg", "max", "avgmax", "catavgmax"])
def test_global_pools(kind, backend, rng):
    def theirs(x):
        mean = TF.adaptive_avg_pool2d(x, 1).flatten(1)
        most = TF.adaptive_max_pool2d(x, 1).flatten(1)
        both = {"avgmax": (mean + most) / 2, "catavgmax": torch.cat([mean, most], 1)}
        return {"avg": mean, "max": most, **both}[kind]

    pool = nr.models.GlobalPool(kind)
    assert_parity(pool, theirs, [rng.standard_normal((2, 5, 4, 3))], rng)


def test_pools_and_heads_can_be_exchanged(x):
    model = small(global_pool="catavgmax")
    assert model.fc.weight.shape == (4, 1024)
    with nr.no_grad():
        plain = model(x).numpy()
        assert relative_error(nr.compile(model, x.shape)(x).numpy(), plain) <= 1e-5
        model.reset_classifier(0, "max")
        assert model(x).shape == (2, 512)
        model.reset_classifier(0, "")
        assert model(x).shape == (2, 512, 2, 2)
        model.double().reset_classifier(3, "avg")
        assert model.num_classes == 3
        assert model(x.double()).shape == (2, 3)
        assert model.fc.weight.dtype == np.float64
    for wrong in ((-1, None), (3, "")):
        with pytest.raises(RangeError, match="needs no classes"):
            model.reset_classifier(*wrong)
    assert model.num_classes == 3  # as it was


def test_no_classes(x):
    model = small(num_classes=0)
    assert not [key for key in model.state_dict() if key.startswith("fc")]
    with nr.no_grad():
        np.testing.assert_array_equal(
            model(x).numpy(), model.forward_head(model.forward_features(x), True).numpy()
        )


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """ResNet-10t's weights for RGB and 5 classes."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    nr.manual_seed(8)
    model = nr.create_model("resnet10t", num_classes=5)
    save_file(model.state_dict(), path)
    return path, model


def stem(model):
    return model.conv1[0].weight.numpy()


def test_weights_for_other_images(file):
    """timm's rule: a grey image in all three channels, or channels repeated, give what RGB gave."""
    path, model = file
    weight = stem(model)
    grey = nr.create_model("resnet10t", path, num_classes=5, in_chans=1)
    np.testing.assert_allclose(stem(grey), weight.sum(1, keepdims=True), rtol=1e-6, atol=1e-7)
    for channels in (2, 4, 6):
        wide = stem(nr.create_model("resnet10t", path, num_classes=5, in_chans=channels))
        expected = np.stack([weight[:, i % 3] for i in range(channels)], 1) * 3 / channels
        np.testing.assert_allclose(wide, expected, rtol=1e-6)
    np.testing.assert_array_equal(grey.fc.weight.numpy(), model.fc.weight.numpy())


def test_weights_under_another_head(file, x):
    path, model = file
    other = nr.create_model("resnet10t", path, num_classes=7)
    assert other.fc.weight.shape == (7, 512)
    assert other.fc.weight.numpy().std() > 0  # random, not left empty
    np.testing.assert_array_equal(stem(other), stem(model))
    bare = nr.create_model("resnet10t", path, num_classes=0)
    maps = nr.create_model("resnet10t", path, features_only=True)
    with nr.no_grad():
        features = model.eval().forward_features(x)
        pooled = model.forward_head(features, pre_logits=True)
        np.testing.assert_array_equal(bare.eval()(x).numpy(), pooled.numpy())
        np.testing.assert_array_equal(maps.eval()(x)[-1].numpy(), features.numpy())


def test_weights_that_do_not_fit(file, tmp_path):
    path, _ = file
    with pytest.raises(WeightsError, match=r"fc\.weight"):
        nr.create_model("resnet10t", path)  # 1000 classes were not asked for by name
    with pytest.raises(WeightsError, match="missing keys"):
        nr.create_model("resnet18", path, num_classes=5)
    six = tmp_path / "six.safetensors"
    state = nr.create_model("resnet10t", num_classes=5, in_chans=6).state_dict()
    save_file(state, six)
    with pytest.raises(WeightsError, match="use in_chans=6 or 1"):
        nr.create_model("resnet10t", six, num_classes=5, in_chans=3)
