"""A folder of images, a subfolder a class, as torchvision's ``ImageFolder`` reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from npresnet.data.dataset import AnyTransform, Dataset
from npresnet.data.images import read_image
from npresnet.errors import DataError

__all__ = ["IMG_EXTENSIONS", "ImageFolder"]

IMG_EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip


class ImageFolder(Dataset):
    """Images under ``root/CLASS/.../NAME.png``, labelled by their class folder.

    Items are ``(image, label)``: an RGB image of Pillow's and an int. A folder that is reached by
    several symbolic links counts once in its class, so links that go in circles do no harm.

    Parameters
    ----------
    root : str or path-like
        The folder that holds the class folders.
    transform : Transform or callable, optional
        Applied to every image.
    loader : callable, optional
        Makes an image of a path; `read_image` with other limits, for instance.

    Attributes
    ----------
    classes : list of str
        Names of the class folders, sorted.
    class_to_idx : dict of str to int
        The label of each class.
    samples : list of (str, int)
        Path and label of each image, by class, then folder, then name.
    targets : list of int
        The labels alone.

    Raises
    ------
    DataError
        `root` is missing or no folder, it holds no class folder, or a class folder holds no image;
        on reading an item, as `read_image`.
    """

    classes: list[str]

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: AnyTransform | None = None,
        loader: Callable[[str], Any] = read_image,
    ) -> None:
        super().__init__(transform)
        self.loader = loader
        self.root = os.fspath(root)
        self.classes = _class_folders(self.root)
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.samples = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in _images_under(os.path.join(self.root, name))
        ]
        self.targets = [label for _, label in self.samples]
        filled = set(self.targets)
        empty = [name for label, name in enumerate(self.classes) if label not in filled]
        if empty:
            raise DataError(
                f"no image in class folder{'s' * (len(empty) > 1)} {', '.join(empty)} of "
                f"{self.root!r}: expected files that end in {', '.join(IMG_EXTENSIONS)}"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def load(self, index: int) -> tuple[Any, int]:
        """Read image `index` from disk, as RGB unless `loader` does otherwise."""
        path, label = self.samples[index]
        return self.loader(path), label


def _class_folders(root: str) -> list[str]:
    try:
        with os.scandir(root) as entries:
            classes = sorted(entry.name for entry in entries if entry.is_dir())
    except FileNotFoundError as error:
        raise DataError(f"there is no folder {root!r}: check the path") from error
    except OSError as error:
        raise DataError(f"can't read the folder {root!r}: {error.strerror}") from error
    if not classes:
        raise DataError(
            f"no class folder in {root!r}: expected a subfolder for each class, with its images"
        )
    return classes


def _images_under(folder: str) -> list[str]:
    """Paths of the images in a folder and below, sorted by folder, then by name."""
    found = []
    seen = {os.path.realpath(folder)}
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        fresh = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(root, name))
            if real not in seen:
                seen.add(real)
                fresh.append(name)
        folders[:] = fresh
        images = sorted(name for name in names if name.lower().endswith(IMG_EXTENSIONS))
        found.append((root, images))
    return [os.path.join(root, name) for root, images in sorted(found) for name in images]


def _unreadable(error: OSError) -> None:
    raise DataError(f"can't read the folder {error.filename!r}: {error.strerror}") from error
