"""Classifier: what scikit-learn users expect of it, and images of every form."""

from __future__ import annotations

import copy
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import npresnet as nr
from npresnet.backend import current_backend
from npresnet.errors import (
    BackendError,
    DataError,
    DtypeError,
    ModuleError,
    RangeError,
    ShapeError,
    WeightsError,
)
from npresnet.weights import load_metadata, save_file
from tests.tiny import Tiny, registered

SETTINGS = {"model": "tiny", "epochs": 6, "batch_size": 16, "lr": 0.05, "seed": 5}


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    with registered():
        yield


def make_images(count, rng):
    """Grey 8x8 images, dark or light, with their label."""
    light = rng.integers(0, 2, count).astype(bool)
    light[:2] = [False, True]
    images = rng.integers(0, 60, (count, 8, 8)) + np.where(light, 150, 20)[:, None, None]
    return images.astype(np.uint8), np.where(light, "light", "dark")


@pytest.fixture(scope="module")
def data():
    return make_images(48, np.random.default_rng(2))


@pytest.fixture(scope="module")
def fitted(data):
    return nr.Classifier(**SETTINGS).fit(*data)


def test_parameters_go_round():
    clf = nr.Classifier("resnet18", lr=0.1, validation=0.2)
    params = clf.get_params()
    assert params["model"] == "resnet18"
    assert params["lr"] == 0.1
    assert params["weights"] is None
    twin = type(clf)(**params)
    assert twin.get_params() == params
    assert twin.set_params(epochs=3) is twin
    assert twin.get_params()["epochs"] == 3
    assert clf.set_params(**twin.get_params()).get_params() == twin.get_params()
    assert repr(clf) == "Classifier(model='resnet18', epochs=3, lr=0.1, validation=0.2)"
    assert repr(nr.Classifier()) == "Classifier()"
    with pytest.raises(RangeError, match="no parameter 'learning_rate': it has model, weights"):
        clf.set_params(learning_rate=3, epochs=9)
    assert clf.epochs == 3  # none was changed


def test_constructor_only_keeps_its_arguments():
    odd = {"model": "vgg", "weights": object(), "epochs": "many", "validation": 7, "seed": -3}
    clf = nr.Classifier(**odd)
    assert all(clf.get_params()[name] is value for name, value in odd.items())
    assert not [name for name in vars(clf) if name.endswith("_")]


def test_fit_and_predict(fitted, data):
    images, labels = data
    np.testing.assert_array_equal(fitted.classes_, ["dark", "light"])
    assert len(fitted.history_) == 6
    shares = fitted.predict_proba(images)
    assert shares.shape == (48, 2)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    predicted = fitted.predict(images)
    np.testing.assert_array_equal(predicted, fitted.classes_[shares.argmax(1)])
    assert fitted.score(images, labels) == (predicted == labels).mean() > 0.9
    result = fitted.evaluate(images, labels)
    assert result.accuracy == fitted.score(images, labels)
    assert result.confusion.shape == (2, 2)
    assert fitted.settings_.preprocessing.size == (8, 8)
    assert fitted.settings_.preprocessing.channels == 1
    assert fitted.settings_.options["small_input"] is True
    assert not fitted.model_.training
    assert all(p.grad is None for p in fitted.model_.parameters())


def test_same_seed_same_weights(fitted, data):
    nr.manual_seed(1)
    before = nr.random.generator().bit_generator.state
    again = nr.Classifier(**SETTINGS).fit(*data)
    assert nr.random.generator().bit_generator.state == before
    for key, array in fitted.model_.state_dict().items():
        np.testing.assert_array_equal(array, again.model_.state_dict()[key])
    np.testing.assert_array_equal(fitted.predict_proba(data[0]), again.predict_proba(data[0]))


def test_alone_or_in_a_batch(fitted, data):
    images, _ = data
    together = fitted.predict_proba(images[:9])
    alone = np.concatenate([fitted.predict_proba(images[i : i + 1]) for i in range(9)])
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-7)
    fitted.set_params(batch_size=4)
    np.testing.assert_allclose(fitted.predict_proba(images[:9]), together, rtol=1e-5, atol=1e-7)
    fitted.set_params(batch_size=16)


