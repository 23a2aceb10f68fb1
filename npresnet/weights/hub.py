"""Repositories of weights on the Hugging Face Hub, or on a server that answers as it does.

huggingface_hub does the work, so that its cache and its variables hold: HF_HOME and HF_HUB_CACHE
say where files are kept, HF_ENDPOINT which server is asked, HF_HUB_OFFLINE=1 that none is, HF_TOKEN
who asks, HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT how long it may stall. Two things are
added: the hash of what came is compared with the one that the server gave, and there is one error,
in one line, at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from npresnet.errors import ExtraError, WeightsError
from npresnet.weights.config import MAX_CONFIG_BYTES

__all__ = [
    "CONFIG",
    "PROCESSOR",
    "WEIGHTS",
    "HubOptions",
    "Repository",
    "fetch_beside",
    "fetch_repository",
    "need_hub",
]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PROCESSOR = "preprocessor_config.json"


class Repository(NamedTuple):
    """The two files of a repository, on this machine, both of one commit."""

    config: Path
    weights: Path


class HubOptions(NamedTuple):
    """What huggingface_hub may be told beside the name; see its ``hf_hub_download``."""

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    force_download: bool = False
    local_files_only: bool = False
    token: str | bool | None = None


def need_hub() -> Any:
    """Return huggingface_hub, imported now: it takes half a second.

    Raises
    ------
    ExtraError
        It isn't installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
    except ImportError as error:
        raise ExtraError(
            f"weights on the Hugging Face Hub need huggingface_hub ({error}): pip install "
            "'npresnet[hub]'"
        ) from error
    return huggingface_hub


def fetch_repository(name: str, options: HubOptions | None = None) -> Repository:
    """Fetch ``config.json`` and ``model.safetensors``, or find them in the cache.

    Parameters
    ----------
    name : str
        ``OWNER/NAME``, or ``OWNER/NAME@REVISION`` with a branch, tag or commit.
    options : HubOptions, optional
        More of what huggingface_hub takes.

    Raises
    ------
    WeightsError
        There is no such repository, revision or file, the server can't be reached or stalls while
        the cache lacks a file, or what came has another hash.
    ExtraError
        huggingface_hub isn't installed.
    """
    repository, options = _named(name, options)
    config = _fetch(repository, CONFIG, options)
    # the folder of a snapshot is named by its commit: both files are to be of one
    weights = _fetch(repository, WEIGHTS, options._replace(revision=config.parent.name))
    return Repository(config, weights)


def fetch_beside(
    found: Repository, name: str, file: str, options: HubOptions | None = None
) -> Path | None:
    """Fetch another file of a repository's commit; None where the repository lacks it.

    Raises
    ------
    WeightsError
        It can't be told whether there is one: the server can't be reached.
    """
    hub = need_hub()
    repository, options = _named(name, options)
    options = options._replace(revision=found.config.parent.name)
    place = options.cache_dir, options.revision
    if hub.try_to_load_from_cache(repository, file, *place) is hub.file_download._CACHED_NO_EXIST:
        return None
    try:
        return _fetch(repository, file, options)
    except WeightsError as error:
        if not _is_missing(hub.errors, error.__cause__):
            raise
    with contextlib.suppress(Exception):  # it fails as well, but leaves a note of it in the cache
        hub.hf_hub_download(repository, file, cache_dir=place[0], revision=place[1])
    return None


def _named(name: str, options: HubOptions | None) -> tuple[str, HubOptions]:
    """Take the revision off a name."""
    options = options or HubOptions()
    repository, _, revision = name.partition("@")
    return repository, options._replace(revision=revision) if revision else options


def _is_missing(errors: Any, error: BaseException | None) -> bool:
    """Tell whether the server said that it has no such file."""
    if not isinstance(error, errors.HfHubHTTPError):
        return False
    return isinstance(error, errors.EntryNotFoundError) or error.response.status_code == 404


