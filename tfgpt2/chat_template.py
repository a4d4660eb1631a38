"""Chat templates: messages become the text that a model continues.

Templates are jinja2 programs from a model's files. They run in jinja2's immutable sandbox, which
lets them neither import anything nor change what they are given.
"""

from __future__ import annotations

import contextvars
import copy
import datetime
import functools
import itertools
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfgpt2.errors import explain, value_error

_FINAL = "CONTINUE_FINAL_MESSAGE_TAG "  # marks the end of the message to continue
# What is written before and after each answer, so that its place is known.
_ANSWER_MARK = contextvars.ContextVar("_ANSWER_MARK", default="")

Messages = Sequence[Mapping[str, Any]]

TEMPLATE_NAME = "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"  # a folder, where there are several


def render(
    template: str,
    messages: Messages,
    *,
    continue_final_message: bool = False,
    **variables: Any,
) -> str:
    """Returns the text of a conversation.

    Args:
        template: The template.
        messages: The conversation: dicts with `role` and `content`.
        continue_final_message: Cut the text where the last message ends.
        **variables: What else the template can read, such as `add_generation_prompt`.

    Raises:
        ImportError: jinja2 is not installed.
        ValueError: The template is damaged, fails, or does not show the last message.

    Source: transformers 4.57, `utils/chat_template_utils.py::render_jinja_template` (behaviour).

    Example:
        >>> render("{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}",
        ...        [{"role": "user", "content": "Hi"}])
        'user: Hi;'
    """
    jinja2 = _jinja2()
    if not continue_final_message:
        marked = messages
    else:
        marked = _mark_end(messages)
    try:
        text = _compiled(template).render(messages=marked, **variables)
    except jinja2.TemplateError as error:
        raise value_error(
            f"The chat template fails: {error}",
            fix="Check the template, and that the messages are as it expects them.",
            messages=messages,
        ) from error
    if not continue_final_message:
        return text
    end = text.rfind(_FINAL.strip())
    if end < 0:
        raise value_error(
            "The text does not hold the whole last message, so it cannot be continued.",
            fix="Leave continue_final_message out.",
            messages=messages,
        )
    kept = text[:end]
    return kept if text[end : end + len(_FINAL)] == _FINAL else kept.rstrip()


def choose_template(templates: Mapping[str, str], *, tools: bool = False) -> str:
    """Returns the template of several that a conversation uses.

    Args:
        templates: Templates by name.
        tools: Whether there are tools, for which there may be one called `tool_use`.

    Raises:
        ValueError: None is called `default`.

    Source: transformers 4.57, `tokenization_utils_base.py::get_chat_template` (behavior).

    Example:
        >>> choose_template({"default": "a", "tool_use": "b"}, tools=True)
        'b'
    """
    name = "tool_use" if tools and "tool_use" in templates else "default"
    if name not in templates:
        raise value_error(
            "There are several chat templates and none is called 'default'.",
            fix=f"Choose one by its name, as chat_template: {', '.join(map(repr, templates))}.",
            chat_template=None,
        )
    return templates[name]


def template_path(name: str) -> Path:
    """Returns where a template of a name is, from the folder of a tokenizer's files.

    Raises:
        ValueError: The name is no file's name.

    Example:
        >>> [str(template_path(name)) for name in ("default", "rag")]
        ['chat_template.jinja', 'additional_chat_templates/rag.jinja']
    """
    if Path(name).name != name or "\\" in name:  # it is a part of a path
        raise value_error(
            "The name of a chat template is a file's name without a folder.",
            fix="Rename it in tokenizer.chat_template.",
            name=name,
        )
    return Path(TEMPLATE_NAME) if name == "default" else Path(MORE_TEMPLATES, f"{name}.jinja")


def render_with_answers(
    template: str, messages: Messages, **variables: Any
) -> tuple[str, list[tuple[int, int]]]:
    """Returns the text of a conversation, and where in it the answers are.

    Args:
        template: The template, which writes answers in `{% generation %}` blocks.
        messages: See `render`.
        **variables: See `render`.

    Returns:
        The text, and the start and end of each answer in characters.

    Example:
        >>> template = "Q: {{ messages[0].content }} A: {% generation %}No.{% endgeneration %}"
        >>> render_with_answers(template, [{"role": "user", "content": "Is it?"}])
        ('Q: Is it? A: No.', [(13, 16)])
    """
    mark = f"<{secrets.token_hex(16)}>"  # which no message can hold
    token = _ANSWER_MARK.set(mark)
    try:
        pieces = render(template, messages, **variables).split(mark)
    finally:
        _ANSWER_MARK.reset(token)
    ends = [*itertools.accumulate(map(len, pieces))]
    return "".join(pieces), [(ends[i - 1], ends[i]) for i in range(1, len(pieces), 2)]


def _mark_end(messages: Messages) -> list[Any]:
    """The conversation with a mark at the end of its last text."""
    marked = copy.deepcopy(list(messages))
    content = marked[-1]["content"]
    if isinstance(content, str):
        marked[-1]["content"] = content + _FINAL
        return marked
    block = next((part for part in reversed(content) if "text" in part), None)
    if block is None:
        raise value_error(
            "The last message has no text to continue.",
            fix="Leave continue_final_message out.",
            message=marked[-1],
        )
    block["text"] += _FINAL
    return marked


@functools.cache
def _compiled(template: str) -> Any:
    """The template, ready to be rendered."""
    jinja2 = _jinja2()
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation()]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template)


def _generation() -> Any:
    """The block `{% generation %}`, by which templates mark answers."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller: Any) -> str:
            mark = _ANSWER_MARK.get()
            return f"{mark}{caller()}{mark}"

    return Generation


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """A value as JSON; jinja2's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> None:
    raise _jinja2().TemplateError(message)


def _jinja2() -> Any:
    try:
        import jinja2
        import jinja2.sandbox
    except ImportError as error:
        raise ImportError(
            explain("Chat templates need jinja2.", fix="Run `pip install jinja2`.")
        ) from error
    return jinja2
