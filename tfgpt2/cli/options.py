"""Options that several commands share, and options derived from a settings dataclass."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

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


def add_flags(settings: type, *, defaults: bool) -> Callable[[Callable], Callable]:
    """Makes a decorator that replaces a command's `**flags` by one flag for each setting.

    A flag exists for each field whose metadata has a `help`; a field that is itself a settings
    class gives the flags of that class. Further metadata: `flag`, another name for the option;
    `short`, such as `-n`; `envvar`, an environment variable that sets it.

    Args:
        settings: A dataclass.
        defaults: True passes a setting's default to the command. False passes None for a flag
            that is not given, and the help shows the default in brackets.

    Example:
        >>> @dataclasses.dataclass
        ... class Limits:
        ...     max_queue: int = flag(8, "Waiting requests.")
        >>> @add_flags(Limits, defaults=True)
        ... def command(name: str, **flags): ...
        >>> list(inspect.signature(command).parameters)
        ['name', 'max_queue']
    """

    def decorate(command: Callable) -> Callable:
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [one for one in own if one.kind is not inspect.Parameter.VAR_KEYWORD]
        parameters += _parameters(settings, defaults)
        command.__signature__ = inspect.Signature(parameters)
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return decorate


def build_settings(settings: type[_Settings], flags: dict[str, Any], **values: Any) -> _Settings:
    """Makes settings, nested ones included, from the flags of `add_flags(..., defaults=True)`.

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


def _parameters(settings: type, defaults: bool) -> list[inspect.Parameter]:
    kinds, parameters = typing.get_type_hints(settings), []
    for field in dataclasses.fields(settings):
        kind = kinds[field.name]
        if dataclasses.is_dataclass(kind):
            parameters += _parameters(kind, defaults)
        elif "help" in field.metadata:
            parameters.append(_parameter(field, kind, defaults))
    return parameters


def _parameter(field: dataclasses.Field, kind: Any, defaults: bool) -> inspect.Parameter:
    if kind == tuple[str, ...]:
        kind = list[str]
    text = field.metadata["help"]
    if not defaults and field.default not in (None, (), ""):
        shown = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
        text += f" [{shown}]"
    name = field.metadata.get("flag", field.name).replace("_", "-")
    names = [f"--{name}/--no-{name}" if kind in (bool, bool | None) else f"--{name}"]
    if "short" in field.metadata:
        names.append(field.metadata["short"])
    option = typer.Option(*names, help=text, envvar=field.metadata.get("envvar"))
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default if defaults else None,
        annotation=Annotated[kind if defaults else kind | None, option],
    )
