"""Data sets, the steps from image to array, and the loader that makes batches of them."""

from npresnet.data.dataset import ArrayDataset, Dataset, Subset
from npresnet.data.digits import Digits, load_digits
from npresnet.data.folder import IMG_EXTENSIONS, ImageFolder
from npresnet.data.images import MAX_PIXELS, ImageLike, read_image, to_image
from npresnet.data.loader import DataLoader
from npresnet.data.random_transforms import (
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
)
from npresnet.data.transforms import (
    CenterCrop,
    Compose,
    Grayscale,
    Normalize,
    Pad,
    Resize,
    ToArray,
    ToRGB,
    Transform,
)

__all__ = [
    "IMG_EXTENSIONS",
    "MAX_PIXELS",
    "ArrayDataset",
    "CenterCrop",
    "Compose",
    "DataLoader",
    "Dataset",
    "Digits",
    "Grayscale",
    "ImageFolder",
    "ImageLike",
    "Normalize",
    "Pad",
    "RandomAffine",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "Resize",
    "Subset",
    "ToArray",
    "ToRGB",
    "Transform",
    "load_digits",
    "read_image",
    "to_image",
]
