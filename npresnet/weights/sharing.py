"""Networks as repositories: written to a folder, pushed to the hub, made from either.

A repository holds ``model.safetensors``, whose header says all that npresnet needs, and
``config.json``, which says the same in timm's words, so that timm, too, can load it where it knows
the network.
"""

from __future__ import annotations

import functools
import json
import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from npresnet.backend import in_main_memory
from npresnet.errors import NpresnetError, WeightsError, WriteError
from npresnet.weights.atomic import write_text
from npresnet.weights.config import to_config
from npresnet.weights.hub import CONFIG, WEIGHTS, HubOptions, need_hub
from npresnet.weights.pretrained import METADATA_KEY
from npresnet.weights.safetensors_file import save_file
from npresnet.weights.settings import ModelSettings

__all__ = ["Shareable", "save_described"]

Self = TypeVar("Self", bound="Shareable")

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


def save_described(
    path: str | os.PathLike[str], state: Mapping[str, Any], settings: ModelSettings
) -> None:
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


class Shareable:
    """What has weights and knows what they are; huggingface_hub's methods for it."""

    @abstractmethod
    def _shared(self) -> tuple[Mapping[str, Any], ModelSettings]:
        """Return the state dict, and what it is."""

    @classmethod
    @abstractmethod
    def _from_shared(cls: type[Self], name: str, hub: HubOptions, **options: Any) -> Self:
        """Make one from a folder or from a repository on the hub."""

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write ``config.json`` and ``model.safetensors`` into a folder.

        Parameters
        ----------
        save_directory : path
            Made if it isn't there; the two files are replaced, a README.md is left as it is.
        push_to_hub : bool
            Whether to push it afterwards.
        repo_id : str, optional
            Where to; by default the folder's name.
        **push_to_hub_kwargs
            As for `push_to_hub`.

        Returns
        -------
        str or None
            The URL of the commit, if it was pushed.

        Raises
        ------
        WeightsError
            The classes are neither text nor numbers.
        WriteError
            The folder can't be written.
        """
        folder = Path(save_directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(
                f"can't make the folder {os.fspath(folder)!r}: {error.strerror}: get permission or "
                "choose another place"
            ) from error
        state, settings = self._shared()
        save_described(folder / WEIGHTS, state, settings)
        write_text(folder / CONFIG, json.dumps(to_config(settings), indent=2) + "\n")
        if not (folder / "README.md").exists():
            card = _CARD.format(architecture=settings.architecture, classes=len(settings.classes))
            write_text(folder / "README.md", card)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.name, **push_to_hub_kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Push it to the Hugging Face Hub.

        Parameters
        ----------
        repo_id : str
            ``OWNER/NAME``, or NAME alone for the owner of the token; made if it isn't there.
        **kwargs
            ``private``, ``token``, ``branch``, ``commit_message`` and the others of
            ``huggingface_hub.ModelHubMixin.push_to_hub``.

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
            return str(_mixin()(self).push_to_hub(repo_id, **kwargs))
        except (NpresnetError, TypeError):  # of our own, or an argument that the mixin lacks
            raise
        except Exception as error:  # of the hub, of the HTTP library beneath it, of the network
            reason = " ".join(str(error).split()) or type(error).__name__
            raise WeightsError(
                f"can't push {repo_id!r} to {hub.constants.ENDPOINT}: {reason:.300}: log in with "
                "'hf auth login' or set HF_TOKEN, and check the name"
            ) from error

    @classmethod
    def from_pretrained(
        cls: type[Self],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """Make it from a folder that `save_pretrained` wrote, or a repository on the hub.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path
            The folder, or ``OWNER/NAME``.
        force_download, token, cache_dir, local_files_only, revision
            As for ``huggingface_hub.hf_hub_download``.
        **options
            Arguments of the network's or classifier's constructor.

        Raises
        ------
        ExtraError
            It is on the hub, and huggingface_hub isn't installed.
        WeightsError
            It can't be found, fetched or read.
        """
        hub = HubOptions(revision, cache_dir, force_download, local_files_only, token)
        return cls._from_shared(os.fspath(pretrained_model_name_or_path), hub, **options)


@functools.cache
def _mixin() -> Any:
    """Return huggingface_hub's mixin around a `Shareable`: its import waits until it is needed."""
    mixin: Any = need_hub().ModelHubMixin

    class Pushed(mixin):  # type: ignore[misc]
        def __init__(self, owner: Shareable) -> None:
            self.owner = owner

        def _save_pretrained(self, save_directory: Path) -> None:
            self.owner.save_pretrained(save_directory)

    return Pushed
