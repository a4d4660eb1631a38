"""`tfgpt2 chat`: a text that a user and a model write in turns.

`Chat` holds the text and the settings and knows the commands; `interact` reads lines with
prompt_toolkit. GPT-2 has no roles: what is typed becomes part of the text, and the model goes on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from tfgpt2 import extras
from tfgpt2.cli.console import notes, progress
from tfgpt2.cli.options import DEFAULT_MODEL, Model
from tfgpt2.cli.streaming import write_out, write_stream
from tfgpt2.errors import explain, nearest, value_error

# What `/NAME VALUE` changes. They are data of the compiled program, which only a larger
# `max_new_tokens` compiles again.
SETTINGS = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
            "seed", "stop")  # fmt: skip
COMMANDS = {
    "help": "show this list",
    "retry": "replace the last answer with another one",
    "undo": "take back the last turn",
    "new": "begin a new text",
    "show": "show the whole text",
    "save": "/save FILE: write the text to a file",
    "settings": "show the settings; /temperature 0.5 changes one, /temperature none resets it",
    "quit": "leave, as Ctrl-D does",
}


def chat(
    model: Model = DEFAULT_MODEL,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", help="Maximum number of tokens per answer.")
    ] = 100,
) -> None:
    """Write a text in turns with a model; /help lists the commands of the session.

    Enter sends, Alt-Enter inserts a line break, and an empty line lets the model continue. Ctrl-C
    stops an answer, Ctrl-D leaves. The model is loaded and compiled only once.
    """
    interact(model, {"max_new_tokens": max_new_tokens})


def interact(model: str, settings: Mapping[str, Any], start: str = "") -> None:
    """Loads a model and runs the loop in the terminal.

    Args:
        model: Its name.
        settings: Options of `TextGenerator.stream`.
        start: The first turn of the user; empty waits for one.

    Raises:
        ImportError: prompt_toolkit is not installed.
        RuntimeError: Standard input is no terminal.
    """
    extras.require("tfgpt2 chat", "chat")
    if not sys.stdin.isatty():
        problem = "A conversation needs a terminal on standard input."
        raise RuntimeError(explain(problem, fix="Pipe texts into tfgpt2 generate."))
    with progress(f"Loading {model}"):
        from tfgpt2.text.generator import TextGenerator

        generator = load(TextGenerator, model)
    notes.print(f"{escape(model)}: /help lists the commands, Ctrl-D leaves.", style="dim")
    talk = Chat(generator, settings)
    if start:
        write_out(start)
        talk.enter(start)
    run(talk)


def load(generator_class: Any, model: str) -> Any:
    """Loads a generator with one bucket for prompts: a text that grows compiles once."""
    generator = generator_class.from_pretrained(model, on_long_prompt="truncate_left")
    context = generator.model.config.n_positions
    return generator_class(
        generator.model, generator.tokenizer, generator.generation_config,
        on_long_prompt="truncate_left", prompt_buckets=[context],
    )  # fmt: skip


def run(talk: Chat) -> None:
    """Reads turns until Ctrl-D or /quit."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("enter")(lambda event: event.current_buffer.validate_and_handle())
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    words = [f"/{name}" for name in (*COMMANDS, *SETTINGS)]
    session = PromptSession(
        "> ", multiline=True, prompt_continuation="  ", key_bindings=keys,
        history=FileHistory(str(_history())), completer=WordCompleter(words, sentence=True),
    )  # fmt: skip
    while not talk.is_over:
        try:
            talk.enter(session.prompt())
        except KeyboardInterrupt:  # while typing: the line is dropped
            continue
        except EOFError:
            return
        except (TypeError, ValueError, OSError) as error:
            notes.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)


