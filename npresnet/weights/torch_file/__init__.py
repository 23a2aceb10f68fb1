"""torch's ``.pth`` and ``.pt`` files in their three containers, without torch and without running.

A file holds a pickle, which is a program; `pickle_subset` interprets the part of it that weights
need, `allowed` lists the globals, `values` has what comes out. Each container is a file of its own.
"""

from npresnet.weights.torch_file.legacy_stream import MAGIC, read_legacy_stream
from npresnet.weights.torch_file.tar_file import is_tar, read_tar
from npresnet.weights.torch_file.values import Inert, Tensor
from npresnet.weights.torch_file.zip_file import PICKLE, read_zip

__all__ = [
    "MAGIC",
    "PICKLE",
    "Inert",
    "Tensor",
    "is_tar",
    "read_legacy_stream",
    "read_tar",
    "read_zip",
]