def test_every_form_of_image(fitted, data, tmp_path):
    images = data[0][:4]
    expected = fitted.predict_proba(images)
    paths = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    forms = [
        list(images),
        images[..., None],
        np.repeat(images[..., None], 3, axis=-1),
        [Image.fromarray(image) for image in images],
        (Image.fromarray(image).convert("RGB") for image in images),
        paths,
        [str(path) for path in paths],
        np.array([str(path) for path in paths], dtype=object),
        [str(paths[0]), paths[1], images[2], Image.fromarray(images[3]).convert("P")],
    ]
    for form in forms:
        np.testing.assert_allclose(fitted.predict_proba(form), expected, atol=1e-6)
    assert fitted.predict_proba([]).shape == (0, 2)
    assert fitted.predict([]).shape == (0,)


def test_save_and_load(fitted, data, tmp_path):
    path = tmp_path / "c.safetensors"
    fitted.save(path)
    assert load_metadata(path)["format"] == "pt"
    expected = fitted.predict_proba(data[0])
    loaded = nr.Classifier.load(path, batch_size=16)
    assert loaded.model == "tiny"
    np.testing.assert_array_equal(loaded.predict_proba(data[0]), expected)
    np.testing.assert_array_equal(loaded.classes_, fitted.classes_)
    assert loaded.predict(data[0]).dtype == fitted.predict(data[0]).dtype
    lazy = nr.Classifier("tiny", weights=path, batch_size=16)
    np.testing.assert_array_equal(lazy.predict_proba(data[0]), expected)
    lazy = nr.Classifier(weights=path, batch_size=16)  # the file knows what it holds
    np.testing.assert_array_equal(lazy.predict_proba(data[0]), expected)


def test_plain_weights(tmp_path):
    path = tmp_path / "plain.safetensors"
    save_file(Tiny(num_classes=3, in_chans=1, small_input=True).state_dict(), path)
    clf = nr.Classifier("tiny", weights=path)
    assert clf.predict(np.zeros((2, 9, 9), np.uint8)).dtype.kind == "i"
    np.testing.assert_array_equal(clf.classes_, [0, 1, 2])
    with pytest.raises(WeightsError, match=r"plain\.safetensors': .* missing keys"):
        nr.Classifier("resnet18", weights=path).predict(np.zeros((2, 9, 9), np.uint8))
    with pytest.raises(WeightsError, match="architecture"):
        nr.Classifier.load(path)
    assert len(nr.Classifier.load(path, model="tiny").classes_) == 3


def test_pretrained(tmp_path, monkeypatch):
    """A repository on a hub says how images are prepared and what the classes are called."""
    from safetensors.numpy import save

    from tests.weights.fake_hub import fake_hub, repository

    model = Tiny(num_classes=1000).eval()
    config = {
        "architecture": "tiny",
        "num_classes": 1000,
        "pretrained_cfg": {"input_size": [3, 24, 24], "crop_pct": 0.8, "mean": [0.1, 0.2, 0.3]},
    }
    weights = save({key: np.asarray(a) for key, a in model.state_dict().items()})
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8))
    with fake_hub(monkeypatch, tmp_path, repository("me/tiny", config, weights)):
        clf = nr.Classifier("resnet50", weights="me/tiny")
        shares = clf.predict_proba([picture])
        assert nr.Classifier.load("me/tiny").classes_[0] == "tench"
        tuned = nr.Classifier(weights="me/tiny", epochs=1, lr=0.0, augment="none", batch_size=2)
        tuned.fit([picture, picture], ["a", "b"])
    seen = picture.resize((30, 45), Image.Resampling.BICUBIC).crop((3, 10, 27, 34))
    x = np.asarray(seen, np.float64).transpose(2, 0, 1)[None] / 255
    x = (x - np.reshape([0.1, 0.2, 0.3], (3, 1, 1))) / np.reshape([0.229, 0.224, 0.225], (3, 1, 1))
    with nr.no_grad():
        logits = model(nr.tensor(x.astype(np.float32))).data
    np.testing.assert_allclose(shares[0], np.exp(logits[0]) / np.exp(logits[0]).sum(), rtol=1e-4)
    assert clf.predict([picture])[0] == nr.data.imagenet_classes()[logits.argmax()]
    np.testing.assert_array_equal(tuned.classes_, ["a", "b"])
    assert tuned.settings_.preprocessing == clf.settings_.preprocessing
    np.testing.assert_array_equal(tuned.model_.conv2.weight.data, model.conv2.weight.data)


