"""Weights as repositories: written to a folder, pushed to the hub.

A repository holds ``model.safetensors``, whose header says all that npresnet needs, and
``config.json``, which says the same in timm's words, so that timm, too, can load it where it knows
the network.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npresnet.backend import in_main_memory
from npresnet.errors import NpresnetError, WeightsError, WriteError
from npresnet.weights.atomic import write_text
from npresnet.weights.config import to_config
from npresnet.weights.hub import CONFIG, WEIGHTS, need_hub
from npresnet.weights.pretrained import METADATA_KEY
from npresnet.weights.safetensors_file import save_file
from npresnet.weights.settings import ModelSettings

__all__ = ["push_repository", "save_described", "save_repository"]

State = Mapping[str, Any]

_CARD = """\
---
library_name: npresnet
pipeline_tag: image-classification
tags:
- image-classification
- model_hub_mixin
- npresnet
---

# {architecture}, {classes} classes

Load it with [npresnet](https://pypi.org/project/npresnet/), under this repository's name:

```python
import npresnet as nr

clf = nr.Classifier(weights="OWNER/NAME")
clf.predict(["image.jpg"])
```
"""


def save_described(path: str | os.PathLike[str], state: State, settings: ModelSettings) -> None:
    """Write weights and what they are to a ``.safetensors`` file, whole or not at all.

    Parameters
    ----------
    path : str or path-like
        The file to replace or create, in an existing folder.
    state : mapping of str to array
        A state dict, of any backend's arrays.
    settings : ModelSettings
        Written into the file's header, where `load_pretrained` finds them.

    Raises
    ------
    WeightsError
        The settings contradict each other or can't be written as JSON.
    WriteError
        The file can't be written; what it held before is whole.
    """
    try:
        settings.check()
        text = json.dumps(settings.to_dict(), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"can't write the settings of {os.fspath(path)!r}: {error}") from None
    arrays = {key: in_main_memory(array) for key, array in state.items()}
    save_file(arrays, path, {METADATA_KEY: text})


def save_repository(folder: str | os.PathLike[str], state: State, settings: ModelSettings) -> None:
    """Write ``config.json``, ``model.safetensors`` and, where there is none, ``README.md``.

    Parameters
    ----------
    folder : path
        Made if it isn't there.
    state, settings
        As for `save_described`.

    Raises
    ------
    WeightsError
        As `save_described`.
    WriteError
        The folder can't be written.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"can't make the folder {os.fspath(folder)!r}: {error.strerror}: get permission or "
            "choose another place"
        ) from error
    save_described(place / WEIGHTS, state, settings)
    write_text(place / CONFIG, json.dumps(to_config(settings), indent=2) + "\n")
    if not (place / "README.md").exists():
        card = _CARD.format(architecture=settings.architecture, classes=len(settings.classes))
        write_text(place / "README.md", card)


def push_repository(repo_id: str, state: State, settings: ModelSettings, **options: Any) -> str:
    """Push weights to the Hugging Face Hub, by ``huggingface_hub.ModelHubMixin``.

    Parameters
    ----------
    repo_id : str
        ``OWNER/NAME``, or NAME alone for the owner of the token; made if it isn't there.
    state, settings
        As for `save_described`.
    **options
        As for ``ModelHubMixin.push_to_hub``.

    Returns
    -------
    str
        The URL of the commit.

    Raises
    ------
    ExtraError
        huggingface_hub isn't installed.
    WeightsError
        The hub refuses, or can't be reached.
    """
    hub = need_hub()
    try:
        return str(_mixin()(state, settings).push_to_hub(repo_id, **options))
    except (NpresnetError, TypeError):  # of our own, or an option that the mixin lacks
        raise
    except Exception as error:  # of the hub, of the HTTP library beneath it, of the network
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(
            f"can't push {repo_id!r} to {hub.constants.ENDPOINT}: {reason:.300}: log in with "
            "'hf auth login' or set HF_TOKEN, and check the name"
        ) from error


@functools.cache
def _mixin() -> Any:
    """Return huggingface_hub's mixin around weights: its import waits until it is needed."""
    mixin: Any = need_hub().ModelHubMixin

    class Pushed(mixin):  # type: ignore[misc]
        def __init__(self, state: State, settings: ModelSettings) -> None:
            self.state, self.settings = state, settings

        def _save_pretrained(self, save_directory: Path) -> None:
            save_repository(save_directory, self.state, self.settings)

    return Pushed
