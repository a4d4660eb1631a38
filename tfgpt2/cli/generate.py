"""`tfgpt2 generate`."""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tfgpt2.cli.chat import interact
from tfgpt2.cli.console import notes, progress, read_text
from tfgpt2.cli.options import (
    DEFAULT_MODEL,
    Model,
    Prompt,
    add_flags,
    flag,
    named_options,
)
from tfgpt2.cli.streaming import closing_line, write_out, write_stream
from tfgpt2.errors import explain, value_error
from tfgpt2.files import read_utf8
from tfgpt2.litert.contract import CONTRACT
from tfgpt2.validation import check_choice

# Options with which a text is not written token by token.
_SEARCHES = ("num_beams", "penalty_alpha", "num_return_sequences", "best_of", "max_time")


@dataclasses.dataclass
class GenerateOptions:
    """Options of `TextGenerator.generate`; None is the default of the model."""

    max_new_tokens: int = flag(200, "Maximum number of new tokens.", short="-n")
    temperature: float | None = flag(None, "0 is greedy.", short="-t")
    top_k: int | None = flag(None, "0 is off.")
    top_p: float | None = flag(None, "1 is off.")
    min_p: float | None = flag(None, "0 is off.")
    repetition_penalty: float | None = flag(None, "1 is off.")
    num_beams: int | None = flag(None, "Beam search with this number of beams.")
    seed: int | None = flag(None, "The same seed gives the same text.")
    stop: list[str] | None = flag(None, "String that ends the text; may be given several times.")
    choices: list[str] | None = flag(None, "An allowed continuation; give all of them.")
    regex: str | None = flag(None, "Pattern that the continuation must match.")
    json_schema: str | None = flag(None, "Schema of the continuation: a file, or JSON text.")


RUNTIMES = ("tensorflow", "litert")
Runtime = Annotated[
    str, typer.Option(help="tensorflow, or litert for a folder from `export --format litert`.")
]


@add_flags(GenerateOptions)
def generate(
    prompt: Prompt = None,
    model: Model = DEFAULT_MODEL,
    runtime: Runtime = "tensorflow",
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="A file with a prompt; may be given several times."),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Take turns with the model: tfgpt2 chat.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per text.")
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: any other generation option.")
    ] = None,
    **flags: Any,
) -> None:
    """Continue a text, and print it as it is generated.

    With beam search or several files, texts are printed when they are complete. The text goes to
    standard output; a line with the number of tokens, tokens per second and seconds to the first
    token goes to standard error.
    """
    _check_runtime(runtime, model, interactive)
    settings = generation_settings(flags) | named_options("option", option)
    if file and prompt is not None:
        raise value_error(
            "A prompt is given as an argument or in files, not both.",
            fix="Leave one of them out.",
            prompt=prompt,
            file=str(file[0]),
        )
    if interactive:
        interact(model, settings, "" if prompt is None else prompt)
        return
    names = [str(path) for path in file or ()]
    prompts = [read_utf8(path) for path in file] if file else [read_text(prompt)]
    with progress(f"Loading {model}"):
        generator = (_load_litert if runtime == "litert" else _load_tensorflow)(model)
    searches = any(settings.get(name) not in (None, 1) for name in _SEARCHES)
    if len(prompts) == 1 and not as_json and not searches:
        bold = typer.style(prompts[0], bold=True) if sys.stdout.isatty() else prompts[0]
        done = write_stream(generator, prompts[0], settings, before=bold)
        if done.tokens is None:
            raise KeyboardInterrupt
        notes.print(str(done), style="dim", highlight=False)
        return
    start = time.perf_counter()
    with progress("Generating"):
        found = generator.generate(prompts, details=True, **settings)
    seconds = time.perf_counter() - start
    rows = [row if isinstance(row, list) else [row] for row in found]
    write_out((_as_json if as_json else _as_text)(prompts, rows, names))
    tokens = sum(len(record.token_ids) for row in rows for record in row)
    notes.print(closing_line(tokens, seconds), style="dim", highlight=False)


def _check_runtime(runtime: str, model: str, interactive: bool) -> None:
    """Checks that a runtime is one, and that it is for such a model.

    Raises:
        ValueError: It is not.
    """
    check_choice("runtime", runtime, RUNTIMES)
    if runtime == "tensorflow" and Path(model, CONTRACT).is_file():
        problem = "This folder is a LiteRT export, which TensorFlow does not run."
        raise value_error(problem, fix="Add --runtime litert.", model=model)
    if runtime == "litert" and interactive:
        problem = "A conversation needs the runtime tensorflow."
        raise value_error(problem, fix="Leave out --interactive.", runtime=runtime)


def _load_tensorflow(model: str) -> Any:
    try:
        from tfgpt2.text.generator import TextGenerator
    except ModuleNotFoundError as error:
        if error.name not in ("keras", "tensorflow"):
            raise
        problem = "TensorFlow is not installed."
        fix = "Run: pip install tfgpt2; or give a LiteRT export and --runtime litert."
        raise ImportError(explain(problem, fix=fix, missing=error.name)) from error

    return TextGenerator.from_pretrained(model, on_long_prompt="truncate_left")


def _load_litert(model: str) -> Any:
    """Loads a LiteRT export; TensorFlow is not imported."""
    from tfgpt2.litert.generator import LiteRTGenerator

    # The runtime reports on standard error that it ends, after all of Python.
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))
    return LiteRTGenerator.from_pretrained(model, on_long_prompt="truncate_left")


def generation_settings(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `generate` from flags, without those that were not given.

    Raises:
        ValueError: The JSON schema is neither a file nor valid JSON.
    """
    settings = {name: value for name, value in flags.items() if value not in (None, [])}
    if "json_schema" in settings:
        settings["json_schema"] = _read_schema(settings["json_schema"])
    return settings


def _read_schema(text: str) -> Any:
    path = Path(text)
    try:
        return json.loads(text if text.lstrip().startswith("{") else read_utf8(path))
    except ValueError as error:
        raise value_error(
            f"`--json-schema` must be a file or an object in JSON ({error}).",
            fix='For example --json-schema \'{"type": "integer"}\'.',
            json_schema=text,
        ) from error


def _as_json(prompts: Sequence[str], rows: Sequence[Sequence[Any]], names: Sequence[str]) -> str:
    """One line with a JSON object for each text."""
    lines = []
    for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        about = {"file": names[number]} if names else {}
        for record in row:
            values = dataclasses.asdict(record)
            del values["text_bytes"], values["tokens"]
            lines.append(json.dumps(about | {"prompt": prompt} | values, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


def _as_text(prompts: Sequence[str], rows: Sequence[Sequence[Any]], names: Sequence[str]) -> str:
    """The texts; where there are several, each under a heading, as `head` prints files."""
    several = sum(map(len, rows)) > 1
    texts = []
    for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        for record in row:
            name = names[number] if names else len(texts) + 1
            texts.append(f"==> {name} <==\n" * several + f"{prompt}{record.text}\n")
    return "\n".join(texts)
