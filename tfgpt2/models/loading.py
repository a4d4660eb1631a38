"""Where `from_pretrained` finds its configuration and weights, and its report on them."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from tfgpt2.checkpoints.detection import load_config
from tfgpt2.checkpoints.loader import WeightLoader, mismatched_message, unused_message
from tfgpt2.checkpoints.readers.safetensors import SafetensorsReader
from tfgpt2.checkpoints.single_file import open_repository
from tfgpt2.config import GPT2Config
from tfgpt2.errors import explain, value_error
from tfgpt2.hub import Find, HubOptions, Repository


def choose_config(
    config: GPT2Config | str | os.PathLike[str] | None,
    files: Repository,
    shown: str,
    options: HubOptions,
    overrides: dict[str, Any],
) -> Any:
    """Returns the configuration that is given, named or beside the weights, with its overrides.

    Args:
        config: A configuration, the name of a model that has it, or None for the model's own.
        files: The model's files.
        shown: The model's name, for errors.
        options: Where to look for a named configuration.
        overrides: Fields to change.
    """
    if isinstance(config, (str, os.PathLike)):
        path = Path(config).expanduser()
        if path.is_file():
            return GPT2Config.from_json_file(path, **overrides)
        return load_config(open_repository(config, options).find, str(config), **overrides)
    if config is None:
        return load_config(files.find, shown, **overrides)
    if overrides and isinstance(config, GPT2Config):
        return GPT2Config.from_dict(config.to_dict(), **overrides)
    return config


def find_weights(find: Find, use_safetensors: bool | None, shown: str) -> Find:
    """Limits the search for weights to safetensors files, or to all others.

    Args:
        find: From a file's name to its path.
        use_safetensors: True for safetensors only, False for any other format, None for all.
        shown: The model's name, for the error.

    Raises:
        FileNotFoundError: There are no safetensors files, and only they may be read.
    """
    names = SafetensorsReader.file_names
    if use_safetensors and not any(find(name) for name in names):
        raise FileNotFoundError(
            explain(
                f"The model has no safetensors file: none of {', '.join(names)}.",
                fix="Leave use_safetensors out to read any format.",
                name=shown,
            )
        )
    if use_safetensors is not False:
        return find
    return lambda name: None if name in names else find(name)


def check_remote_code(config: GPT2Config, trust_remote_code: bool | None) -> None:
    """Raises where transformers would execute code from the model's repository.

    Raises:
        ValueError: It is asked for, and the configuration names such code.
    """
    code = getattr(config, "auto_map", None)
    if trust_remote_code and code:
        raise value_error(
            "The model comes with code of its own, and no code is loaded from a repository.",
            fix="Leave trust_remote_code out to load its weights into this package's GPT-2.",
            auto_map=code,
        )


def warn_about(loader: WeightLoader, shown: str, model: str) -> None:
    """Warns of weights that were not read, or newly initialised; called by `from_pretrained`."""
    messages = []
    if loader.unused:
        messages.append(unused_message(shown, model, loader.unused))
    if loader.fresh:
        messages.append(
            f"{shown!r} has no {', '.join(loader.fresh)}: freshly initialised, so train"
            f" {model} before using its results."
        )
    if loader.mismatched:
        messages.append(mismatched_message(shown, model, loader.mismatched))
    for message in messages:
        warnings.warn(message, stacklevel=3)


def loading_info(loader: WeightLoader) -> dict[str, list[Any]]:
    """What `from_pretrained(output_loading_info=True)` reports, in transformers' form."""
    return {
        "missing_keys": list(loader.fresh),
        "unexpected_keys": list(loader.unused),
        "mismatched_keys": list(loader.mismatched),
        "error_msgs": [],  # an error is raised
    }
