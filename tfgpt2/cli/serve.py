"""`tfgpt2 serve`: the command's options, and where they go."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tfgpt2.cli.quiet import quiet
from tfgpt2.errors import explain


def serve(
    directory: Annotated[
        Path | None,
        typer.Argument(help="Folder with numbered versions, such as saved_models/gpt2."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH; may be given several times.")
    ] = None,
    host: Annotated[str, typer.Option(help="127.0.0.1 is this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="REST and page; 0 takes a free one.")] = 8501,
    grpc_port: Annotated[int, typer.Option(help="0 takes a free one, -1 is none.")] = 8500,
    api_key: Annotated[
        str, typer.Option(envvar="TFGPT2_API_KEY", help="Better given by the variable.")
    ] = "",
    label: Annotated[
        list[str] | None, typer.Option(help="NAME/LABEL=VERSION; may be given several times.")
    ] = None,
    keep_versions: Annotated[int, typer.Option(help="How many of the newest are served.")] = 1,
    poll_seconds: Annotated[float, typer.Option(help="Between looks for new versions.")] = 1.0,
    batching: Annotated[bool, typer.Option(help="Run concurrent requests together.")] = True,
    max_batch_size: Annotated[int, typer.Option(help="Rows of a batch and of a request.")] = 32,
    batch_timeout_micros: Annotated[int, typer.Option(help="How long a batch waits.")] = 2000,
    batch_threads: Annotated[int, typer.Option(help="Batches at the same time.")] = 2,
    max_queue: Annotated[int, typer.Option(help="Waiting requests; more get 429.")] = 512,
    timeout_seconds: Annotated[float, typer.Option(help="Of a request, queue included.")] = 30.0,
    drain_seconds: Annotated[float, typer.Option(help="For running requests on stop.")] = 30.0,
    max_body_bytes: Annotated[int, typer.Option(help="Of a request.")] = 4 * 2**20,
    max_new_tokens: Annotated[int, typer.Option(help="The most a request may ask for.")] = 4096,
    stream_tokens: Annotated[int, typer.Option(help="Tokens of a stream's piece.")] = 8,
) -> None:
    """Serve SavedModels on this machine: REST, gRPC, completions and a page to try them."""
    models = _models(directory, model or [])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        with quiet():  # TensorFlow is imported here
            from tfgpt2.serving.server.run import run
            from tfgpt2.serving.server.settings import BatchSettings, ServerSettings
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tfgpt2"):
            raise
        raise RuntimeError(
            explain(
                f"The server needs {error.name}, which is not installed.",
                fix="Install the extra: pip install 'tfgpt2[serve]'.",
            )
        ) from error
    settings = ServerSettings(
        models=models,
        host=host,
        port=port,
        grpc_port=None if grpc_port < 0 else grpc_port,
        batching=BatchSettings(
            enabled=batching,
            max_batch_size=max_batch_size,
            batch_timeout_micros=batch_timeout_micros,
            num_batch_threads=batch_threads,
            max_queue=max_queue,
        ),
        labels=_labels(label or []),
        keep_versions=keep_versions,
        poll_seconds=poll_seconds,
        timeout_seconds=timeout_seconds,
        drain_seconds=drain_seconds,
        max_body_bytes=max_body_bytes,
        max_new_tokens=max_new_tokens,
        stream_tokens=stream_tokens,
        api_key=api_key,
    )
    finished = run(settings, lambda where: print(where, flush=True))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if finished else 1)  # Python would wait for threads that load or run a model


def _models(directory: Path | None, named: list[str]) -> dict[str, Path]:
    """Base paths by name."""
    models = {}
    if directory is not None:
        models[directory.resolve().name] = directory
    for one in named:
        name, equals, path = one.partition("=")
        if not (name and equals and path) or name in models:
            raise ValueError(
                explain(
                    "`--model` must be NAME=PATH, each name once.",
                    fix="For example --model gpt2=saved_models/gpt2.",
                    model=one,
                )
            )
        models[name] = Path(path)
    return models


def _labels(given: list[str]) -> dict[str, dict[str, int]]:
    """Version numbers by model and label."""
    labels: dict[str, dict[str, int]] = {}
    for one in given:
        place, _, version = one.rpartition("=")
        name, slash, label = place.partition("/")
        if not (name and slash and label and version.isdecimal()):
            raise ValueError(
                explain(
                    "`--label` must be NAME/LABEL=VERSION.",
                    fix="For example --label gpt2/stable=3.",
                    label=one,
                )
            )
        labels.setdefault(name, {})[label] = int(version)
    return labels
