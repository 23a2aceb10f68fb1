"""huggingface_hub's methods for what has weights and knows what they are.

The work is done by `npresnet.weights.sharing`, which is imported when it is needed.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from npresnet.weights.hub import HubOptions
    from npresnet.weights.settings import ModelSettings

__all__ = ["Shareable"]

Self = TypeVar("Self", bound="Shareable")


class Shareable:
    """A base for networks and classifiers, with the names of ``huggingface_hub.ModelHubMixin``."""

    @abstractmethod
    def _shared(self) -> tuple[Mapping[str, Any], ModelSettings]:
        """Return the state dict, and what it is."""

    @classmethod
    @abstractmethod
    def _from_shared(cls: type[Self], name: str, hub: HubOptions, options: dict[str, Any]) -> Self:
        """Make one of a folder or of a repository on the hub."""

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> str | None:
        """Write ``config.json`` and ``model.safetensors`` into a folder.

        timm reads them too, where it knows the network.

        Parameters
        ----------
        save_directory : path
            Made if it isn't there; the two files are replaced, a README.md is left as it is.
        push_to_hub : bool
            Whether to push it afterwards.
        repo_id : str, optional
            Where to; by default the folder's name.
        **options
            As for `push_to_hub`.

        Returns
        -------
        str or None
            The URL of the commit, if it was pushed.

        Raises
        ------
        WeightsError
            The classes are neither text nor numbers, or a file can't describe the network.
        WriteError
            The folder can't be written.
        """
        from npresnet.weights.sharing import save_repository

        save_repository(save_directory, *self._shared())
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or Path(save_directory).name, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Push it to the Hugging Face Hub.

        Parameters
        ----------
        repo_id : str
            ``OWNER/NAME``, or NAME alone for the owner of the token; made if it isn't there.
        **options
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
            The hub refuses, or can't be reached; else as `save_pretrained`.
        """
        from npresnet.weights.sharing import push_repository

        return push_repository(repo_id, *self._shared(), **options)

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
        """Make it of a folder that `save_pretrained` wrote, or of a repository on the hub.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path
            The folder, or ``OWNER/NAME``.
        force_download, token, cache_dir, local_files_only, revision
            As for ``huggingface_hub.hf_hub_download``.
        **options
            Of a network, as for :func:`npresnet.models.create_model`; of a classifier, arguments of
            its constructor.

        Raises
        ------
        ExtraError
            It is on the hub, and huggingface_hub isn't installed.
        WeightsError
            It can't be found, fetched or read, or doesn't say which network it holds.
        """
        from npresnet.weights.hub import HubOptions

        hub = HubOptions(revision, cache_dir, force_download, local_files_only, token)
        return cls._from_shared(os.fspath(pretrained_model_name_or_path), hub, options)
