"""One door to weight files of every format that npresnet reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy.typing as npt

from npresnet.errors import WeightsError
from npresnet.weights.mapped import MappedFile, release
from npresnet.weights.npz_file import SUFFIX, read_npz
from npresnet.weights.safetensors_file import read_safetensors
from npresnet.weights.stored import StoredArray
from npresnet.weights.torch_file import (
    MAGIC,
    PICKLE,
    is_tar,
    read_legacy_stream,
    read_tar,
    read_zip,
)
from npresnet.weights.unwrap import find_state, strip_prefixes
from npresnet.weights.zip_entries import Archive

__all__ = ["WeightFile", "load_weights", "open_weights"]

_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
_SPARE = 1 << 26  # bytes


class WeightFile(Mapping[str, StoredArray]):
    """The state dict of a weight file, whose arrays are read when they are asked for.

    `open_weights` makes it. `Module.load_state_dict` takes it as it is, and then holds no more than
    the model and one array in memory. It keeps the file mapped: one that another program shortens
    in the meantime ends the process.

    Attributes
    ----------
    path : str
        The file.
    size : int
        Bytes of the file.
    format : str
        ``"safetensors"``, ``"npz"``, ``"torch zip"``, ``"torch legacy stream"`` or ``"torch tar"``.
    metadata : dict of str to str
        Text that a safetensors file carries; else empty.
    part : str
        The part of a checkpoint that the arrays come from: ``"model_ema"``, say, else ``""``.
    prefix : str
        What was taken off every name, ``"module."``, say, else ``""``.
    """

    def __init__(
        self,
        file: MappedFile,
        format: str,
        state: Mapping[str, StoredArray],
        metadata: dict[str, str],
        part: str,
    ) -> None:
        self.path, self.size = file.name, file.size
        self.format = format
        self.metadata = metadata
        self.part = part
        self._state, self.prefix = strip_prefixes(state)

    def rename(self, new_name: Callable[[str], str]) -> None:
        """Call each array by what `new_name` makes of its name."""
        self._state = {new_name(name): array for name, array in self._state.items()}

    def __getitem__(self, key: str) -> StoredArray:
        return self._state[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def open_weights(path: str | os.PathLike[str]) -> WeightFile:
    """Open a weight file: names, shapes and dtypes now, values when they are asked for.

    The format is told by the file's contents, not by its name. Nothing in a file is ever run: of
    torch's pickles the few operations are interpreted that state dicts use.

    Parameters
    ----------
    path : str or path-like
        A ``.safetensors`` file; a ``.pth`` or ``.pt`` file of torch's, of any version; or an
        ``.npz`` file of NumPy's. A training checkpoint of torch's may hold the state dict as
        ``state_dict``, ``model``, ``model_state_dict`` or, of averaged weights and before the
        others, ``model_ema`` or ``state_dict_ema``; an optimizer's state, numbers and an
        ``argparse.Namespace`` beside it are passed over. The prefixes ``module.`` and
        ``_orig_mod.`` are taken off if all names have them.

    Returns
    -------
    WeightFile
        A mapping of names to arrays that are still in the file.

    Raises
    ------
    WeightsError
        The file is missing, a folder, unreadable, truncated, damaged or of another format; holds an
        array beyond the file's end, of a kind without place in a model, or that comes to more than
        twice the file's size and 64 MiB (by stretching few bytes); or a pickle that does what no
        state dict needs. What torch can read in such a file it can save again:
        ``torch.save(model.state_dict(), NAME)``.
    """
    file = MappedFile(path)
    try:
        opened = _read(file)
        # 16-bit floats are widened to twice their size
        total = sum(array.nbytes for array in opened.values())
        if total > 2 * file.size + _SPARE:
            raise WeightsError(
                f"holds arrays that come to {total:,} bytes, more than twice the file: save "
                "contiguous copies of them"
            )
        release(file.whole)  # what was looked at on the way
        return opened
    except WeightsError as error:
        raise file.error(error) from None


def load_weights(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """Read the state dict of a weight file into memory.

    Parameters
    ----------
    path : str or path-like
        As for `open_weights`.

    Returns
    -------
    dict of str to numpy.ndarray
        The arrays are the caller's own: C-contiguous, writable, independent of the file and of each
        other. float16 and bfloat16 come widened to float32, every other dtype as it is.

    Raises
    ------
    WeightsError
        As `open_weights`.
    """
    stored = dict(open_weights(path))
    # one by one out of the table: what was unpacked in memory goes as its copy comes
    return {key: stored.pop(key).read() for key in list(stored)}


def _read(file: MappedFile) -> WeightFile:
    """Tell the format and read what the file says of its arrays."""
    # first, since eight bytes of a header's length may look like the beginning of anything
    if file.buffer[8:9] == b"{":
        return _from_safetensors(file)
    if file.buffer[:2] == b"PK":
        archive = Archive(file)
        if any(name == PICKLE or name.endswith(f"/{PICKLE}") for name in archive.entries):
            return _from_torch(file, "torch zip", read_zip(archive))
        if any(name.endswith(SUFFIX) for name in archive.entries):
            return WeightFile(file, "npz", read_npz(archive), {}, "")
        raise WeightsError(
            "is a zip archive of neither torch's nor NumPy's: unpack it and give the weight file "
            "inside"
        )
    if file.buffer[: len(MAGIC)] == MAGIC:
        return _from_torch(file, "torch legacy stream", read_legacy_stream(file))
    if is_tar(file):
        return _from_torch(file, "torch tar", read_tar(file))
    if file.buffer[:1] == b"\x80":
        raise WeightsError(
            "is a pickle, which is a program, and not of torch.save's: save the weights by "
            "torch.save, safetensors or numpy.savez"
        )
    suffix = os.path.splitext(file.name)[1].lower()
    if suffix in _TORCH_SUFFIXES:
        raise WeightsError(
            "isn't a file of torch.save's: it is truncated or of another format; fetch or save it "
            "again"
        )
    if suffix == ".npz":
        raise WeightsError("isn't a zip archive, as .npz files are: fetch or save it again")
    if suffix != ".safetensors":
        raise WeightsError(
            "isn't a weight file of a known format: expected .safetensors, torch's .pth or .pt, or "
            ".npz"
        )
    return _from_safetensors(file)


def _from_safetensors(file: MappedFile) -> WeightFile:
    arrays, metadata = read_safetensors(file)
    return WeightFile(file, "safetensors", arrays, metadata, "")


def _from_torch(file: MappedFile, format: str, saved: Any) -> WeightFile:
    state, part = find_state(saved)
    return WeightFile(file, format, state, {}, part)
