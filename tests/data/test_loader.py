import gc
import threading
import time

import numpy as np
import pytest
from PIL import Image

from npresnet.data import (
    ArrayDataset,
    Compose,
    DataLoader,
    Dataset,
    RandomCrop,
    RandomHorizontalFlip,
    Subset,
    ToArray,
    Transform,
)
from npresnet.errors import DataError, DtypeError, RangeError

RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 256, size=(23, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(23)
AUGMENT = Compose([RandomCrop((6, 5), padding=2), RandomHorizontalFlip(), ToArray()])


def epoch(loader):
    return [(images, labels.tolist()) for images, labels in loader]


def order_of(loader):
    return np.concatenate([labels for _, labels in loader]).tolist()


def assert_same(a, b):
    assert [labels for _, labels in a] == [labels for _, labels in b]
    for (x, _), (y, _) in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("npresnet-loader")]


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [8, 8, 7]), (True, [8, 8])])
def test_batches_in_order(workers, drop_last, sizes):
    loader = DataLoader(ArrayDataset(PIXELS, LABELS), 8, drop_last=drop_last, workers=workers)
    batches = list(loader)
    assert len(loader) == len(sizes)
    assert [len(images) for images, _ in batches] == sizes
    for images, labels in batches:
        assert images.dtype == np.float32
        assert labels.dtype == np.int64
        assert images.flags.c_contiguous
        expected = PIXELS[labels].transpose(0, 3, 1, 2) / np.float32(255)
        np.testing.assert_array_equal(images, expected)
    assert np.concatenate([y for _, y in batches]).tolist() == list(range(sum(sizes)))


def test_shuffling_is_a_new_permutation_each_epoch():
    loader = DataLoader(ArrayDataset(PIXELS, LABELS), 4, shuffle=True, seed=7)
    orders = [order_of(loader) for _ in range(3)]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    other = DataLoader(ArrayDataset(PIXELS, LABELS), 4, shuffle=True, seed=8)
    assert order_of(other) != orders[0]


def test_seed_and_epoch_decide_everything():
    data = ArrayDataset(PIXELS, LABELS, AUGMENT)
    loader = DataLoader(data, 5, shuffle=True, seed=1)
    epochs = [epoch(loader) for _ in range(3)]
    for workers in (0, 1, 4):
        again = DataLoader(data, 5, shuffle=True, seed=1, workers=workers)
        assert_same(epoch(again), epochs[0])
        assert_same(epoch(again), epochs[1])
        again.epoch = 2  # as after resuming
        assert_same(epoch(again), epochs[2])
        assert again.epoch == 3
        assert_same(epoch(again.batches(1)), epochs[1])
    different = DataLoader(data, 23, seed=2)
    assert not np.array_equal(next(iter(different))[0], next(different.batches(1))[0])


def test_every_item_draws_for_itself():
    copies = ArrayDataset([PIXELS[0]] * 23, LABELS, AUGMENT)
    ((images, _),) = DataLoader(copies, 23, seed=1)
    assert len({image.tobytes() for image in images}) > 10


def test_an_item_is_the_same_in_any_batch():
    data = ArrayDataset(PIXELS, LABELS, AUGMENT)
    whole, _ = next(iter(DataLoader(data, 23, seed=3)))
    for size in (1, 4, 10):
        loader = DataLoader(data, size, shuffle=True, seed=3)
        for images, labels in loader.batches(0):
            np.testing.assert_array_equal(images, whole[labels])


def test_a_plain_callable_and_a_plain_sequence():
    pairs = [(np.full((1, 2, 2), i, dtype=np.float64), i) for i in range(3)]
    images, labels = next(iter(DataLoader(pairs, 3)))
    assert images.dtype == np.float32
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert labels.tolist() == [0, 1, 2]
    doubled = ArrayDataset([image for image, _ in pairs], [0, 1, 2], lambda image: image * 2)
    assert next(iter(DataLoader(doubled, 3)))[0][2, 0, 0, 0] == 4


def test_images_of_pillow():
    data = ArrayDataset([Image.fromarray(p) for p in PIXELS], LABELS)
    images, _ = next(iter(DataLoader(data, 2)))
    np.testing.assert_array_equal(images, PIXELS[:2].transpose(0, 3, 1, 2) / np.float32(255))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_empty_data_set(workers):
    loader = DataLoader(ArrayDataset([], []), 4, shuffle=True, workers=workers)
    assert len(loader) == 0
    assert list(loader) == []


class Failing(Dataset):
    def __len__(self):
        return 40

    def load(self, index):
        if index == 13:
            raise DataError("image 13 is broken")
        return np.zeros((1, 2, 2), dtype=np.float32), index


