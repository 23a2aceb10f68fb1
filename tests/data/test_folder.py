import os
from functools import partial

import numpy as np
import pytest
from PIL import Image

from npresnet.data import DataLoader, ImageFolder, Resize, read_image
from npresnet.errors import DataError


def put(root, *names):
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (i, 0, 0)).save(path, "PNG")


def test_classes_samples_and_items(tmp_path):
    put(tmp_path, "dog/b.png", "cat/z.JPG", "cat/sub/a.jpeg", "cat/a.webp", "dog/a/c.tif")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "list.txt").write_text("no class")
    folder = ImageFolder(tmp_path)
    assert folder.classes == ["cat", "dog"]
    assert folder.class_to_idx == {"cat": 0, "dog": 1}
    names = [(os.path.relpath(p, tmp_path).replace(os.sep, "/"), i) for p, i in folder.samples]
    assert names == [
        ("cat/a.webp", 0),
        ("cat/z.JPG", 0),
        ("cat/sub/a.jpeg", 0),
        ("dog/b.png", 1),
        ("dog/a/c.tif", 1),
    ]
    assert folder.targets == [0, 0, 0, 1, 1]
    assert len(folder) == 5
    image, label = folder[1]
    assert image.mode == "RGB"
    assert image.size == (6, 5)
    assert image.getpixel((0, 0)) == (1, 0, 0)
    assert label == 0


def test_order_is_that_of_sorted_walk(tmp_path):
    # what torchvision's documented loop gives: sorted(os.walk(...)), then sorted names
    put(tmp_path, "c/b/1.png", "c/b-2/1.png", "c/a/y/2.png", "c/a/1.png", "c/0.png", "c/b/0.png")
    expected = [
        os.path.join(root, name)
        for root, _, names in sorted(os.walk(tmp_path / "c", followlinks=True))
        for name in sorted(names)
    ]
    assert [path for path, _ in ImageFolder(tmp_path).samples] == expected
    assert len(expected) == 6


def test_a_way_of_reading_of_its_own(tmp_path):
    put(tmp_path, "a/1.png")
    folder = ImageFolder(tmp_path, loader=partial(read_image, max_pixels=29))
    with pytest.raises(DataError, match="has 6 x 5 pixels, expected at most 29"):
        folder[0]
    assert ImageFolder(tmp_path, loader=lambda path: path[-5:])[0] == ("1.png", 0)


def test_transform_and_loader(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png")
    images, labels = next(iter(DataLoader(ImageFolder(tmp_path, Resize((4, 3))), batch_size=2)))
    assert images.shape == (2, 3, 4, 3)
    assert images[1, 0, 0, 0] == np.float32(1) / np.float32(255)
    assert labels.tolist() == [0, 1]


def test_a_missing_root(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*none': check the path"):
        ImageFolder(tmp_path / "none")


def test_a_file_as_root(tmp_path):
    put(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"can't read the folder .*a\.png"):
        ImageFolder(tmp_path / "a.png")


def test_no_class_folder(tmp_path):
    put(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"no class folder in .*: expected a subfolder for each"):
        ImageFolder(tmp_path)


def test_empty_class_folders_are_named(tmp_path):
    put(tmp_path, "full/a.png")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"no image in class folder bare of .*end in .jpg, .jpeg"):
        ImageFolder(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("")
    with pytest.raises(DataError, match="no image in class folders bare, texts of"):
        ImageFolder(tmp_path)


def test_a_broken_image_is_named_when_it_is_read(tmp_path):
    put(tmp_path, "a/1.png")
    (tmp_path / "a" / "2.png").write_bytes(b"nothing")
    folder = ImageFolder(tmp_path)
    assert len(folder) == 2
    with pytest.raises(DataError, match=r"2\.png' isn't an image"):
        folder[1]


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege elsewhere")
def test_links_in_circles_end(tmp_path):
    put(tmp_path, "a/x/1.png", "a/2.png")
    for name in ("loop", "again"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "a")
        (tmp_path / "a" / "x" / name).symlink_to(tmp_path / "a")
    assert len(ImageFolder(tmp_path)) == 2


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege elsewhere")
def test_linked_folders_and_images_count(tmp_path):
    put(tmp_path, "store/1.png", "data/b/2.png")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "store")
    (tmp_path / "data" / "b" / "3.png").symlink_to(tmp_path / "store" / "1.png")
    folder = ImageFolder(tmp_path / "data")
    assert folder.classes == ["a", "b"]
    assert folder.targets == [0, 1, 1]
