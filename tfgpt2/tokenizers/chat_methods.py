"""Methods of transformers' tokenizers for conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfgpt2.chat_template import Messages, choose_template, render, render_with_answers
from tfgpt2.errors import value_error
from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.batch_encoding import to_tensors
from tfgpt2.tokenizers.rows import Row


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
            ValueError: There is no template, or several and no default.
        """
        known = self.chat_template
        if isinstance(known, Mapping):
            if chat_template in known:
                return known[chat_template]
            if chat_template is None:
                return choose_template(known, tools=tools is not None)
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
        return_assistant_tokens_mask: bool = False,
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
            return_assistant_tokens_mask: Return `assistant_masks`, too: 1 for tokens of answers,
                which the template writes in `{% generation %}` blocks, and 0 for others.
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
        masks = return_assistant_tokens_mask
        _check(add_generation_prompt, continue_final_message, tokenize, return_dict, masks, tools)
        several = not (conversation and isinstance(conversation[0], Mapping))
        special = {role: token for role, token in self.special_tokens_map.items()}
        variables = {
            "tools": None if tools is None else list(tools),
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        } | special | variables  # fmt: skip
        conversations = conversation if several else [conversation]
        answers: list[list[tuple[int, int]]] = []
        if masks:
            pairs = [render_with_answers(template, one, **variables) for one in conversations]
            texts, answers = [text for text, _ in pairs], [found for _, found in pairs]
        else:
            final = continue_final_message
            texts = [
                render(template, one, continue_final_message=final, **variables)
                for one in conversations
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
        if masks:
            columns = [
                _mask(row, found) for row, found in zip(encoded.encodings, answers, strict=True)
            ]
            columns = columns if several or return_tensors else columns[0]
            encoded |= to_tensors({"assistant_masks": columns}, return_tensors)
        return encoded if return_dict else encoded["input_ids"]


def _mask(row: Row, answers: Sequence[tuple[int, int]]) -> list[int]:
    """1 for the tokens of a row that write a part of an answer, and 0 for others."""
    return [
        int(text is not None and any(start < last and end > first for first, last in answers))
        for text, (start, end) in zip(row.sequence_ids, row.offsets, strict=True)
    ]


def _check(
    generation: bool, final: bool, tokenize: bool, whole: bool, masks: bool, tools: Any
) -> None:
    wrong = [
        (generation and final, "A text ends with the start of an answer, or with the last message.",
         "Leave out add_generation_prompt or continue_final_message."),
        (whole and not tokenize, "`return_dict` needs ids.", "Leave out tokenize=False."),
        (masks and not whole, "Masks of answers are returned beside the ids.",
         "Pass return_dict=True."),
        (masks and final, "A text that goes on with the last message has no whole answer.",
         "Leave out continue_final_message or return_assistant_tokens_mask."),
        (any(callable(tool) for tool in tools or ()), "Tools are given as JSON schemas.",
         "Write the schema of the function as a dict."),
    ]  # fmt: skip
    for contradiction, what, fix in wrong:
        if contradiction:
            raise value_error(what, fix=fix)
