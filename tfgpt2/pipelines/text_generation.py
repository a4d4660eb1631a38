"""The pipeline "text-generation"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
from tfgpt2.outputs import ModelOutput
from tfgpt2.pipelines.base import Pipeline, check_text


class TextGenerationPipeline(Pipeline):
    """Continues texts, or conversations where the tokenizer has a chat template.

    Returns, for each text, a list with a dict for each sequence: `generated_text`, or
    `generated_token_ids` with `return_tensors=True`.
    """

    task = "text-generation"
    model_class = TFGPT2LMHeadModel

    def is_batch(self, inputs: Any) -> bool:
        """Whether these are several texts or conversations; a list of messages is one."""
        return super().is_batch(inputs) and not (inputs and isinstance(inputs[0], Mapping))

    def run(
        self,
        one: Any,
        *,
        return_full_text: bool | None = None,
        return_text: bool | None = None,
        return_tensors: bool | None = None,
        clean_up_tokenization_spaces: bool = False,
        skip_special_tokens: bool = True,
        prefix: str = "",
        handle_long_generation: str | None = None,
        stop_sequence: str | None = None,
        add_special_tokens: bool | None = None,
        truncation: bool | str | None = None,
        tokenizer_encode_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool | None = None,
        **generation: Any,
    ) -> list[dict[str, Any]]:
        """Continues one text or conversation; see `TFGPT2LMHeadModel.generate` for the others.

        Args:
            one: A text, or messages with `role` and `content`.
            return_full_text: Whether results begin with the prompt, which is the default.
            return_text: True for texts, the default.
            return_tensors: True for ids.
            clean_up_tokenization_spaces: See the tokenizer's `decode`.
            skip_special_tokens: Whether special tokens are left out.
            prefix: Text before each prompt.
            handle_long_generation: `"hole"` drops the beginning of prompts that leave no room.
            stop_sequence: Text whose first token ends a sequence, as in transformers;
                `stop_strings` is exact.
            add_special_tokens: See the tokenizer.
            truncation: See the tokenizer.
            tokenizer_encode_kwargs: More options of the tokenizer.
            continue_final_message: Whether the last message is continued; by default, if it is the
                assistant's.
            **generation: Options of `generate`.
        """
        if return_full_text is not None and return_tensors:
            raise value_error(
                "Results are ids or texts.",
                fix="Leave out return_full_text or return_tensors.",
                return_full_text=return_full_text,
            )
        options = {"add_special_tokens": add_special_tokens, "truncation": truncation}
        options = {n: v for n, v in options.items() if v is not None}
        options |= tokenizer_encode_kwargs or {}
        chat = isinstance(one, (list, tuple))
        if chat:
            if continue_final_message is None:
                continue_final_message = one[-1]["role"] == "assistant"
            text = self.tokenizer.apply_chat_template(
                one,
                tokenize=False,
                add_generation_prompt=not continue_final_message,
                continue_final_message=continue_final_message,
            )
            options["add_special_tokens"] = False
        else:
            text = prefix + check_text(one, self.task)
        ids = self.tokenizer.encode(text, **options)
        ids = _shortened(self, ids, generation) if handle_long_generation == "hole" else ids
        if stop_sequence is not None:
            generation["eos_token_id"] = self.tokenizer.encode(stop_sequence)[0]
        if generation.get("stop_strings") is not None or any(
            generation.get(name) is not None for name in ("choices", "regex", "json_schema")
        ):
            generation.setdefault("tokenizer", self.tokenizer)
        out = self.model.generate(tf.constant([ids], tf.int32) if ids else None, **generation)
        sequences = (out.sequences if isinstance(out, ModelOutput) else out).numpy().tolist()
        if return_tensors:
            return [{"generated_token_ids": sequence} for sequence in sequences]
        decode = {"skip_special_tokens": skip_special_tokens,
                  "clean_up_tokenization_spaces": clean_up_tokenization_spaces}  # fmt: skip
        before = len(self.tokenizer.decode(ids, **decode))
        full = return_full_text is not False
        records = []
        for sequence in sequences:
            new = self.tokenizer.decode(sequence, **decode)[before:]
            if chat:
                new = _conversation(one, new, continue_final_message) if full else new
            records.append({"generated_text": one + new if full and not chat else new})
        return records


def _shortened(pipeline: TextGenerationPipeline, ids: list[int], options: Any) -> list[int]:
    """The end of a prompt that leaves room for `max_new_tokens`."""
    new, context = options.get("max_new_tokens"), pipeline.model.config.n_positions
    if new is None or new >= context:
        raise value_error(
            "`handle_long_generation='hole'` needs to know how much room to leave.",
            fix=f"Pass max_new_tokens below {context}.",
            max_new_tokens=new,
        )
    return ids[-(context - new) :]


def _conversation(messages: Any, new: str, continued: bool) -> list[dict[str, Any]]:
    """The conversation with the new text in its last message."""
    messages = [dict(message) for message in messages]
    if continued:
        messages[-1]["content"] += new
        return messages
    return [*messages, {"role": "assistant", "content": new}]
