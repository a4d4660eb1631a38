"""Asks this package what it has and takes: its classes, their objects, their signatures.

Nothing here is a list of names. A keyword is tried on a small real object, so the answer, and the
words of a refusal, are those that a user would get.
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
from tfgpt2.generation.inputs import read_inputs
from tfgpt2.generation.known_options import DEFAULTS, ELSEWHERE
from tfgpt2.generation.validation import check_asked
from tfgpt2.migrate.usage import Path, Unknown
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.tokenizers import files
from tfgpt2.tokenizers.byte_level_bpe import ByteLevelBPETokenizer
from tfgpt2.tokenizers.host import GPT2Tokenizer

_SAMPLE = "shakespeare-tiny"  # a tokenizer whose files are at hand
# Methods that hand their options on to another one.
_DELEGATES = {"batch_decode": "decode", "encode": "__call__"}


class Missing(Exception):
    """There is no such thing here.

    Attributes:
        name: What is missing.
        names: What is there instead.
    """

    def __init__(self, name: str, names: list[str]) -> None:
        super().__init__(name)
        self.name, self.names = name, names


class Unclear(Exception):
    """Only the running program can tell."""


def public(name: str) -> Any:
    """Returns what `tfgpt2`, or `tfgpt2.outputs`, has under a name.

    Raises:
        Missing: It has nothing.
    """
    if name in tfgpt2.__all__:
        return getattr(tfgpt2, name)
    found = getattr(outputs, name, None)
    if inspect.isclass(found) and issubclass(found, outputs.ModelOutput):
        return found
    raise Missing(name, [n for n in tfgpt2.__all__ if n != "__version__"])


def module_of(name: str) -> str:
    """The module from which a program imports a name."""
    return "tfgpt2" if name in tfgpt2.__all__ else "tfgpt2.outputs"


def thing(path: Path) -> Any:
    """Walks a path to a class, an object of it, a method or a result.

    Raises:
        Missing: A step of it is not here.
        Unclear: It leads through results that only a run would give.
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
    """What a call returns, as far as that is known without running it."""
    if inspect.isclass(found):
        return _object(found)
    if isinstance(found, TFGPT2PreTrainedModel):
        return _output(type(found))
    if isinstance(found, GPT2Tokenizer):
        return found("a", return_token_type_ids=True, return_tensors="np")
    raise Unclear


@functools.cache
def _object(cls: type) -> Any:
    """A small object of a class."""
    if issubclass(cls, TFGPT2PreTrainedModel):
        return cls(GPT2Config(vocab_size=10, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    if issubclass(cls, (GPT2Tokenizer, ByteLevelBPETokenizer)):
        made = cls.from_pretrained(_SAMPLE)
        if isinstance(made, GPT2Tokenizer):
            made.pad_token, made.model_max_length = made.eos_token, 1024
        return made
    if issubclass(cls, (GPT2Config, GenerationConfig)):
        return cls()
    raise Unclear


@functools.cache
def _output(cls: type) -> Any:
    """An output of a model, every field of it set."""
    names = inspect.signature(cls.call).return_annotation.split(" | ")
    kind = getattr(outputs, names[0])
    return kind({name: 0 for name in kind.fields()})


def refusal(path: Path, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Refusal | None:
    """Says why a call would be refused, or None.

    Args:
        path: What is called.
        arguments: Values of the positional arguments, `Unknown` where nobody knows.
        keywords: Values of the keywords, likewise.

    Raises:
        Missing: There is no such thing to call.
        Unclear: Only a run can tell.
    """
    function, owner, name = thing(path), None, path[-1]
    if len(path) > 1 and name != "()":
        owner = thing(path[:-1])
    if not callable(function):
        raise Missing(f"{name}()", [])
    if owner is not None and name in _DELEGATES and hasattr(owner, _DELEGATES[name]):
        own = _parameters(function)
        keywords = {n: v for n, v in keywords.items() if n not in own}
        function, arguments = getattr(owner, _DELEGATES[name]), arguments[:1]
    return _refusal(function, owner, name, arguments, dict(keywords))


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A keyword, or a number of positional arguments, that is not taken.

    Attributes:
        keyword: The keyword at fault, or None.
        why: The package's own words.
    """

    keyword: str | None
    why: str


def _refusal(
    function: Any, owner: Any, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> Refusal | None:
    if isinstance(function, TFGPT2PreTrainedModel):
        return _by_names(function.call, arguments, keywords)
    if name == "generate" and isinstance(owner, TFGPT2PreTrainedModel):
        known = {*_parameters(generate), *_parameters(read_inputs)} - {"model", "config"}
        options = {n: v for n, v in keywords.items() if n not in known}
        return _generation(options) or _by_names(function, arguments, {})
    if isinstance(function, GPT2Tokenizer):
        return _tried(lambda **given: function("a", **given), keywords, {"text", "text_pair"})
    if isinstance(function, ByteLevelBPETokenizer):
        return _by_names(function.call, arguments, keywords)
    maker = owner if name == "from_pretrained" else function
    if inspect.isclass(maker) and issubclass(maker, (GPT2Tokenizer, ByteLevelBPETokenizer)):
        known = {*files.WHERE, *_parameters(function)}
        return _tried(lambda **given: maker.from_pretrained(_SAMPLE, **given), keywords, known)
    if inspect.isclass(maker) and issubclass(maker, TFGPT2PreTrainedModel):
        if name == "from_pretrained":
            known = set(_parameters(function))
            return _tried(lambda **given: GPT2Config.from_dict({}, **given), keywords, known)
        return _by_names(maker, arguments, keywords)
    if maker is GPT2Config:
        return _tried(GPT2Config if name != "from_pretrained" else
                      lambda **given: GPT2Config.from_dict({}, **given), keywords,
                      set(_parameters(function)))  # fmt: skip
    if maker is GenerationConfig:
        return _generation(keywords)
    return _by_names(function, arguments, keywords)


def _generation(options: dict[str, Any]) -> Refusal | None:
    """Asks the generation options: names, values, and whether they go together."""
    for name in options:
        if name not in DEFAULTS and name not in ELSEWHERE:
            return _tried(GenerationConfig, {name: options[name]}, set())
    values = {n: v for n, v in options.items() if not isinstance(v, Unknown)}
    if len(values) < len(options):  # whether they go together is for the run to say
        return _tried(lambda **given: GenerationConfig.from_dict({}, **given), values, set())

    def ask(**given: Any) -> None:
        config = GenerationConfig.from_dict({}, **given)
        config.validate()
        check_asked(config, given)

    return _tried(ask, options, set())


def _tried(
    function: Callable[..., Any], keywords: dict[str, Any], known: set[str]
) -> Refusal | None:
    """Calls a function with keywords one by one, then with all, and returns its refusal."""
    asked = {name: value for name, value in keywords.items() if name not in known}
    for name, value in asked.items():
        try:
            function(**{name: None if isinstance(value, Unknown) else value})
        except TypeError as error:
            return Refusal(name, str(error))
        except (ValueError, OSError) as error:
            # An unknown value was replaced by None, of which the running program knows nothing;
            # others may need their companions.
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
    """Asks a signature, which says the names and how many values may stand without one."""
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