def test_fine_tuning(fitted, data, tmp_path):
    path = tmp_path / "c.safetensors"
    fitted.save(path)
    frozen = {**SETTINGS, "weights": path, "lr": 0.0, "epochs": 1, "augment": "none"}
    same = nr.Classifier(**frozen).fit(*data)
    np.testing.assert_array_equal(
        same.model_.fc.weight.data, fitted.model_.fc.weight.data
    )  # the classes are the same, so is the head
    numbers = np.arange(len(data[1])) % 3
    other = nr.Classifier(**frozen).fit(data[0], numbers)
    np.testing.assert_array_equal(other.classes_, [0, 1, 2])
    assert other.model_.fc.weight.shape == (3, 16)
    np.testing.assert_array_equal(other.model_.conv2.weight.data, fitted.model_.conv2.weight.data)


def test_validation_keeps_the_best_epoch(data):
    clf = nr.Classifier(**{**SETTINGS, "epochs": 3}, validation=0.25).fit(*data)
    assert all(h.test_accuracy is not None for h in clf.history_)
    assert clf.history_[0].train_loss != clf.history_[1].train_loss


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([3, 7], [3, 7]),
        (np.array([3, 7], np.int16), [3, 7]),
        ([0.5, 0.25], [0.25, 0.5]),
        ([True, False], [False, True]),
        (["b", "a"], ["a", "b"]),
        (np.array(["b", "a"], dtype=object), ["a", "b"]),
        ([(1, 2), (0, 9)], [(0, 9), (1, 2)]),
        ([b"x", b"y"], [b"x", b"y"]),
    ],
)
def test_labels_of_any_kind(labels, classes, tmp_path):
    images = np.zeros((2, 8, 8), np.uint8)
    images[0] = 255
    clf = nr.Classifier("tiny", epochs=1, lr=0.0, augment="none", batch_size=2)
    clf.fit(images, labels)
    assert list(clf.classes_) == classes
    assert clf.predict(images)[0] in classes
    path = tmp_path / "c.safetensors"
    if isinstance(classes[0], tuple | bytes):
        with pytest.raises(WeightsError, match="text or numbers"):
            clf.save(path)
        assert not os.listdir(tmp_path)
    else:
        clf.save(path)
        loaded = nr.Classifier.load(path).classes_
        assert list(loaded) == classes
        assert loaded.dtype == clf.classes_.dtype


def test_not_fitted(tmp_path):
    clf = nr.Classifier()
    image = np.zeros((1, 8, 8), np.uint8)
    for call in (
        lambda: clf.predict(image),
        lambda: clf.predict_proba(image),
        lambda: clf.score(image, [1]),
        lambda: clf.evaluate(image, [1]),
        lambda: clf.save(tmp_path / "x.safetensors"),
    ):
        with pytest.raises(ModuleError, match=r"call fit\(images, labels\), or make it with"):
            call()


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ("cat.png", DtypeError, r"pass \[image\]"),
        (Image.new("L", (8, 8)), DtypeError, r"pass \[image\]"),
        (np.zeros((8, 8), np.uint8), ShapeError, r"image\[None\]"),
        (np.zeros((8, 8, 3), np.uint8), ShapeError, r"image\[None\]"),
        (np.zeros((2, 8, 8), np.float32), DtypeError, "uint8"),
        ([np.zeros((8, 8))], DtypeError, "image 0: expected a PIL image or a uint8 array"),
        ([np.zeros((8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)], ShapeError, "image 1"),
        ([[[1, 2], [3, 4]]], DtypeError, "got list"),
        (7, DtypeError, "expected a list of images, got int"),
        ({"a": 1}, DtypeError, "got dict"),
        (["nowhere.png"], DataError, "no image 'nowhere.png'"),
    ],
)
def test_images_that_are_none(fitted, images, error, message):
    with pytest.raises(error, match=message):
        fitted.predict(images)


def test_an_image_file_that_is_none(fitted, tmp_path):
    path = tmp_path / "text.png"
    path.write_text("hello")
    with pytest.raises(DataError, match="isn't an image"):
        fitted.predict([path])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (["a"], DataError, "each of 3 images, got 1"),
        (["a", "a", "a"], DataError, "at least two classes, got 1 class"),
        (["a", "b", None], DataError, "label 2 is None"),
        ([1.0, 2.0, float("nan")], DataError, "label 2 is nan"),
        (["a", 1, "b"], DtypeError, "of kinds int, str"),
        ([["a"], ["b"], ["c"]], DtypeError, "label 0 is a list"),
        ("abc", DtypeError, "a label for each image, got str"),
        (None, DataError, "requires y to be passed"),
    ],
)
def test_labels_that_are_none(labels, error, message):
    with pytest.raises(error, match=message):
        nr.Classifier("tiny").fit(np.zeros((3, 8, 8), np.uint8), labels)