@pytest.mark.parametrize("workers", [0, 3])
def test_errors_come_out_of_the_loop(workers):
    batches = iter(DataLoader(Failing(), 5, workers=workers))
    assert next(batches)[1].tolist() == [0, 1, 2, 3, 4]
    assert next(batches)[1].tolist() == [5, 6, 7, 8, 9]
    with pytest.raises(DataError, match="image 13 is broken"):
        next(batches)
    assert loader_threads() == []


class Slow(Dataset):
    def __init__(self):
        super().__init__()
        self.loaded = 0

    def __len__(self):
        return 10_000

    def load(self, index):
        self.loaded += 1
        time.sleep(0.002)
        return np.zeros((1, 2, 2), dtype=np.float32), index


def test_leaving_early_stops_the_threads():
    data = Slow()
    begin = time.perf_counter()
    for _, labels in DataLoader(data, 100, workers=2):
        assert labels[0] == 0
        break
    gc.collect()
    assert loader_threads() == []
    loaded = data.loaded
    assert loaded <= 700  # the first batch and at most those under way, not the data set
    assert time.perf_counter() - begin < 5
    time.sleep(0.02)
    assert data.loaded == loaded


def test_reading_ahead_is_bounded():
    data = Slow()
    batches = DataLoader(data, 1, workers=2).batches(0)
    next(batches)
    time.sleep(0.1)
    assert data.loaded <= 6  # the one taken, and two for each worker
    assert data.loaded >= 3
    batches.close()


def test_two_loops_over_one_loader():
    loader = DataLoader(ArrayDataset(PIXELS, LABELS, AUGMENT), 8, shuffle=True, workers=2)
    expected = [epoch(loader.batches(n)) for n in (0, 1)]
    first, second = iter(loader), iter(loader)
    pairs = list(zip(first, second, strict=True))
    assert_same(epoch(a for a, _ in pairs), expected[0])
    assert_same(epoch(b for _, b in pairs), expected[1])


def test_subsets():
    data = ArrayDataset(PIXELS, LABELS, AUGMENT)
    data.classes = ["a", "b"]
    part = Subset(data, [5, 3, -1])
    assert len(part) == 3
    assert part.classes == ["a", "b"]
    assert [label for _, label in part] == [5, 3, 22]
    assert part[-1][1] == 22
    np.testing.assert_array_equal(part.load(2)[0], PIXELS[22])
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    np.testing.assert_array_equal(part.get(0, rng)[0], data.get(5, again)[0])
    with pytest.raises(IndexError, match="index 3 is out of range for 3 items"):
        part[3]
    with pytest.raises(RangeError, match="index 23 is out of range for 23 items"):
        Subset(data, [23])


def test_array_datasets_check_their_labels():
    with pytest.raises(DataError, match=r"a label for each of 23 images, got .* \(22,\)"):
        ArrayDataset(PIXELS, LABELS[1:])
    with pytest.raises(DtypeError, match="labels must be integers, got float64"):
        ArrayDataset(PIXELS, LABELS * 1.0)
    with pytest.raises(DtypeError, match="transform expected a callable or None, got int"):
        ArrayDataset(PIXELS, LABELS, 3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ([(np.zeros((1, 2, 2)), 0), (np.zeros((1, 2, 3)), 1)], DataError, r"image 1 has shape"),
        ([(np.zeros((2, 2)), 0)], DataError, r"image 0 expected shape \(C, H, W\), got \(2, 2\)"),
        ([(np.zeros((1, 2, 2)), 0.5)], DataError, "label 0 expected an integer, got 0.5"),
        ([(np.zeros((1, 2, 2)), np.nan)], DataError, "label 0 expected an integer, got nan"),
        ([np.zeros((1, 2, 2))], DataError, r"item 0 expected \(image, label\), got ndarray"),
        ([("a.png", 0)], DtypeError, "expected a PIL image or a uint8 array .* got str"),
    ],
)
def test_wrong_items(items, error, message, workers):
    with pytest.raises(error, match=message):
        list(DataLoader(items, 2, workers=workers))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, RangeError, "batch_size expected at least 1, got 0"),
        ({"batch_size": 2.5}, DtypeError, "batch_size expected an int, got 2.5"),
        ({"seed": -1}, RangeError, "seed expected at least 0, got -1"),
        ({"workers": -1}, RangeError, "workers expected at least 0, got -1"),
        ({"dataset": 3}, DtypeError, r"dataset expected len\(\) and indexing, got int"),
    ],
)
def test_wrong_settings(options, error, message):
    with pytest.raises(error, match=message):
        DataLoader(**{"dataset": ArrayDataset(PIXELS, LABELS), **options})


def test_what_a_subclass_must_write():
    with pytest.raises(NotImplementedError, match="Dataset must define __len__"):
        len(Dataset())
    with pytest.raises(NotImplementedError, match="Dataset must define load"):
        Dataset().load(0)
    with pytest.raises(NotImplementedError, match="Transform must define __call__"):
        Transform()(None)
