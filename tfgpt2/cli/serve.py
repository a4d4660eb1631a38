"""`tfgpt2 serve`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tfgpt2 import extras
from tfgpt2.cli.console import notes
from tfgpt2.cli.options import add_flags, build_settings
from tfgpt2.errors import value_error
from tfgpt2.serving.server.settings import ServerSettings
from tfgpt2.serving.version_number import parse_version

PANELS = {
    "Models": ("keep_versions", "poll_seconds", "chat_template"),
    "Addresses and access": ("host", "port", "grpc_port", "api_key", "allowed_hosts",
                             "allowed_origins"),
    "Batches": ("enabled", "max_batch_size", "batch_timeout_micros", "num_batch_threads",
                "max_queue", "max_queue_bytes", "engine", "engine_slots"),
    "Limits of a request": ("max_body_bytes", "max_new_tokens", "stream_tokens"),
    "Time limits": ("timeout_seconds", "drain_seconds", "receive_seconds", "send_seconds",
                    "idle_seconds", "grpc_connection_seconds"),
}  # fmt: skip


@add_flags(ServerSettings, PANELS)
def serve(
    directory: Annotated[
        Path | None,
        typer.Argument(help="Folder with numbered versions, or a LiteRT export."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH; may be given several times.", rich_help_panel="Models"),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME/LABEL=VERSION; may be given several times.", rich_help_panel="Models"
        ),
    ] = None,
    **flags: Any,
) -> None:
    """Serve exports on this machine: REST, gRPC, OpenAI's API and a playground.

    LiteRT exports are served without TensorFlow, and then without gRPC.
    """
    models = _models(directory, model or [])
    extras.require("tfgpt2 serve", "serve", *_needed_modules(models))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=notes.file, force=True)
    logging.getLogger("absl").setLevel(logging.ERROR)
    settings = build_settings(ServerSettings, flags, models=models, labels=_labels(label or []))
    from tfgpt2.serving.server.run import run

    drained = run(settings, lambda addresses: print(addresses, flush=True))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if drained else 1)  # Python would wait for threads that load or run a model


def _needed_modules(models: Mapping[str, Path]) -> tuple[str, ...]:
    """Modules of the extra that these models need; none is all of them."""
    from tfgpt2.serving.server.registry import needs_tensorflow

    if any(needs_tensorflow(path) for path in models.values() if path.is_dir()) or not models:
        return ()
    return ("starlette", "uvicorn", "prometheus_client")


def _models(directory: Path | None, named: list[str]) -> dict[str, Path]:
    """Base paths by model name."""
    models = {}
    if directory is not None:
        models[directory.resolve().name] = directory
    for argument in named:
        name, _, path = argument.partition("=")
        if not (name and path) or name in models:
            problem = "`--model` must be NAME=PATH, each name once."
            fix = "For example --model gpt2=saved_models/gpt2."
            raise value_error(problem, fix=fix, model=argument)
        models[name] = Path(path)
    return models


def _labels(arguments: list[str]) -> dict[str, dict[str, int]]:
    """Version numbers by model and label."""
    labels: dict[str, dict[str, int]] = {}
    for argument in arguments:
        key, _, version = argument.rpartition("=")
        name, _, label = key.partition("/")
        number = parse_version(version)
        if not (name and label and number is not None):
            problem = "`--label` must be NAME/LABEL=VERSION."
            raise value_error(problem, fix="For example --label gpt2/stable=3.", label=argument)
        labels.setdefault(name, {})[label] = number
    return labels