@pytest.mark.parametrize(
    "params",
    [
        {"model": "vgg16"},
        {"epochs": 0},
        {"validation": 1.0},
        {"validation": "some"},
        {"seed": -1},
        {"seed": "x"},
        {"image_size": 0},
        {"image_size": 100_000},
        {"image_size": "large"},
        {"augment": "cutmix"},
        {"lr": -0.1},
    ],
)
def test_parameters_out_of_range(data, params):
    with pytest.raises(RangeError):
        nr.Classifier(**{"model": "tiny", **params}).fit(*data)


def test_unknown_labels(fitted, data):
    images, _ = data
    assert fitted.score(images[:2], ["green", "blue"]) == 0
    with pytest.raises(DtypeError, match=r"like 7 \(int\) are compared with .* like 'dark' \(str"):
        fitted.score(images[:2], [7, 8])
    with pytest.raises(DataError, match="'green' is none of the 2 classes"):
        fitted.evaluate(images[:2], ["green", "dark"])
    with pytest.raises(DataError, match="at least one image"):
        fitted.score([], [])
    with pytest.raises(DataError, match="each of 2 images"):
        fitted.score(images[:2], ["dark"])


def test_numbers_of_numpy(data):
    """They come from parameter grids."""
    params = {"epochs": np.int64(1), "lr": np.float32(0.01), "seed": np.int32(3)}
    clf = nr.Classifier("tiny", **params, validation=np.float64(0.25)).fit(*data)
    assert len(clf.history_) == 1
    assert clf.get_params()["epochs"] is params["epochs"]


def test_copies(fitted, data):
    expected = fitted.predict_proba(data[0])
    for twin in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(twin.predict_proba(data[0]), expected)


def test_plans_do_the_work(data, monkeypatch):
    """Training, its evaluation, prediction and scoring: none of it convolves eagerly."""
    kernels = current_backend().kernels

    def eager(*arguments):
        raise AssertionError("an eager convolution")

    monkeypatch.setattr(kernels, "conv2d", eager)
    with pytest.raises(AssertionError, match="an eager convolution"):
        nr.resnet18(small_input=True).eval()(nr.zeros(1, 3, 8, 8))
    clf = nr.Classifier("resnet18", epochs=1, batch_size=24, validation=0.25, seed=5).fit(*data)
    assert len(clf.predict(data[0])) == len(data[0])
    assert 0 <= clf.score(*data) <= 1


def test_prediction_from_several_threads(fitted, data):
    expected = fitted.predict_proba(data[0])
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(fitted.predict_proba, [data[0]] * 8):
            np.testing.assert_array_equal(result, expected)


def test_backend_of_its_own(data):
    images, labels = data
    clf = nr.Classifier(**{**SETTINGS, "epochs": 1}, backend="reference")
    clf.fit(images[:4], labels[:4])
    assert clf.predict(images[:2]).shape == (2,)
    with pytest.raises(nr.NpresnetError, match="unknown backend"):
        clf.set_params(backend="abacus").predict(images)


def test_precision_that_a_cpu_lacks(fitted, data, tmp_path):
    images, labels = data
    message = "precision 'bf16' needs backend 'gpu', got 'cpu'"
    with pytest.raises(BackendError, match=message):
        nr.Classifier(**SETTINGS, precision="bf16").fit(images, labels)
    fitted.save(tmp_path / "c.safetensors")
    with pytest.raises(BackendError, match=message):
        nr.Classifier.load(tmp_path / "c.safetensors", precision="bf16")
    twin = copy.deepcopy(fitted)
    with pytest.raises(BackendError, match=message):
        twin.set_params(precision="bf16").predict(images)
    assert twin.set_params(precision="fp32").predict(images).shape == labels.shape


def test_photographs_are_cut_to_224():
    """Only what would be done is looked at: training at that size takes long."""
    from npresnet.training.items import Items

    clf = nr.Classifier()
    photos = [np.zeros((80, 100, 3), np.uint8)] * 3
    recipe = clf._recipe(Items(photos))
    assert recipe.preprocessing.size == (224, 224)
    assert not recipe.uses_small_input
    assert clf._recipe(Items([np.zeros((80, 100), np.uint8)])).preprocessing.channels == 1
    icons = clf._recipe(Items([np.zeros((20, 30, 4), np.uint8), np.zeros((24, 24, 3), np.uint8)]))
    assert icons.preprocessing.size == (24, 30)
    assert icons.uses_small_input
