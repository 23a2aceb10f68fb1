"""One door to weight files of any format that npresnet reads."""

from __future__ import annotations

import os
from typing import Any

import numpy.typing as npt

from npresnet.errors import WeightsError
from npresnet.weights.safetensors_file import load_file

__all__ = ["load_weights"]

_CURES = {
    ".pth": "in torch, safetensors.torch.save_file(state_dict, NAME) makes one",
    ".pt": "in torch, safetensors.torch.save_file(state_dict, NAME) makes one",
    ".npz": "npresnet.weights.save_file(dict(numpy.load(NAME)), OTHER) makes one",
}


def load_weights(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """Read a state dict from a weight file.

    Parameters
    ----------
    path : str or path-like
        A ``.safetensors`` file.

    Returns
    -------
    dict of str to numpy.ndarray
        As `load_file` gives it.

    Raises
    ------
    WeightsError
        The file's name is that of another format, or as `load_file`.
    """
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix in _CURES and os.path.isfile(path):
        raise WeightsError(
            f"{os.fspath(path)!r} ends in {suffix}, expected a .safetensors file: {_CURES[suffix]}"
        )
    return load_file(path)
