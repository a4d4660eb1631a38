"""`tfgpt2 batch`: `generate`, `score`, `embed` and `classify`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape

from tfgpt2.batch.settings import JobSettings
from tfgpt2.cli.console import notes, progress, quiet
from tfgpt2.cli.generate import GenerateOptions
from tfgpt2.cli.options import DEFAULT_MODEL, Model, add_flags, build_settings, flag
from tfgpt2.errors import value_error

app = typer.Typer(
    help="Process files of any size; the same command goes on after an interruption.",
    no_args_is_help=True,
)

Inputs = Annotated[
    list[str], typer.Argument(help="JSONL, CSV, TSV, Parquet, TFRecord or text, by their ending.")
]
Output = Annotated[str, typer.Option("--output", "-o", help="Folder: a new one, or the job's.")]
Details = Annotated[bool, typer.Option(help="Add ids and log-probabilities of the tokens.")]


@dataclasses.dataclass
class SettingsOfAllRows(GenerateOptions):
    """Options of `generate`; None is the default of the model or export."""

    max_new_tokens: int | None = flag(None, "Default: the model's, else 64.", short="-n")


@dataclasses.dataclass
class RunnerOptions:
    """Where a job runs."""

    runner: str | None = flag(None, "Apache Beam's runner, such as DirectRunner or FlinkRunner.")
    beam_option: list[str] | None = flag(
        None, "A flag of the pipeline, such as --beam-option=--direct_num_workers=2."
    )


@app.command("generate")
@add_flags(SettingsOfAllRows, defaults=True)
@add_flags(RunnerOptions, defaults=True)
@add_flags(JobSettings, defaults=True)
def batch_generate(
    inputs: Inputs,
    output: Output,
    model: Model = DEFAULT_MODEL,
    setting_column: Annotated[
        list[str] | None, typer.Option(help="SETTING=COLUMN, or SETTING: a row's own value.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: any other generation option.")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="A text before every row's.")] = None,
    on_long_prompt: Annotated[str, typer.Option(help="truncate_left or error.")] = "truncate_left",
    token_details: Details = False,
    **flags: Any,
) -> None:
    """Continue the text of each row."""
    names = [field.name for field in dataclasses.fields(SettingsOfAllRows)]
    given = {name: flags.pop(name) for name in names}
    stop = given.pop("stop") or ()
    options = {name: value for name, value in given.items() if value is not None}
    options |= {name: _value(text) for name, text in _pairs("option", option)}
    columns = dict(_pairs("setting_column", setting_column, same=True))

    def make_task() -> Any:
        from tfgpt2.batch.tasks.generate import Generate

        return Generate(options, tuple(stop), columns, prefix, on_long_prompt, token_details)

    _run(make_task, inputs, output, model, flags)


@app.command("score")
@add_flags(RunnerOptions, defaults=True)
@add_flags(JobSettings, defaults=True)
def batch_score(
    inputs: Inputs,
    output: Output,
    model: Model = DEFAULT_MODEL,
    token_details: Details = False,
    **flags: Any,
) -> None:
    """Log-probability and perplexity of the text of each row."""

    def make_task() -> Any:
        from tfgpt2.batch.tasks.text_scoring import Score

        return Score(token_details)

    _run(make_task, inputs, output, model, flags)


@app.command("embed")
@add_flags(RunnerOptions, defaults=True)
@add_flags(JobSettings, defaults=True)
def batch_embed(
    inputs: Inputs,
    output: Output,
    model: Model = DEFAULT_MODEL,
    pooling: Annotated[str, typer.Option(help="mean of all tokens, or last.")] = "mean",
    **flags: Any,
) -> None:
    """A vector for the text of each row."""

    def make_task() -> Any:
        from tfgpt2.batch.tasks.text_scoring import Embed

        return Embed(pooling)

    _run(make_task, inputs, output, model, flags)


@app.command("classify")
@add_flags(RunnerOptions, defaults=True)
@add_flags(JobSettings, defaults=True)
def batch_classify(inputs: Inputs, output: Output, model: Model, **flags: Any) -> None:
    """The label of the text of each row, by a model with a classification head."""

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
        notes.print("Stopped; the same command goes on from here.")
        raise


def _pairs(flag: str, texts: Sequence[str] | None, *, same: bool = False) -> list[tuple[str, str]]:
    """Splits `NAME=VALUE`; with `same`, a name alone stands for `NAME=NAME`."""
    found = []
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals and not same:
            raise value_error(
                f"`--{flag}` must be NAME=VALUE.",
                fix="For example --option num_beams=4.",
                **{flag: text},
            )
        found.append((name, value if equals else name))
    return found


def _value(text: str) -> Any:
    """The value of an option: JSON, or else a text such as a regular expression."""
    try:
        return json.loads(text)
    except ValueError:
        return text
