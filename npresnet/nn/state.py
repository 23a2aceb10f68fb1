"""Whether a state dict fits a model: names and shapes compared before anything is copied."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from npresnet.errors import WeightsError

__all__ = ["IncompatibleKeys", "LazyArray", "check_state"]

_SHOWN = 5  # keys named in a message before it goes on with a count
_OPTIONAL = "num_batches_tracked"  # written by torch 0.4.1 and later; older files lack it
_WRAPPERS = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, a holding class


class IncompatibleKeys(NamedTuple):
    """What a state dict lacks and what it has too much, named as torch names it."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class LazyArray(ABC):
    """An array that isn't in memory yet; a state dict may hold such values.

    `Module.load_state_dict` looks at the shapes of all, then borrows one after the other, so that
    model and file aren't both held in memory whole.
    """

    __slots__ = ()

    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @abstractmethod
    def borrowed(self) -> contextlib.AbstractContextManager[npt.NDArray[Any]]:
        """Lend the values for the length of a ``with`` block, to be copied from."""

    def read(self) -> npt.NDArray[Any]:
        """Return a copy of the values: C-contiguous and the caller's own."""
        with self.borrowed() as values:
            return np.array(values, order="C")

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("the values aren't in memory yet: they can't be had without a copy")
        array = self.read()
        return array if dtype is None else array.astype(dtype, copy=False)


def check_state(
    expected: Mapping[str, Sequence[int]],
    given: Mapping[str, Any],
    strict: bool = True,
    owner: str = "the model",
) -> IncompatibleKeys:
    """Compare a state dict with the names and shapes that a model expects.

    Parameters
    ----------
    expected : mapping of str to shape
        The model's own keys and the shapes of its parameters and buffers.
    given : mapping of str to array
        The state dict; of each value only ``shape`` is looked at.
    strict : bool
        Whether missing and unexpected keys are errors. Wrong shapes always are, as in torch.
    owner : str
        What to call the model in the message, for instance ``"ResNet"``.

    Returns
    -------
    IncompatibleKeys
        Empty when ``strict``. A missing ``num_batches_tracked`` counts neither way.

    Raises
    ------
    WeightsError
        One line that lists every kind of disagreement, at most five keys of each by name.
    """
    if not isinstance(given, Mapping):
        raise WeightsError(
            f"{owner} expected a state dict (names to arrays), got {type(given).__name__}"
        )
    missing = [k for k in expected if k not in given and k.rpartition(".")[2] != _OPTIONAL]
    unexpected = [str(k) for k in given if k not in expected]
    wrong = []
    for key, shape in expected.items():
        if key not in given:
            continue
        found = getattr(given[key], "shape", None)
        if found is None:
            wrong.append(f"{key} (expected an array, got {type(given[key]).__name__})")
        elif tuple(found) != tuple(shape):
            wrong.append(f"{key} (expected {tuple(shape)}, got {tuple(found)})")

    complaints = []
    if missing and strict:
        complaints.append(_list("missing", missing))
    if unexpected and strict:
        complaints.append(_list("unexpected", unexpected))
    if wrong:
        complaints.append(_list("mis-shaped", wrong))
    if complaints:
        cure = _cure(expected, unexpected, bool(wrong))
        raise WeightsError(f"the state dict doesn't fit {owner}: {'; '.join(complaints)}: {cure}")
    return IncompatibleKeys(missing, unexpected)


def _list(kind: str, keys: Sequence[str]) -> str:
    """``3 missing keys: a, b, c``, cut after a few with a count of the rest."""
    rest = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    plural = "" if len(keys) == 1 else "s"
    return f"{len(keys)} {kind} key{plural}: {', '.join(keys[:_SHOWN])}{rest}"


def _cure(expected: Iterable[str], unexpected: list[str], wrong: bool) -> str:
    """What to do about it: the likeliest of a wrapper's prefix, another model, a few odd keys."""
    names = set(expected)
    for prefix in _WRAPPERS:
        bare = [k.removeprefix(prefix) for k in unexpected if k.startswith(prefix)]
        if bare and len(bare) == len(unexpected) and not names.isdisjoint(bare):
            return f'take the prefix "{prefix}" off its keys'
        if not names.isdisjoint(prefix + k for k in unexpected):
            return f'put the prefix "{prefix}" before its keys'
    if wrong:
        return "build the model with the sizes that the weights were made for, or drop those keys"
    return "build the model that the weights were made for, or pass strict=False"
