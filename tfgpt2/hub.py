"""Where a model's files are: a local directory, a bundled name, or the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from tfgpt2.errors import explain

ASSETS = Path(__file__).parent.parent / "assets"


@dataclasses.dataclass(frozen=True)
class Repository:
    """The files of one model, wherever they are kept.

    A name is looked up in this order: an existing local directory, a model bundled with the
    package (`tfgpt2/assets/NAME`), a repository on the Hugging Face hub. Hub files go through
    `huggingface_hub`, so its cache, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` act as usual.

    Args:
        name: Directory, bundled name (`"shakespeare-tiny"`) or hub name (`"owner/name"`).
        revision: Branch, tag or commit on the hub; None is the default branch.
        token: Access token, or True/None for the stored one.
        cache_dir: Where downloads are kept; None is `huggingface_hub`'s own cache.
        subfolder: Folder inside the repository.
        local_files_only: Never ask the network.
        force_download: Download again what the cache already holds.

    Example:
        >>> Repository("shakespeare-tiny").find("config.json").name
        'config.json'
    """

    name: str | os.PathLike[str]
    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | os.PathLike[str] | None = None
    subfolder: str = ""
    local_files_only: bool = False
    force_download: bool = False
    _commit: str | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, (str, os.PathLike)) or not str(self.name):
            raise ValueError(
                explain(
                    "A model is named by a local directory, a bundled name or a hub name.",
                    fix=f"Bundled names: {', '.join(bundled_names())}.",
                    name=self.name,
                )
            )

    @property
    def local(self) -> Path | None:
        """The directory that holds the files, or None when they are on the hub."""
        directory = Path(self.name).expanduser()
        if directory.is_file():
            raise NotADirectoryError(
                explain(
                    "A model is a directory of files; this is one file.",
                    fix="Name the directory that holds it.",
                    name=str(self.name),
                )
            )
        if not directory.is_dir():
            if str(self.name) not in bundled_names():
                return None
            directory = ASSETS / str(self.name)
        return directory / self.subfolder

    def find(self, filename: str) -> Path | None:
        """Returns the local path of one file, downloading it if need be.

        Args:
            filename: Name inside the repository, such as `"config.json"`.

        Returns:
            The path, or None when the repository has no such file.

        Raises:
            FileNotFoundError: There is no such directory, bundled model or repository.
            NotADirectoryError: The name is that of a file.
            ConnectionError: The hub cannot be reached and the cache does not hold the file.
            PermissionError: The repository is private or gated and the token does not open it.
        """
        if self.local is not None:
            path = self.local / filename
            return path if path.is_file() else None
        return self._download(filename)

    def require(self, filename: str) -> Path:
        """Like `find`, but a missing file is an error that says where it was looked for."""
        path = self.find(filename)
        if path is None:
            raise FileNotFoundError(
                explain(
                    f"The model has no file {filename!r}.",
                    fix="Point to a directory or repository that `save_pretrained` wrote.",
                    name=str(self.name),
                    subfolder=self.subfolder,
                )
            )
        return path

    def _download(self, filename: str) -> Path | None:
        # Imported late: most programs load from a directory and need no HTTP stack.
        from huggingface_hub import errors, hf_hub_download

        if not self.force_download:
            found = self._cached(filename)
            if found is not None and self._commit is not None:
                return found or None
        try:
            path = hf_hub_download(
                str(self.name),
                filename,
                subfolder=self.subfolder or None,
                revision=self._commit or self.revision,
                token=self.token,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only,
                force_download=self.force_download,
            )
        except errors.LocalEntryNotFoundError as error:
            if self._known_to_lack(filename):
                return None
            raise self._unreachable(filename) from error
        except errors.EntryNotFoundError:
            return None
        except errors.HfHubHTTPError as error:
            raise self._refusal(error, filename) from error
        except ValueError as error:
            # A name that no repository can have; or a forced download that failed for its cause.
            raise self._refusal(error.__cause__ or error, filename) from error
        # All files of one model shall come from one commit, even when a new one appears meanwhile.
        root = Path(path).parents[len(Path(self.subfolder, filename).parts) - 1]
        object.__setattr__(self, "_commit", root.name)
        return Path(path)

    def _cached(self, filename: str) -> Path | bool | None:
        """Looks into the cache only.

        Returns:
            The path; False when the hub has said that there is no such file; None if unknown.
        """
        from huggingface_hub import errors, try_to_load_from_cache

        name = f"{self.subfolder}/{filename}" if self.subfolder else filename
        try:
            found = try_to_load_from_cache(
                str(self.name),
                name,
                cache_dir=self.cache_dir,
                revision=self._commit or self.revision,
            )
        except errors.HFValidationError:
            return None
        if found is None:
            return None
        return Path(found) if isinstance(found, str) else False

    def _known_to_lack(self, filename: str) -> bool:
        """Says whether the cache tells, without the hub, that the repository lacks a file."""
        from huggingface_hub import constants

        # Whoever works offline has downloaded the model before: what is not there does not exist.
        offline = self.local_files_only or constants.HF_HUB_OFFLINE
        return self._cached(filename) is False or (offline and bool(self._cached("config.json")))

    def _unreachable(self, filename: str) -> Exception:
        return ConnectionError(
            explain(
                f"{filename!r} is not in the local cache and the hub could not be asked.",
                fix="Check the network, HF_ENDPOINT, HF_HUB_OFFLINE and local_files_only, or pass"
                " a directory.",
                name=str(self.name),
                revision=self.revision,
            )
        )

    def _refusal(self, error: BaseException, filename: str) -> Exception:
        """Says in our words why the hub gave no file."""
        from huggingface_hub import errors

        name = str(self.name)
        if isinstance(error, errors.GatedRepoError):
            return PermissionError(
                explain(
                    "The repository is gated and the token does not open it.",
                    fix="Ask for access on its page, then pass `token=` or set HF_TOKEN.",
                    name=name,
                )
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return FileNotFoundError(
                explain(
                    "The repository has no such revision.",
                    fix="Name an existing branch, tag or commit, or leave `revision` out.",
                    name=name,
                    revision=self.revision,
                )
            )
        if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
            return FileNotFoundError(
                explain(
                    "No local directory, bundled model or hub repository has this name.",
                    fix=f"Bundled names: {', '.join(bundled_names())}. A private repository needs"
                    " `token=` or HF_TOKEN.",
                    name=name,
                )
            )
        return self._unreachable(filename)


def bundled_names() -> list[str]:
    """Returns the names of the models that come with the package.

    Example:
        >>> "shakespeare-tiny" in bundled_names()
        True
    """
    return sorted(path.name for path in ASSETS.iterdir() if (path / "config.json").is_file())
