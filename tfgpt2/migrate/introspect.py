"""Introspection of this package: whether a name exists, and whether a call is accepted.

There are no lists of names. Keywords are tried on small real objects, so results and error
messages are those that a user would get.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import tfgpt2
from tfgpt2 import outputs
from tfgpt2.config import GPT2Config
from tfgpt2.errors import nearest
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.generate import generate
from tfgpt2.generation.inputs import check_inputs
from tfgpt2.generation.option_table import DEFAULTS
from tfgpt2.generation.options import UNSUPPORTED
from tfgpt2.generation.validation import check_asked
from tfgpt2.hub import HubOptions, check_no_upload
from tfgpt2.migrate.usage import Path, Unknown
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.pipelines.registry import ALIASES, PIPELINES, pipeline
from tfgpt2.tokenizers import files
from tfgpt2.tokenizers.host import GPT2Tokenizer
from tfgpt2.tokenizers.layer import Tokenizer

_SAMPLE = "shakespeare-tiny"  # the bundled tokenizer
# Methods that pass their options on to another one.
_DELEGATES = {
    "batch_decode": "decode",
    **dict.fromkeys(("encode", "encode_plus", "batch_encode_plus", "tokenize"), "__call__"),
}


class Missing(Exception):
    """This package has no such name.

    Attributes:
        name: The missing name.
        names: The existing names.
    """

    def __init__(self, name: str, names: list[str]) -> None:
        super().__init__(name)
        self.name, self.names = name, names


class Unclear(Exception):
    """The result depends on values at run time."""


def public(name: str) -> Any:
    """The object that `tfgpt2` or `tfgpt2.outputs` exports under a name.

    Raises:
        Missing: There is none.
    """
    if name in tfgpt2.__all__:
        return getattr(tfgpt2, name)
    found = getattr(outputs, name, None)
    if inspect.isclass(found) and issubclass(found, outputs.ModelOutput):
        return found
    raise Missing(name, [n for n in tfgpt2.__all__ if n != "__version__"])


def module_of(name: str) -> str:
    """The module to import a name from."""
    return "tfgpt2" if name in tfgpt2.__all__ else "tfgpt2.outputs"


def resolve(path: Path) -> Any:
    """Resolves a path to a class, an instance, a method or an output.

    Raises:
        Missing: A name of the path does not exist.
        Unclear: The path leads through results that are known only at run time.
    """
    found = public(path[0])
    for place, step in enumerate(path[1:], 1):
        if path[: place - 1].count("()") == 2:
            raise Unclear  # inside a tensor of a result
        if step == "()":
            found = _called(found)
        elif hasattr(found, step):
            found = getattr(found, step)
        else:
            raise Missing(step, [name for name in dir(found) if not name.startswith("_")])
    return found


def _called(found: Any) -> Any:
    """The result of a call, if it is known without running it."""
    if inspect.isclass(found):
        return _instance(found)
    if isinstance(found, TFGPT2PreTrainedModel):
        return _output(type(found))
    if isinstance(found, GPT2Tokenizer):
        return found("a", return_token_type_ids=True, return_tensors="np")
    raise Unclear


@functools.cache
def _instance(cls: type) -> Any:
    """A small instance of a class."""
    if issubclass(cls, TFGPT2PreTrainedModel):
        return cls(GPT2Config(vocab_size=10, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    if issubclass(cls, (GPT2Tokenizer, Tokenizer)):
        made = cls.from_pretrained(_SAMPLE)
        if isinstance(made, GPT2Tokenizer):
            made.pad_token, made.model_max_length = made.eos_token, 1024
        return made
    if issubclass(cls, (GPT2Config, GenerationConfig)):
        return cls()
    raise Unclear


@functools.cache
def _output(cls: type) -> Any:
    """An output of a model with every field set."""
    names = inspect.signature(cls.call).return_annotation.split(" | ")
    kind = getattr(outputs, names[0])
    return kind({name: 0 for name in kind.fields()})


def refusal(path: Path, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Refusal | None:
    """Why a call would be refused, or None if it would not.

    Args:
        path: Path of the called object.
        arguments: Values of the positional arguments, `Unknown` unless they are literals.
        keywords: Values of the keyword arguments, likewise.

    Raises:
        Missing: The called object does not exist.
        Unclear: The result depends on values at run time.
    """
    function, owner, name = resolve(path), None, path[-1]
    if len(path) > 1 and name != "()":
        owner = resolve(path[:-1])
    if not callable(function):
        raise Missing(f"{name}()", [])
    if owner is not None and name in _DELEGATES and hasattr(owner, _DELEGATES[name]):
        own = _parameters(function)
        keywords = {n: v for n, v in keywords.items() if n not in own}
        called = _DELEGATES[name]
        function = owner if called == "__call__" else getattr(owner, called)
        arguments = arguments[:1]
    return _refusal(function, owner, name, arguments, dict(keywords))


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Refusal of a keyword, or of a number of positional arguments.

    Attributes:
        keyword: The refused keyword, or None.
        why: The error message.
    """

    keyword: str | None
    why: str


