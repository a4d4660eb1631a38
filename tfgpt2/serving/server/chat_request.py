"""Parsing a request to `/v1/chat/completions`: a conversation becomes a prompt.

The text of a conversation is what a chat template makes of it. GPT-2 was not trained on
conversations: where an export has no template, the plain one below writes them as a play, which any
language model goes on with, and the text ends where another one would speak.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tfgpt2.chat_template import choose_template, render
from tfgpt2.errors import shorten
from tfgpt2.serving.server import completion_request
from tfgpt2.serving.server.completion_request import CompletionRequest
from tfgpt2.serving.server.serving_error import ServingError, invalid

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
_PLAIN_STOPS = ["\nuser:", "\nsystem:", "\nassistant:"]
_MAX_ALTERNATIVES = 20
# Fields of completions, with the values that ask for nothing.
_ONLY_OF_COMPLETIONS: dict[str, tuple[Any, ...]] = {
    "prompt": (),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
}
# Fields of chats that this server does not have, with the values that ask for nothing.
_NOT_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),  # there are no tools
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}


def parse(
    document: Mapping[str, Any],
    templates: Mapping[str, str],
    special_tokens: Mapping[str, str] = MappingProxyType({}),
) -> CompletionRequest:
    r"""Parses and checks a request.

    Args:
        document: The body, an object.
        templates: Chat templates by name; none is the plain one.
        special_tokens: What a template can name: `eos_token` and others.

    Returns:
        The request for a completion of the conversation's text.

    Raises:
        ServingError: INVALID_ARGUMENT with the field's name.

    Example:
        >>> messages = [{"role": "user", "content": "Who is there?"}]
        >>> parse({"model": "m", "messages": messages}, {}).prompts
        ('user: Who is there?\nassistant:',)
    """
    given = {name: value for name, value in document.items() if value is not None}
    for name, allowed in _ONLY_OF_COMPLETIONS.items():
        if name in given and given.pop(name) not in allowed:
            raise invalid(f"`{name}` is not a field of chats. Send `messages`.", param=name)
    for name, allowed in _NOT_SUPPORTED.items():
        if given.pop(name, allowed[0]) not in allowed:
            raise invalid(f"`{name}` is not supported by this server. Leave it out.", param=name)
    template = _template(templates, given.pop("chat_template", None))
    messages = _messages(given.pop("messages", None))
    try:
        text = render(template, messages, add_generation_prompt=True, **special_tokens)
    except ValueError as error:
        raise invalid(str(error), param="messages") from error
    given |= {"prompt": text, "logprobs": _logprobs(given)}
    if "max_completion_tokens" not in given:
        given.setdefault("max_tokens", -1)  # up to the context
    if template is PLAIN_TEMPLATE:
        most = completion_request.MAX_STOPS - len(_PLAIN_STOPS)
        stops = completion_request.parse_stops(given.get("stop", []), "stop", most)
        given["stop"] = [*stops, *_PLAIN_STOPS]
    return completion_request.parse(given)


def templates_in_use(setting: str, own: Mapping[str, str]) -> dict[str, str]:
    """Returns the chat templates of a model on this server, by name.

    Args:
        setting: A file, of which the template replaces the others, or nothing.
        own: Those of the export.
    """
    return {"default": Path(setting).read_text(encoding="utf-8")} if setting else dict(own)


def _template(templates: Mapping[str, str], name: Any) -> str:
    """The template of a name; a template itself is refused, as it would be a client's program."""
    if name is None:
        try:
            return choose_template(templates) if templates else PLAIN_TEMPLATE
        except ValueError as error:
            raise invalid(str(error), param="chat_template") from error
    if not isinstance(name, str) or name not in templates:
        known = ", ".join(map(repr, templates))
        expected = f"the name of a chat template of this model: {known}"
        if not templates:
            expected = "left out: this model has no chat templates, and a plain one is used"
        raise invalid(
            f"`chat_template` must be {expected}. Received: {shorten(name, 100)}.",
            param="chat_template",
        )
    return templates[name]


def _messages(value: Any) -> list[dict[str, str]]:
    if value is None:
        raise invalid("You must provide a messages parameter.", param="messages")
    if not isinstance(value, list) or not value:
        raise _wrong_messages(value)
    return [_message(one) for one in value]


def _message(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise _wrong_messages(value)
    content = value.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise invalid("Only texts can be parts of a message.", param="messages")
        content = "".join(_text(part.get("text")) for part in content)
    return {"role": _text(value["role"]), "content": _text(content)}


def _text(value: Any) -> str:
    return completion_request.parse_text(value, "messages")


def _logprobs(given: dict[str, Any]) -> int | None:
    """The number of alternatives: `top_logprobs`, where `logprobs` is true."""
    wanted, count = given.pop("logprobs", False), given.pop("top_logprobs", 0)
    if not isinstance(wanted, bool):
        raise invalid(
            f"`logprobs` must be true or false. Received: {shorten(wanted, 100)}.", param="logprobs"
        )
    is_count = isinstance(count, int) and not isinstance(count, bool)
    if not is_count or not 0 <= count <= _MAX_ALTERNATIVES or (count and not wanted):
        raise invalid(
            f"`top_logprobs` must be an integer in [0, {_MAX_ALTERNATIVES}], and needs `logprobs`:"
            f" true. Received: {shorten(count, 100)}.",
            param="top_logprobs",
        )
    return count if wanted else None


def _wrong_messages(value: Any) -> ServingError:
    return invalid(
        "`messages` must be a list of objects with `role` and `content`."
        f" Received: {shorten(value, 100)}.",
        param="messages",
    )
