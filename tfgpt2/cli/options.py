"""Options that several commands share, and options derived from a settings dataclass."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import typer

from tfgpt2.errors import value_error
from tfgpt2.hub import bundled_names, cached_names, check_name

DEFAULT_MODEL = "shakespeare-tiny"


def known_models(incomplete: str) -> list[str]:
    """Model names for the shell's completion: bundled ones and those in the hub's cache."""
    return [name for name in (*bundled_names(), *cached_names()) if name.startswith(incomplete)]


def checked_model(context: typer.Context, name: str | None) -> str | None:
    """Refuses a misspelt model name before TensorFlow is loaded."""
    if name and not context.resilient_parsing:
        check_name(name)
    return name


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Bundled name, directory or hub name.",
        callback=checked_model,
        autocompletion=known_models,
    ),
]
Prompt = Annotated[str | None, typer.Argument(help="The text; '-' or nothing reads stdin.")]

_Settings = TypeVar("_Settings")


def flag(default: Any, help: str | None = None, **metadata: str) -> Any:
    """Makes a field of a settings class for `add_flags`."""
    return dataclasses.field(default=default, metadata={"help": help} | metadata)


def add_flags(
    settings: type, panels: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> Callable[[Callable], Callable]:
    """Makes a decorator that replaces a command's `**flags` by one flag for each setting.

    A flag exists for each field whose metadata has a `help`; a field that is itself a settings
    class gives the flags of that class. Further metadata: `flag`, another name for the option;
    `short`, such as `-n`; `envvar`, an environment variable that sets it; `default_text`, what a
    default of None stands for.

    Args:
        settings: A dataclass.
        panels: Names of fields by the heading under which the help shows them.

    Example:
        >>> @dataclasses.dataclass
        ... class Limits:
        ...     max_queue: int = flag(8, "Waiting requests.")
        >>> @add_flags(Limits)
        ... def command(name: str, **flags): ...
        >>> list(inspect.signature(command).parameters)
        ['name', 'max_queue']
    """

    def decorate(command: Callable) -> Callable:
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [one for one in own if one.kind is not inspect.Parameter.VAR_KEYWORD]
        panel_of = {name: panel for panel, names in panels.items() for name in names}
        parameters += _parameters(settings, panel_of)
        command.__signature__ = inspect.Signature(parameters)
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return decorate


def build_settings(settings: type[_Settings], flags: dict[str, Any], **values: Any) -> _Settings:
    """Makes settings, nested ones included, from the flags of `add_flags`.

    Args:
        settings: A dataclass.
        flags: A value for each flag.
        **values: Fields that have no flag.
    """
    kinds = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(kinds[field.name]):
            values[field.name] = build_settings(kinds[field.name], flags)
        elif "help" in field.metadata:
            values[field.name] = flags[field.name]
    return settings(**values)


def split_pairs(
    flag: str, texts: Sequence[str] | None, *, same: bool = False
) -> list[tuple[str, str]]:
    """Splits `NAME=VALUE`; with `same`, a name alone stands for `NAME=NAME`.

    Example:
        >>> split_pairs("option", ["a=1=2", "b"], same=True)
        [('a', '1=2'), ('b', 'b')]
    """
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


def named_options(flag: str, texts: Sequence[str] | None) -> dict[str, Any]:
    """Options from `NAME=VALUE`: a value is JSON, or else a text such as a regular expression.

    Example:
        >>> named_options("option", ["num_beams=4", "regex=[a-z]+"])
        {'num_beams': 4, 'regex': '[a-z]+'}
    """

    def value(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    return {name: value(text) for name, text in split_pairs(flag, texts)}


def given_flags(context: typer.Context, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, on the command line or by the environment.

    Args:
        context: The command's context.
        flags: A value for each flag.
    """
    return {
        name: value
        for name, value in flags.items()
        if context.get_parameter_source(name).name in ("COMMANDLINE", "ENVIRONMENT")
    }


def _parameters(settings: type, panel_of: Mapping[str, str]) -> list[inspect.Parameter]:
    kinds, parameters = typing.get_type_hints(settings), []
    for field in dataclasses.fields(settings):
        kind = kinds[field.name]
        if dataclasses.is_dataclass(kind):
            parameters += _parameters(kind, panel_of)
        elif "help" in field.metadata:
            parameters.append(_parameter(field, kind, panel_of.get(field.name)))
    return parameters


def _parameter(field: dataclasses.Field, kind: Any, panel: str | None) -> inspect.Parameter:
    if kind == tuple[str, ...]:
        kind = list[str]
    name = field.metadata.get("flag", field.name).replace("_", "-")
    # What is off by default needs no name for off, which would not fit into 80 columns.
    both = kind == bool | None or (kind is bool and field.default)
    names = [f"--{name}/--no-{name}" if both else f"--{name}"]
    if "short" in field.metadata:
        names.append(field.metadata["short"])
    option = typer.Option(
        *names,
        help=field.metadata["help"],
        envvar=field.metadata.get("envvar"),
        show_default=field.metadata.get("default_text", field.default not in (None, (), "", False)),
        rich_help_panel=panel,
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=list(field.default) if isinstance(field.default, tuple) else field.default,
        annotation=Annotated[kind, option],
    )
