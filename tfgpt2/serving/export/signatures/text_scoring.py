"""`TextScoringFn`: a signature that reads texts with a function of `tfgpt2.generation.scoring`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import tensorflow as tf

from tfgpt2.generation.params import Prompt
from tfgpt2.serving.export.signatures.base import SignatureFn, SignatureOptions
from tfgpt2.text.generator import TextGenerator
from tfgpt2.text.pipeline import ReadTokens
from tfgpt2.text.prompts import PromptStatus


class TextScoringFn(SignatureFn):
    """A signature of texts with a compiled function of model, ids, mask and prefix.

    Attributes:
        scoring: The function, as a `staticmethod`.
        top_option: Option of the export that is its argument `top`; None where it has none.
    """

    compiled = True
    scoring: ClassVar[Callable[..., Any]]
    read: ReadTokens | None = None  # the tokenizer
    top_option: ClassVar[str | None] = None

    def __init__(self, generator: TextGenerator, options: SignatureOptions) -> None:
        super().__init__(generator, options)
        static = {}
        if self.top_option is not None:
            top = getattr(options, self.top_option)
            static["top"] = min(top, generator.model.config.vocab_size)
        self._scoring = generator.pipeline.compile_scoring(
            functools.partial(self.scoring, generator.model, **static)
        )

    def score(self, text: tf.Tensor) -> tuple[Any, Prompt, PromptStatus, tf.Tensor]:
        """Reads texts: outputs of `scoring`, and the results of `whole_text_prompt`."""
        prompt, status, num_tokens = self.generator.pipeline.whole_text_prompt(text, self.read)
        return self._scoring(prompt), prompt, status, num_tokens

    def token_bytes(self, ids: tf.Tensor) -> tf.Tensor:
        """The bytes of each token: int32 `[...]` -> string `[...]`; empty for -1."""
        flat = self.generator.tokenizer.detokenize_bytes(tf.reshape(ids, [-1, 1]))  # [B * T]
        return tf.ensure_shape(tf.reshape(flat, tf.shape(ids)), ids.shape)