def _fetch(repository: str, file: str, options: HubOptions) -> Path:
    """Fetch one file, or find it in the cache."""
    hub = need_hub()
    revision = options.revision or hub.constants.DEFAULT_REVISION

    def cached(commit: str) -> Path | None:
        found = hub.try_to_load_from_cache(repository, file, options.cache_dir, commit)
        return Path(found) if isinstance(found, str) and not options.force_download else None

    try:
        here = cached(revision)
        if here is not None and (options.local_files_only or here.parent.name == revision):
            return here
        if options.local_files_only:
            raise hub.errors.OfflineModeIsEnabled("local_files_only=True")
        url = hub.hf_hub_url(repository, file, revision=revision)
        try:
            # asked here first, since hf_hub_download tries again for minutes
            told = hub.get_hf_file_metadata(
                url,
                token=options.token,
                timeout=hub.constants.HF_HUB_ETAG_TIMEOUT,
                library_name="npresnet",
            )
        except (hub.errors.RevisionNotFoundError, hub.errors.RemoteEntryNotFoundError):
            raise
        except Exception:
            if here is not None:
                return here
            raise
        _check(repository, file, url, told)
        here = cached(told.commit_hash)
        if here is not None and here == cached(revision):
            return here
        here = Path(
            hub.hf_hub_download(
                repository,
                file,
                revision=revision,
                cache_dir=options.cache_dir,
                force_download=options.force_download,
                token=options.token,
                etag_timeout=hub.constants.HF_HUB_ETAG_TIMEOUT,
                library_name="npresnet",
            )
        )
    except WeightsError:
        raise
    except Exception as error:  # of the hub, of the HTTP library beneath it, of the network
        _explain(hub, error, repository, file, revision, options)
    _verify(here, told.etag, f"{file} of {repository!r}")
    return here


def _check(repository: str, file: str, url: str, told: Any) -> None:
    """Look at what the server says of a file before it is fetched."""
    if told.commit_hash is None or told.etag is None:
        raise WeightsError(
            f"{url!r} is answered without a commit and a hash: the server isn't a hub; check "
            "HF_ENDPOINT, and the proxy"
        )
    if url.startswith("https:") and not told.location.startswith("https:"):
        scheme = told.location.partition(":")[0]
        raise WeightsError(
            f"{url!r} redirects to {scheme}: files are fetched over https only, where it begins so"
        )
    if file != WEIGHTS and (told.size or 0) > MAX_CONFIG_BYTES:
        raise WeightsError(
            f"{file} of {repository!r} has {told.size:,} bytes, expected at most "
            f"{MAX_CONFIG_BYTES:,}: it isn't a description of weights"
        )


def _verify(path: Path, etag: str, what: str) -> None:
    """Compare a file with its hash: sha256 of large files, that of git's blob of small ones."""
    if len(etag) == 64:
        digest = hashlib.sha256()
    elif len(etag) == 40:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        return
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    if digest.hexdigest() != etag:
        blob = path.resolve()
        path.unlink()
        blob.unlink(missing_ok=True)
        raise WeightsError(
            f"{what} came with hash {digest.hexdigest()}, but the server said {etag}: it was "
            "damaged on its way and isn't kept; fetch it again"
        )


def _explain(
    hub: Any,
    error: Exception,
    repository: str,
    file: str,
    revision: str,
    options: HubOptions,
) -> NoReturn:
    """One line: what was asked of whom, what is wrong, what to do."""
    errors, constants = hub.errors, hub.constants
    cache = os.fspath(options.cache_dir or constants.HF_HUB_CACHE)
    asked = f"{constants.ENDPOINT}/{repository}"
    text = " ".join(str(error).split())
    if isinstance(error, errors.OfflineModeIsEnabled):
        why = "local_files_only" if options.local_files_only else "HF_HUB_OFFLINE"
        reason = (
            f"the cache {cache!r} lacks {file} of {repository!r} ({revision}), and {why} forbids "
            "to fetch it: unset that, or set HF_HUB_CACHE to a cache that has it"
        )
    elif isinstance(error, errors.HFValidationError):
        reason = f"{repository!r} is no name of a repository, expected OWNER/NAME: {text}"
    elif isinstance(error, errors.GatedRepoError):
        reason = f"{asked} is open to those whom its owner lets in: ask there, then set HF_TOKEN"
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason = (
            f"there is no file {repository!r} here and no repository {asked}, or it is private: "
            "check the name, or set HF_TOKEN"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        reason = f"{asked} has no branch, tag or commit {revision!r}: check the name"
    elif isinstance(error, errors.EntryNotFoundError) and isinstance(error, errors.HfHubHTTPError):
        reason = (
            f"{asked} ({revision}) has no {file}: npresnet reads repositories with {CONFIG} and "
            f"{WEIGHTS}"
        )
    elif isinstance(error, errors.HfHubHTTPError):
        reason = f"{asked}: the server says {error.response.status_code} ({text:.200}): try later"
    else:
        if "Timeout" in type(error).__name__:
            text = "it stalls; HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT set how long it may"
        reason = (
            f"can't fetch {file} from {asked} ({text or type(error).__name__}), and the cache "
            f"{cache!r} lacks it: check the connection, HF_ENDPOINT and the proxy"
        )
    raise WeightsError(reason) from error
