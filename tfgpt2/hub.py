"""Where a model's files are: a local directory, a bundled name, or the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfgpt2.errors import explain, value_error

ASSETS = Path(__file__).parent / "assets"

# GPT-2's own repositories. Names without an owner are a closed set on the hub.
_OWNERLESS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
_WELL_KNOWN = (*(f"openai-community/{name}" for name in _OWNERLESS[:4]), "distilbert/distilgpt2")
_MISSPELT = 0.8  # likeness of names; "gpt2-xl" and "gpt2-large" have 0.71

Find = Callable[[str], Path | None]
"""From a file's name to its local path, or None when there is no such file: `Repository.find`."""


@dataclasses.dataclass(frozen=True)
class HubOptions:
    """Options that say which version of a model's files is used, and how it is downloaded.

    Every `from_pretrained` takes them by keyword. All but `subfolder` and `gguf_file` act on hub
    names only.

    Args:
        revision: Branch, tag or commit on the hub; None is the default branch.
        token: Access token, or True or None for the stored one.
        cache_dir: Directory for downloads; None is the cache of `huggingface_hub`.
        subfolder: Folder inside the repository or directory.
        local_files_only: Use the cache only, without network access.
        force_download: Download files again that are in the cache.
        gguf_file: Name of the GGUF file to read, in a directory or repository, as in transformers.
        trust_remote_code: As in transformers. No code is loaded from a repository in any case.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | os.PathLike[str] | None = None
    subfolder: str = ""
    local_files_only: bool = False
    force_download: bool = False
    gguf_file: str = ""
    trust_remote_code: bool | None = None

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Returns the names of the options."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def split(cls, options: Mapping[str, Any]) -> tuple[HubOptions, dict[str, Any]]:
        """Separates these options from the other keyword options of a call.

        Args:
            options: Keyword options.

        Returns:
            These options, and the others. `vars` turns the former into keyword options again.

        Example:
            >>> hub_options, others = HubOptions.split({"revision": "v1", "n_layer": 2})
            >>> hub_options.revision, others
            ('v1', {'n_layer': 2})
        """
        names = cls.names()
        own = {name: value for name, value in options.items() if name in names}
        return cls(**own), {name: options[name] for name in options if name not in own}


class Repository:
    """The files of one model, in a local directory, in the package or on the hub.

    A name is looked up in this order: an existing local directory, a model bundled with the
    package (`tfgpt2/assets/NAME`), a repository on the Hugging Face hub. Hub files go through
    `huggingface_hub`, so its cache, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` act as usual.
    After the first download, all files come from the same commit.

    Args:
        name: Directory, bundled name (`"shakespeare-tiny"`), hub name (`"owner/name"`), or a single
            file of weights, beside which the others are.
        options: Version and download options.

    Raises:
        ValueError: The name is empty, or neither a string nor a path.

    Example:
        >>> Repository("shakespeare-tiny").find("config.json").name
        'config.json'
    """

    def __init__(self, name: str | os.PathLike[str], options: HubOptions | None = None) -> None:
        if not isinstance(name, (str, os.PathLike)) or not str(name):
            raise value_error(
                "A model is named by a local directory, a bundled name or a hub name.",
                fix=f"Bundled names: {', '.join(bundled_names())}.",
                name=name,
            )
        self.name, self.options = str(name), options or HubOptions()
        self._commit: str | None = None

    @property
    def local(self) -> Path | None:
        """The directory that holds the files, or None when they are on the hub."""
        directory = Path(self.name).expanduser()
        if directory.is_file():
            return directory.parent
        if not directory.is_dir():
            if self.name not in bundled_names():
                return None
            directory = ASSETS / self.name
        return directory / self.options.subfolder

    @property
    def file(self) -> Path | None:
        """The single file of weights that is named, by `name` or `gguf_file`, or None.

        Raises:
            FileNotFoundError: There is no file `gguf_file`.
        """
        path = Path(self.name).expanduser()
        if path.is_file():
            return path
        return self.require(self.options.gguf_file) if self.options.gguf_file else None

    @property
    def _revision(self) -> str | None:
        return self._commit or self.options.revision

    def find(self, filename: str) -> Path | None:
        """Returns the local path of one file, downloading it if necessary.

        Args:
            filename: Name inside the repository, such as `"config.json"`.

        Returns:
            The path, or None when the repository has no such file.

        Raises:
            FileNotFoundError: There is no such directory, bundled model or repository.
            ConnectionError: The hub cannot be reached and the cache does not hold the file.
            PermissionError: The repository is gated and the token does not grant access.
        """
        if self.local is not None:
            path = self.local / filename
            return path if path.is_file() else None
        return self._download(filename)

    def require(self, filename: str) -> Path:
        """Returns the local path of one file, as `find` does; a missing file raises."""
        path = self.find(filename)
        if path is None:
            raise FileNotFoundError(
                explain(
                    f"The model has no file {filename!r}.",
                    fix="Point to a directory or repository that `save_pretrained` wrote.",
                    name=self.name,
                    subfolder=self.options.subfolder,
                )
            )
        return path

    def _download(self, filename: str) -> Path | None:
        # Imported late: most programs load from a directory and do not need an HTTP stack.
        from huggingface_hub import errors, hf_hub_download

        check_name(self.name, self.options.cache_dir)
        if not self.options.force_download:
            found = self._cached(filename)
            if found is not None and self._commit is not None:
                return found or None
        if self._commit is None and self._cached(filename) is None:
            self._check_reachable(filename)
        try:
            options = vars(self.options) | {"revision": self._revision}
            options["subfolder"] = self.options.subfolder or None
            del options["gguf_file"], options["trust_remote_code"]
            path = hf_hub_download(self.name, filename, **options)
        except errors.LocalEntryNotFoundError as error:
            if self._known_to_lack(filename):
                return None
            raise self._unreachable(filename) from error
        except errors.EntryNotFoundError:
            return None
        except errors.HfHubHTTPError as error:
            raise self._refusal(error, filename) from error
        except ValueError as error:
            # An invalid repository name, or a forced download that failed because of `__cause__`.
            raise self._refusal(error.__cause__ or error, filename) from error
        # The other files come from this commit, even when a new one appears in the meantime.
        root = Path(path).parents[len(Path(self.options.subfolder, filename).parts) - 1]
        self._commit = root.name
        return Path(path)

    def _check_reachable(self, filename: str) -> None:
        """Raises ConnectionError at once; `hf_hub_download` itself tries for a minute and more."""
        from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

        if self.options.local_files_only or constants.HF_HUB_OFFLINE:
            return
        options = {"subfolder": self.options.subfolder or None, "revision": self._revision}
        try:
            url = hf_hub_url(self.name, filename, **options)
            seconds = constants.HF_HUB_ETAG_TIMEOUT
            get_hf_file_metadata(url, token=self.options.token, timeout=seconds)
        except (errors.HfHubHTTPError, ValueError):
            return  # an answer, or no valid name: the download says what it means
        except Exception as error:  # of the HTTP library, which differs between versions
            raise self._unreachable(filename) from error

    def _cached(self, filename: str) -> Path | bool | None:
        """Looks up a file in the cache only.

        Returns:
            The path; False when the hub has answered that there is no such file; None if unknown.
        """
        from huggingface_hub import errors, try_to_load_from_cache

        name = f"{self.options.subfolder}/{filename}" if self.options.subfolder else filename
        try:
            found = try_to_load_from_cache(
                self.name,
                name,
                cache_dir=self.options.cache_dir,
                revision=self._revision,
            )
        except errors.HFValidationError:
            return None
        if found is None:
            return None
        return Path(found) if isinstance(found, str) else False

    def _known_to_lack(self, filename: str) -> bool:
        """Whether the cache alone shows that the repository lacks a file."""
        from huggingface_hub import constants

        # Offline, a model in the cache is taken to be complete: a missing file does not exist.
        offline = self.options.local_files_only or constants.HF_HUB_OFFLINE
        return self._cached(filename) is False or (offline and bool(self._cached("config.json")))

    def _unreachable(self, filename: str) -> Exception:
        return ConnectionError(
            explain(
                f"{filename!r} is not in the local cache and the hub could not be reached.",
                fix="Check the network, HF_ENDPOINT, HF_HUB_OFFLINE and local_files_only, or pass"
                f" a directory.{self._suggestion()}",
                name=self.name,
                revision=self.options.revision,
            )
        )

    def _suggestion(self) -> str:
        """A sentence with a similar name, or nothing."""
        known = [*bundled_names(), *_WELL_KNOWN, *cached_names(self.options.cache_dir)]
        similar = difflib.get_close_matches(self.name, known, n=1, cutoff=_MISSPELT)
        return f" Did you mean {similar[0]!r}?" if similar and self.name not in known else ""

    def _refusal(self, error: BaseException, filename: str) -> Exception:
        """Returns the error for a request that the hub refused."""
        from huggingface_hub import errors

        received = {"name": self.name}
        if isinstance(error, errors.GatedRepoError):
            kind: type[Exception] = PermissionError
            problem = "The repository is gated and the token does not grant access."
            fix = "Request access on its page, then pass `token=` or set HF_TOKEN."
        elif isinstance(error, errors.RevisionNotFoundError):
            kind, problem = FileNotFoundError, "The repository does not have this revision."
            fix = "Name an existing branch, tag or commit, or leave `revision` out."
            received["revision"] = self.options.revision
        elif isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
            kind = FileNotFoundError
            problem = "No local directory, bundled model or hub repository has this name."
            fix = f"Bundled names: {', '.join(bundled_names())}. A private repository needs"
            fix += f" `token=` or HF_TOKEN.{self._suggestion()}"
        else:
            return self._unreachable(filename)
        return kind(explain(problem, fix=fix, **received))


def check_name(name: str, cache_dir: str | os.PathLike[str] | None = None) -> None:
    """Raises for a name that is most likely misspelt, without asking the hub.

    Such a name is neither a file, a directory, a bundled model nor in the cache, has no owner and
    is very similar to a known name. Names with an owner are for the hub to judge.

    Args:
        name: Directory, bundled name or hub name.
        cache_dir: Directory for downloads; None is the cache of `huggingface_hub`.

    Raises:
        FileNotFoundError: Names the similar one.

    Example:
        >>> check_name("shakespear-tiny")
        Traceback (most recent call last):
            ...
        FileNotFoundError: No local directory or bundled model has this name. Received: \
name='shakespear-tiny'. Did you mean 'shakespeare-tiny'?
    """
    if "/" in name or Path(name).expanduser().exists():
        return
    known = [*bundled_names(), *_OWNERLESS, *cached_names(cache_dir)]
    similar = difflib.get_close_matches(name, known, n=1, cutoff=_MISSPELT)
    if similar and name not in known:
        raise FileNotFoundError(
            explain(
                "No local directory or bundled model has this name.",
                fix=f"Did you mean {similar[0]!r}?",
                name=name,
            )
        )


def cached_names(cache_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """Returns the names of the models in the cache of `huggingface_hub`, of whatever kind.

    Args:
        cache_dir: Directory for downloads; None is the cache of `huggingface_hub`.
    """
    if cache_dir is None:
        from huggingface_hub.constants import HF_HUB_CACHE as cache_dir
    folders = Path(cache_dir).glob("models--*")
    return sorted(path.name.removeprefix("models--").replace("--", "/") for path in folders)


def bundled_names() -> list[str]:
    """Returns the names of the models that are bundled with the package.

    Example:
        >>> "shakespeare-tiny" in bundled_names()
        True
    """
    return sorted(path.name for path in ASSETS.iterdir() if (path / "config.json").is_file())


def check_no_upload(push_to_hub: Any) -> None:
    """Raises ValueError where a save is asked to upload, too."""
    if push_to_hub:
        raise value_error(
            "Saving uploads nothing: files are written first, and uploaded when they are whole.",
            fix="Use huggingface_hub.upload_folder(repo_id=..., folder_path=...) afterwards.",
            push_to_hub=push_to_hub,
        )
