import hashlib
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from npresnet.data import DataLoader, Digits, load_digits
from npresnet.errors import RangeError

# of the 1,797 rows of 64 pixels and a label, one byte each, in the order of the file at UCI
SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"
FILES = resources.files("npresnet.data").joinpath("files")


def stored():
    with FILES.joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_the_files_are_small_and_carry_their_licence():
    assert sum(len(file.read_bytes()) for file in FILES.iterdir()) < 100_000
    note = FILES.joinpath("README.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in note
    assert "https://doi.org/10.24432/C50P49" in note


def test_the_data_are_those_of_uci():
    arrays = stored()
    rows = np.column_stack([arrays["images"].reshape(-1, 64), arrays["labels"]])
    assert rows.dtype == np.uint8
    assert rows.shape == (1797, 65)
    assert arrays["images"].max() == 16
    # the first row of the file at UCI
    assert rows[0, :16].tolist() == [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0]
    assert np.bincount(arrays["labels"]).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    assert hashlib.sha256(rows.tobytes()).hexdigest() == SHA256


def test_the_split_is_stratified_and_complete():
    (train, train_labels), (test, test_labels) = load_digits("train"), load_digits("test")
    assert train.shape == (1437, 8, 8)
    assert test.shape == (360, 8, 8)
    assert train_labels.shape == (1437,)
    assert test_labels.shape == (360,)
    whole = np.bincount(train_labels) + np.bincount(test_labels)
    assert np.all(np.abs(np.bincount(test_labels) - whole / 5) < 1)
    # all 1,797 images differ, so disjoint means that no image is in both
    seen = {image.tobytes() for image in train} | {image.tobytes() for image in test}
    assert len(seen) == 1797


def test_the_split_follows_the_rule_in_the_docstring():
    arrays = stored()
    expected = np.zeros(1797, dtype=bool)
    expected[np.argsort(arrays["labels"], kind="stable")[::5]] = True
    np.testing.assert_array_equal(arrays["test"], expected)


@pytest.mark.parametrize("split", ["train", "test"])
def test_scaling_is_invertible(split):
    images, labels = load_digits(split)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert (images.min(), images.max()) == (0, 255)
    arrays = stored()
    ink = arrays["images"][arrays["test"] == (split == "test")]
    np.testing.assert_array_equal(np.rint(images / 255 * 16), ink)
    np.testing.assert_array_equal(images, np.floor(ink * (255 / 16) + 0.5))


def test_items_are_images():
    digits = Digits("test")
    image, label = digits[0]
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("L", (8, 8))
    assert isinstance(label, int)
    images, labels = load_digits("test")
    for i in (0, 17, -1):
        np.testing.assert_array_equal(np.asarray(digits[i][0]), images[i])
        assert digits[i][1] == labels[i]
    assert digits.classes == list("0123456789")
    assert len(digits) == 360
    with pytest.raises(IndexError, match="index 360 is out of range for 360 items"):
        digits[360]


def test_a_loader_makes_arrays_of_them():
    images, labels = next(iter(DataLoader(Digits("test"), batch_size=360)))
    expected, expected_labels = load_digits("test")
    assert images.shape == (360, 1, 8, 8)
    np.testing.assert_array_equal(images[:, 0], expected / np.float32(255))
    np.testing.assert_array_equal(labels, expected_labels)


def test_an_unknown_split():
    for make in (load_digits, Digits):
        with pytest.raises(RangeError, match='split expected "train" or "test", got \'valid\''):
            make("valid")