def _refusal(
    function: Any, owner: Any, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> Refusal | None:
    if name == "save_pretrained" and keywords.get("push_to_hub") is True:
        return _tried(lambda **given: check_no_upload(True), {"push_to_hub": True}, set())
    if function is pipeline:
        return _pipeline_task((*arguments, keywords.get("task"))[0])
    if isinstance(function, TFGPT2PreTrainedModel):
        return _by_names(function.call, arguments, keywords)
    if name == "generate" and isinstance(owner, TFGPT2PreTrainedModel):
        known = {*_parameters(generate), *_parameters(check_inputs)} - {"model", "config"}
        options = {n: v for n, v in keywords.items() if n not in known}
        return _generation(options) or _by_names(function, arguments, {})
    if isinstance(function, GPT2Tokenizer):
        known = {"text", "text_pair", "text_target", "is_split_into_words"}
        return _tried(lambda **given: function("a", **given), keywords, known)
    if isinstance(function, Tokenizer):
        return _by_names(function.call, arguments, keywords)
    called = owner if name == "from_pretrained" else function
    if inspect.isclass(called) and issubclass(called, (GPT2Tokenizer, Tokenizer)):
        known = {*files.HUB_OPTIONS, *_parameters(function)}
        return _tried(lambda **given: called.from_pretrained(_SAMPLE, **given), keywords, known)
    if inspect.isclass(called) and issubclass(called, TFGPT2PreTrainedModel):
        if name == "from_pretrained":
            known = {*_parameters(function), "return_unused_kwargs"}
            return _tried(lambda **given: GPT2Config.from_dict({}, **given), keywords, known)
        return _by_names(called, arguments, keywords)
    loads = name == "from_pretrained"
    if called is GPT2Config:
        if keywords.get("return_unused_kwargs"):
            return None
        known = {*_parameters(function), *(HubOptions.names() if loads else ())}
        read = functools.partial(GPT2Config.from_dict, {})
        return _tried(read if loads else GPT2Config, keywords, known)
    if called is GenerationConfig:
        known = {*_parameters(function), *HubOptions.names(), "return_unused_kwargs"}
        if loads and keywords.get("return_unused_kwargs"):
            return None
        return _generation({n: v for n, v in keywords.items() if not (loads and n in known)})
    return _by_names(function, arguments, keywords)


def _pipeline_task(task: Any) -> Refusal | None:
    """Whether there is a pipeline for a task that is a literal."""
    if not isinstance(task, str) or task in {*PIPELINES, *ALIASES}:
        return None
    why = f"There is no pipeline for the task {task!r}. {nearest(task, [*PIPELINES, *ALIASES])}"
    return Refusal("task", why)


def _generation(options: dict[str, Any]) -> Refusal | None:
    """Tries generation options: names, values, and combinations."""
    for name in options:
        if name not in DEFAULTS and name not in UNSUPPORTED:
            return _tried(GenerationConfig, {name: options[name]}, set())
    values = {n: v for n, v in options.items() if not isinstance(v, Unknown)}
    if len(values) < len(options):  # their combination can be checked only at run time
        return _tried(lambda **given: GenerationConfig.from_dict({}, **given), values, set())

    def validate(**given: Any) -> None:
        config = GenerationConfig.from_dict({}, **given)
        config.validate()
        check_asked(config, given)

    return _tried(validate, options, set())


def _tried(
    function: Callable[..., Any], keywords: dict[str, Any], known: set[str]
) -> Refusal | None:
    """Calls a function with each keyword alone, then with all, and returns its refusal."""
    asked = {name: value for name, value in keywords.items() if name not in known}
    for name, value in asked.items():
        try:
            function(**{name: None if isinstance(value, Unknown) else value})
        except TypeError as error:
            return Refusal(name, str(error))
        except (ValueError, OSError) as error:
            # An unknown value was replaced by None, and a value may need the other keywords.
            if not isinstance(value, Unknown) and len(asked) == 1:
                return Refusal(name, str(error))
    values = {name: value for name, value in asked.items() if not isinstance(value, Unknown)}
    try:
        function(**values)
    except (TypeError, ValueError, OSError) as error:
        return Refusal(next((n for n in values if f"{n}=" in str(error)), None), str(error))
    return None


def _by_names(
    function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> Refusal | None:
    """Checks a call against a signature."""
    try:
        parameters = _parameters(function)
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise Unclear from None
    try:
        signature.bind_partial(*arguments)
    except TypeError as error:
        return Refusal(None, f"{error}.")
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    for name in keywords:
        if name not in parameters:
            return Refusal(name, f"There is no argument {name!r}. {nearest(name, parameters)}")
    return None


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters
