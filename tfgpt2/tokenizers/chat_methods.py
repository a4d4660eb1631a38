"""Methods of transformers' tokenizers for conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfgpt2.chat_template import Messages, render
from tfgpt2.errors import value_error
from tfgpt2.tokenizers.base import TokenizerSpec


class ChatMethods:
    """The chat template of a tokenizer, and the texts and ids of conversations.

    Attributes:
        spec: The tokenizer.
    """

    spec: TokenizerSpec

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """A jinja2 template, templates by name, or None."""
        return self.spec.chat_template

    @chat_template.setter
    def chat_template(self, value: str | Mapping[str, str] | None) -> None:
        self.spec = self.spec.replace(chat_template=value)

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """Returns the template to use.

        Args:
            chat_template: A template, or the name of one of the tokenizer's; None is the default.
            tools: Whether there are tools, for which there may be a template of its own.

        Raises:
            ValueError: There is no template.
        """
        known = self.chat_template
        if isinstance(known, Mapping):
            if chat_template in known:
                return known[chat_template]
            default = "tool_use" if tools is not None and "tool_use" in known else "default"
            known = known.get(default)
        template = chat_template or known
        if template is None:
            raise value_error(
                "The tokenizer has no chat template.",
                fix="Set tokenizer.chat_template, or pass chat_template=.",
                chat_template=self.chat_template,
            )
        return template

    def apply_chat_template(
        self,
        conversation: Messages | Sequence[Messages],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, str]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> Any:
        """Returns the ids, or the text, of a conversation or of several.

        Args:
            conversation: Messages, dicts with `role` and `content`; or a list of conversations.
            tools: JSON schemas of functions, for templates that show them.
            documents: Dicts with `title` and `text`, for templates that show them.
            chat_template: A template in place of the tokenizer's, or the name of one of its.
            add_generation_prompt: Whether the text ends with the start of an answer.
            continue_final_message: Whether the text ends where the last message does.
            tokenize: False returns the text.
            padding: See a call, also for the next three.
            truncation: Whether to truncate.
            max_length: Most tokens.
            return_tensors: `"tf"`, `"np"` or None.
            return_dict: Return all that a call returns, not just the ids.
            tokenizer_kwargs: More options of a call.
            **variables: What else the template can read.

        Raises:
            ImportError: jinja2 is not installed.
            ValueError: There is no template, it fails, or options contradict each other.

        Example:
            >>> import tfgpt2
            >>> tokenizer = tfgpt2.AutoTokenizer.from_pretrained("shakespeare-tiny")
            >>> tokenizer.chat_template = "{% for m in messages %}{{ m.content }}|{% endfor %}"
            >>> chat = [{"role": "user", "content": "To be"}]
            >>> tokenizer.apply_chat_template(chat, tokenize=False)
            'To be|'
        """
        template = self.get_chat_template(chat_template, tools)
        _check(add_generation_prompt, continue_final_message, tokenize, return_dict, tools)
        several = not (conversation and isinstance(conversation[0], Mapping))
        special = {role: token for role, token in self.special_tokens_map.items()}
        variables = special | variables
        texts = [
            render(
                template,
                messages,
                continue_final_message=continue_final_message,
                tools=None if tools is None else list(tools),
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
            for messages in (conversation if several else [conversation])
        ]
        texts = texts if several else texts[0]
        if not tokenize:
            return texts
        encoded = self(
            texts,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            add_special_tokens=False,
            return_tensors=return_tensors,
            **(tokenizer_kwargs or {}),
        )
        return encoded if return_dict else encoded["input_ids"]


def _check(generation: bool, final: bool, tokenize: bool, whole: bool, tools: Any) -> None:
    wrong = [
        (generation and final, "A text ends with the start of an answer, or with the last message.",
         "Leave out add_generation_prompt or continue_final_message."),
        (whole and not tokenize, "`return_dict` needs ids.", "Leave out tokenize=False."),
        (any(callable(tool) for tool in tools or ()), "Tools are given as JSON schemas.",
         "Write the schema of the function as a dict."),
    ]  # fmt: skip
    for contradiction, what, fix in wrong:
        if contradiction:
            raise value_error(what, fix=fix)
