"""Data sets, the steps from image to array, and the loader that makes batches of them."""

from npresnet.data.dataset import ArrayDataset, Dataset, Subset
from npresnet.data.digits import Digits, load_digits
from npresnet.data.folder import IMG_EXTENSIONS, ImageFolder
from npresnet.data.imagenet import imagenet_classes, imagenet_wnids
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
    ResizeKeepRatio,
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
    "ResizeKeepRatio",
    "Subset",
    "ToArray",
    "ToRGB",
    "Transform",
    "imagenet_classes",
    "imagenet_wnids",
    "load_digits",
    "read_image",
    "to_image",
]
