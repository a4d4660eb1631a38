"""`tfgpt2 batch`: `generate`, `score`, `embed` and `classify`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape

from tfgpt2 import extras
from tfgpt2.batch.settings import JobSettings
from tfgpt2.cli.console import notes, progress
from tfgpt2.cli.generate import GenerateOptions, generation_settings
from tfgpt2.cli.options import (
    DEFAULT_MODEL,
    Model,
    add_flags,
    build_settings,
    flag,
    named_options,
    split_pairs,
)
from tfgpt2.quiet import quiet

app = typer.Typer(
    help="Process files of any size; the same command resumes after an interruption.",
    no_args_is_help=True,
)

Inputs = Annotated[
    list[str], typer.Argument(help="JSONL, CSV, TSV, Parquet, TFRecord or text files, by ending.")
]
Output = Annotated[
    str, typer.Option("--output", "-o", help="Folder: a new one, or that of a job to resume.")
]
Details = Annotated[
    bool, typer.Option("--token-details", help="Add ids and log-probabilities of the tokens.")
]


@dataclasses.dataclass
class SettingsOfAllRows(GenerateOptions):
    """Options of `generate`; None is the default of the model or export."""

    max_new_tokens: int | None = flag(
        None, "The most tokens of a row.", short="-n", default_text="the model's, else 64"
    )


@dataclasses.dataclass
class RunnerOptions:
    """Where a job runs."""

    runner: str | None = flag(None, "Apache Beam's runner, such as DirectRunner or FlinkRunner.")
    beam_option: list[str] | None = flag(
        None, "A flag of the pipeline, such as --beam-option=--direct_num_workers=2."
    )


PANELS = {
    "Job": [field.name for field in dataclasses.fields(JobSettings)],
    "Settings of all rows": [field.name for field in dataclasses.fields(SettingsOfAllRows)],
    "Apache Beam": [field.name for field in dataclasses.fields(RunnerOptions)],
}


@app.command("generate")
@add_flags(SettingsOfAllRows, PANELS)
@add_flags(RunnerOptions, PANELS)
@add_flags(JobSettings, PANELS)
def batch_generate(
    inputs: Inputs,
    output: Output,
    model: Model = DEFAULT_MODEL,
    setting_column: Annotated[
        list[str] | None,
        typer.Option(help="Column with each row's value: SETTING=COLUMN or SETTING."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: any other generation option.")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="Text before the text of every row.")] = None,
    on_long_prompt: Annotated[str, typer.Option(help="truncate_left or error.")] = "truncate_left",
    token_details: Details = False,
    **flags: Any,
) -> None:
    """Continue the text of each row."""
    names = [field.name for field in dataclasses.fields(SettingsOfAllRows)]
    options = generation_settings({name: flags.pop(name) for name in names})
    stop = options.pop("stop", ())
    options |= named_options("option", option)
    columns = dict(split_pairs("setting_column", setting_column, same=True))

    def make_task() -> Any:
        from tfgpt2.batch.tasks.generate import Generate

        return Generate(options, tuple(stop), columns, prefix, on_long_prompt, token_details)

    _run(make_task, inputs, output, model, flags)


@app.command("score")
@add_flags(RunnerOptions, PANELS)
@add_flags(JobSettings, PANELS)
def batch_score(
    inputs: Inputs,
    output: Output,
    model: Model = DEFAULT_MODEL,
    token_details: Details = False,
    **flags: Any,
) -> None:
    """Compute log-probability and perplexity of the text of each row."""

    def make_task() -> Any:
        from tfgpt2.batch.tasks.text_scoring import Score

        return Score(token_details)

    _run(make_task, inputs, output, model, flags)


@app.command("embed")
@add_flags(RunnerOptions, PANELS)
@add_flags(JobSettings, PANELS)
def batch_embed(
    inputs: Inputs,
    output: Output,
    model: Model = DEFAULT_MODEL,
    pooling: Annotated[str, typer.Option(help="mean of all tokens, or last.")] = "mean",
    **flags: Any,
) -> None:
    """Compute a vector for the text of each row."""

    def make_task() -> Any:
        from tfgpt2.batch.tasks.text_scoring import Embed

        return Embed(pooling)

    _run(make_task, inputs, output, model, flags)


@app.command("classify")
@add_flags(RunnerOptions, PANELS)
@add_flags(JobSettings, PANELS)
def batch_classify(inputs: Inputs, output: Output, model: Model, **flags: Any) -> None:
    """Label the text of each row, with a model that has a classification head."""

    def make_task() -> Any:
        from tfgpt2.batch.tasks.classify import Classify

        return Classify()

    _run(make_task, inputs, output, model, flags)


def _run(
    make_task: Callable[[], Any],
    inputs: Sequence[str],
    output: str,
    model: str,
    flags: dict[str, Any],
) -> None:
    settings, where = build_settings(JobSettings, flags), build_settings(RunnerOptions, flags)
    parquet = any(name.lower().endswith((".parquet", ".pq")) for name in inputs)
    if parquet or settings.format == "parquet":
        extras.require("A Parquet file", "parquet")
    if where.runner is not None:
        extras.require("--runner", "beam")
    if where.runner is None:
        report = _run_here(make_task, inputs, output, model, settings)
    else:
        with progress(f"Running on {where.runner}"):
            from tfgpt2.beam.pipeline import run_pipeline

            job = (make_task(), list(inputs), output, model, settings)
            report = run_pipeline(job, where.runner, where.beam_option or ())
    done = "" if report.complete else "; other shards are not done yet"
    notes.print(
        f"{report.rows:,} rows, {report.errors:,} with an error, {report.tokens:,} tokens in"
        f" {report.seconds:,.1f} s -> {escape(output)}: {report.files:,} files written{done}.",
        highlight=False,
    )


def _run_here(make_task: Callable[[], Any], *arguments: Any) -> Any:
    with progress(f"Loading {arguments[2]}"):
        from tfgpt2.batch.job import Job, run

        job = Job(make_task(), *arguments)
    try:
        with quiet():
            return run(job, notes)
    except KeyboardInterrupt:
        notes.print("Stopped; the same command resumes from here.")
        raise