class Chat:
    r"""A text written in turns.

    Args:
        generator: A `TextGenerator`.
        settings: Options of `TextGenerator.stream`.
        write: Where answers go; by default standard output.

    Attributes:
        text: The whole text.
        settings: The options, which commands change.
        is_over: Whether /quit was entered.
    """

    def __init__(
        self,
        generator: Any,
        settings: Mapping[str, Any],
        write: Callable[[str], None] | None = None,
    ) -> None:
        self.generator, self.settings, self.write = generator, dict(settings), write or write_out
        self.text, self.is_over = "", False
        self._turns: list[tuple[str, str]] = []  # the text before a turn, and before its answer

    def enter(self, line: str) -> None:
        """Runs a command, or adds a turn to the text and lets the model go on.

        Args:
            line: What was typed: `/NAME VALUE`, or text; a text that begins with a slash begins
                with two.

        Raises:
            ValueError: There is no such command, or a value is out of range; nothing has changed.
            OSError: The file cannot be written.
        """
        if line.startswith("/") and not line.startswith("//"):
            self._command(*line[1:].partition(" ")[::2])
            return
        line = line.removeprefix("/")
        if not line and not self.text:
            raise value_error("There is no text yet.", fix="Type its beginning, or /help.")
        apart = line and self.text and not self.text.endswith("\n")
        self._answer(self.text, self.text + "\n" * bool(apart) + line)

    def _answer(self, before: str, prompt: str, **settings: Any) -> None:
        options = self.settings | settings
        if options.get("temperature") == 0 and self.generator.generation_config.do_sample:
            options["do_sample"] = True  # greedy by its data, in the program that samples
        done = write_stream(self.generator, prompt, options, write=self.write)
        self._turns.append((before, prompt))
        self.text = prompt + done.text
        notes.print(str(done), style="dim", highlight=False)

    def _command(self, name: str, value: str) -> None:
        value = value.strip()
        if name in SETTINGS:
            self._set(name, value)
        elif name in COMMANDS:
            getattr(self, f"_{name}")(value)
        else:
            known = [*COMMANDS, *SETTINGS]
            raise value_error(f"There is no command /{name}.", fix=nearest(name, known))

    def _set(self, name: str, value: str) -> None:
        if value == "none":
            self.settings.pop(name, None)
        elif value:
            from tfgpt2.generation.option_values import check_option
            from tfgpt2.generation.options import REQUEST_OPTIONS

            new = _parse(name, value)
            if name != "stop":
                check_option(REQUEST_OPTIONS[name], new)
            self.settings[name] = new
        notes.print(f"{name} = {self.settings.get(name, 'the default of the model')}", style="dim")

    def _help(self, _: str) -> None:
        for name, meaning in COMMANDS.items():
            notes.print(f"/{name:9} {meaning}", style="dim", highlight=False)
        notes.print(f"{'':10} settings: {', '.join(SETTINGS)}", style="dim", highlight=False)

    def _retry(self, _: str) -> None:
        self._need_turn()
        before, prompt = self._turns.pop()
        # A fixed seed would give the same answer again.
        fixed = self.settings.get("seed")
        self._answer(before, prompt, **({} if fixed is None else {"seed": None}))

    def _undo(self, _: str) -> None:
        self._need_turn()
        self.text, _ = self._turns.pop()
        self._show("")

    def _new(self, _: str) -> None:
        self.text, self._turns = "", []

    def _show(self, _: str) -> None:
        self.write(self.text + "\n")

    def _save(self, value: str) -> None:
        if not value:
            raise value_error("`/save` needs a file.", fix="For example /save scene.txt.")
        path = Path(value).expanduser()
        path.write_text(self.text, encoding="utf-8")
        notes.print(f"{len(self.text):,} characters -> {escape(str(path))}", style="dim")

    def _settings(self, _: str) -> None:
        for name in dict.fromkeys((*SETTINGS, *self.settings)):
            shown = self.settings.get(name, "the default of the model")
            notes.print(f"{name} = {shown}", style="dim", highlight=False)

    def _quit(self, _: str) -> None:
        self.is_over = True

    def _need_turn(self) -> None:
        if not self._turns:
            raise value_error("There is no turn yet.", fix="Type a text first.")


def _parse(name: str, value: str) -> Any:
    """The value of a setting: a number, or for `stop` a text or a JSON list of texts."""
    try:
        found = json.loads(value)
    except ValueError:
        found = value
    return found if name != "stop" or isinstance(found, list) else [str(found)]


def _history() -> Path:
    """The file that keeps what was typed, as other programs of the terminal keep theirs."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "tfgpt2" / "history"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
