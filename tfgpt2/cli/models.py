"""`tfgpt2 models`, `pull` and `rm`: the bundled model and the cache of the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tfgpt2.cli.console import notes
from tfgpt2.cli.options import checked_model, known_models
from tfgpt2.errors import explain, nearest, value_error
from tfgpt2.files import try_read_json_object
from tfgpt2.hub import ASSETS, HubOptions, Repository, bundled_names
from tfgpt2.quiet import quiet

Name = Annotated[
    str, typer.Argument(help="Hub name, such as openai-community/gpt2.", callback=checked_model)
]


def models(
    all_kinds: Annotated[
        bool, typer.Option("--all", help="Also list models that are not GPT-2.")
    ] = False,
) -> None:
    """List the models on this machine: the bundled one and those in the hub's cache."""
    table = Table(box=None)
    table.add_column("model", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("last used")
    table.add_column("", style="dim")
    for name in bundled_names():
        size = sum(path.stat().st_size for path in (ASSETS / name).iterdir())
        table.add_row(name, _megabytes(size), "", "bundled")
    hidden = 0
    for cached in _cached():
        kind = _kind(cached)
        if kind == "gpt2" or all_kinds:
            used = datetime.datetime.fromtimestamp(cached.last_accessed).date().isoformat()
            note = "" if kind == "gpt2" else kind or "unknown kind"
            table.add_row(escape(cached.repo_id), _megabytes(cached.size_on_disk), used, note)
        hidden += kind != "gpt2" and not all_kinds
    Console().print(table)
    if hidden:
        notes.print(f"{hidden} more that are not GPT-2: tfgpt2 models --all", style="dim")


def pull(
    name: Name,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Download a model into the hub's cache, and check that its files can be read."""
    repository = Repository(name, HubOptions(revision=revision))
    if repository.local is not None:
        problem = "This model is already on this machine."
        raise value_error(problem, fix="Use it with --model.", name=name)
    repository.require("config.json")  # reports a wrong name before TensorFlow loads
    with quiet():  # TensorFlow is imported here
        from tfgpt2.checkpoints.detection import load_config, open_checkpoint
        from tfgpt2.checkpoints.tokenizer_files import NAMES
        from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer
    config = load_config(repository.find, name)
    checkpoint = open_checkpoint(repository.find, name)
    for file in NAMES:
        repository.find(file)
    tokenizer = TFGPT2Tokenizer.from_pretrained(name, revision=revision)
    print(
        f"{name}  {checkpoint.format}, {config.n_layer} layers, width {config.n_embd},"
        f" {tokenizer.vocab_size:,} tokens"
    )
    notes.print(f"Next: tfgpt2 generate --model {escape(name)}", style="dim", highlight=False)


def rm(
    name: Annotated[
        str, typer.Argument(help="Hub name of a downloaded model.", autocompletion=known_models)
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a model from the hub's cache."""
    if name in bundled_names():
        problem = "This model is part of the package."
        raise value_error(problem, fix="Remove downloaded models only.", name=name)
    found = {cached.repo_id: cached for cached in _cached()}
    if name not in found:
        fix = nearest(name, found) if found else "The cache holds no models."
        raise FileNotFoundError(explain("This model is not in the cache.", fix=fix, name=name))
    cached = found[name]
    size = _megabytes(cached.size_on_disk)
    if not yes:
        typer.confirm(f"Remove {name} ({size}) from {cached.repo_path}?", abort=True, err=True)
    from huggingface_hub import constants, scan_cache_dir

    # Of this model alone: copies of a repository have the same commits.
    cache = scan_cache_dir(constants.HF_HUB_CACHE)
    alone = dataclasses.replace(cache, repos=frozenset({cached}))
    alone.delete_revisions(*(revision.commit_hash for revision in cached.revisions)).execute()
    print(f"{name}  removed, {size}")


def _cached() -> list[Any]:
    """The models in the hub's cache, by name."""
    from huggingface_hub import constants, scan_cache_dir

    if not Path(constants.HF_HUB_CACHE).is_dir():
        return []
    found = [
        repository
        for repository in scan_cache_dir(constants.HF_HUB_CACHE).repos
        if repository.repo_type == "model"
    ]
    return sorted(found, key=lambda cached: cached.repo_id)


def _kind(cached: Any) -> str:
    """The architecture that a cached model's configuration names; empty if unknown."""
    for revision in cached.revisions:
        if (revision.snapshot_path / "hparams.json").is_file():
            return "gpt2"  # OpenAI's format
        path = revision.snapshot_path / "config.json"
        values = try_read_json_object(path if path.is_file() else None)
        if "gpt2" in str(values.get("registered_name", "")).lower():
            return "gpt2"  # KerasHub's
        if values.get("model_type"):
            return str(values["model_type"])
    return ""


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
