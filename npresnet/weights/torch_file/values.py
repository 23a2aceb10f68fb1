"""What a pickle of torch's may come to: plain values of Python's, and the few kinds below.

None of them is torch's or does anything; a tensor is a description of where its numbers lie.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

from npresnet.errors import WeightsError
from npresnet.weights.mapped import Extent
from npresnet.weights.stored import StoredArray

__all__ = [
    "Function",
    "Inert",
    "OrderedDict",
    "Storage",
    "StorageType",
    "Tensor",
    "TorchDtype",
    "damaged",
]


def damaged(what: str) -> WeightsError:
    """Say what of a file doesn't make sense; the message begins with a verb."""
    return WeightsError(f"is damaged: {what}; fetch or save it again")


class OrderedDict(dict[Any, Any]):
    """A ``collections.OrderedDict``; dictionaries keep their order, but only these take a state."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Inert:
    """Something that checkpoints carry beside weights; what it held isn't kept.

    With `reason` it stands where an array might: a tensor of a kind that can't be read.
    """

    name: str
    reason: str = ""


class Function:
    """A function of ours that stands for one of torch's of this name."""

    __slots__ = ("_least", "_most", "apply", "name")

    def __init__(self, name: str, apply: Callable[..., Any]) -> None:
        self.name = name
        self.apply = apply
        parameters = signature(apply).parameters.values()
        any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self._least = 0 if any_number else sum(p.default is p.empty for p in parameters)
        self._most = sys.maxsize if any_number else len(parameters)

    def __call__(self, arguments: tuple[Any, ...]) -> Any:
        """Call it.

        Raises
        ------
        WeightsError
            The arguments are of a wrong number or kind.
        """
        if not self._least <= len(arguments) <= self._most:
            raise damaged(f"a pickle calls {self.name} with {len(arguments)} arguments")
        return self.apply(*arguments)


@dataclass(frozen=True, slots=True)
class TorchDtype:
    """``torch.float32``, say; `size` is that of an element in bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class StorageType:
    """``torch.FloatStorage``, say; None for bytes whose meaning each tensor says."""

    name: str
    dtype: TorchDtype | None

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return 1 if self.dtype is None else self.dtype.size


@dataclass(slots=True, eq=False)
class Storage:
    """Memory that tensors are views of; its bytes may be known later than the tensors are."""

    type: StorageType
    numel: int
    extent: Extent | None = None
    big_endian: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes that it says it has."""
        return self.numel * self.type.size

    def place(self, extent: Extent) -> None:
        """Say where its bytes are.

        Raises
        ------
        WeightsError
            They are fewer or more than it says.
        """
        if extent.size != self.nbytes:
            raise damaged(f"a storage of {self.nbytes:,} bytes has {extent.size:,}")
        self.extent = extent


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A view of a storage; sizes, strides and offset in elements, not checked yet."""

    storage: Storage
    dtype: TorchDtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def stored(self) -> StoredArray:
        """Return the array that it describes.

        Raises
        ------
        WeightsError
            It reaches beyond its storage, or is of a dtype that has no place in a model; the
            message begins with a verb.
        """
        if self.storage.extent is None:
            raise WeightsError("has a storage that isn't in the file: fetch or save it again")
        return StoredArray(
            self.storage.extent,
            self.dtype.name,
            self.shape,
            self.strides,
            self.offset,
            self.storage.big_endian,
        )
