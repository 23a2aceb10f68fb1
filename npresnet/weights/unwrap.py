"""The state dict within a checkpoint: which of its parts, and without the prefixes of wrappers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from npresnet.errors import WeightsError
from npresnet.weights.stored import StoredArray, check_count
from npresnet.weights.torch_file import Inert, Tensor

__all__ = ["find_state", "strip_prefixes"]

T = TypeVar("T")

# Names under which training scripts put the state dict. Averaged weights first: they are what
# torchvision's and timm's scripts evaluate where there are both.
_PARTS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel and AveragedModel; torch.compile
_AVERAGED = "n_averaged"  # AveragedModel's counter, beside what it averages
_DEEPEST = 4


def find_state(saved: Any) -> tuple[dict[str, StoredArray], str]:
    """Find the state dict in what ``torch.save`` was given.

    Parameters
    ----------
    saved : object
        A dictionary of tensors, or a checkpoint that holds one as ``state_dict``, ``model``,
        ``model_state_dict``, ``model_ema`` or ``state_dict_ema``.

    Returns
    -------
    state : dict of str to StoredArray
        The tensors; what else a state dict holds (numbers, None) is left out.
    part : str
        Where it was found: ``"model_ema"``, say, and ``""`` for all of the file.

    Raises
    ------
    WeightsError
        There is no such dictionary, a tensor reaches beyond its storage or is of a kind that has
        no place in a model. The message begins with a verb.
    """
    path: list[str] = []
    while len(path) < _DEEPEST and isinstance(saved, dict):
        # an empty one doesn't count
        part = next((n for n in _PARTS if isinstance(saved.get(n), dict) and saved[n]), None)
        if part is None:
            break
        path.append(part)
        saved = saved[part]
    if not isinstance(saved, dict):
        kind = "a single tensor" if isinstance(saved, Tensor) else f"a {type(saved).__name__}"
        raise WeightsError(f"holds {kind}, expected a state dict (names to tensors): {_CURE}")
    check_count(len(saved))
    state = {}
    for key, value in saved.items():
        if isinstance(value, Tensor) or (isinstance(value, Inert) and value.reason):
            if not isinstance(key, str):
                raise WeightsError(f"holds a tensor under {key!r:.50}, expected a name: {_CURE}")
            try:
                if isinstance(value, Inert):
                    raise WeightsError(value.reason)
                state[key] = value.stored()
            except WeightsError as error:
                raise WeightsError(f"can't be read: {key!r:.200} {error}") from None
    if not state and saved:
        names = ", ".join(f"{key!r:.50}" for key in list(saved)[:8])
        raise WeightsError(
            f"holds no state dict that npresnet can find: it has {names}, none of them a tensor; "
            f"{_CURE}"
        )
    return state, ".".join(path)


def strip_prefixes(state: Mapping[str, T]) -> tuple[dict[str, T], str]:
    """Take the prefixes of wrappers off the names, where every name has them.

    Returns
    -------
    state : dict
        With names as the wrapped model has them.
    prefix : str
        What was taken off, ``"module._orig_mod."``, say.
    """
    stripped, prefix = dict(state), ""
    while True:
        names = [name for name in stripped if name != _AVERAGED]
        found = next((p for p in _PREFIXES if names and all(n.startswith(p) for n in names)), None)
        if found is None:
            return stripped, prefix
        stripped = {name.removeprefix(found): stripped[name] for name in names}
        prefix += found


_CURE = "in torch, torch.save(model.state_dict(), NAME) makes one that it can read"
