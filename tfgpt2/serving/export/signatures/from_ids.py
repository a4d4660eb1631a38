"""`generate_ids` and `inspect_ids`: signatures whose prompts are token ids.

A text cannot say everything that ids can: special tokens may look like ordinary text, and the same
text may be cut into other tokens. Ids are written as decimal numbers in a string, `"15496 11 995"`,
so that a prompt is one value of rank 1, and prompts of any length share a batch in every server.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfgpt2.generation.scoring import left_align
from tfgpt2.serving.export.signatures.base import (
    TEXT,
    SignatureOptions,
    Tensors,
    WarmupShapes,
)
from tfgpt2.serving.export.signatures.generate import Generate
from tfgpt2.serving.export.signatures.inspect import Inspect
from tfgpt2.text.generator import TextGenerator

_IDS = tf.TensorSpec([None], tf.string, name="ids")
_UNKNOWN = np.int32(2**31 - 1)  # is the id of no token


def read_ids(text: tf.Tensor) -> tf.RaggedTensor:
    """Reads ids written as decimal numbers with spaces between them.

    Args:
        text: string `[B]`. What is not a number becomes an id that no model has, since a graph
            cannot raise for one row.

    Returns:
        int32 `[B, (P)]`.

    Example:
        >>> read_ids(tf.constant(["7 12", "", "x 1"])).to_list()
        [[7, 12], [], [2147483647, 1]]
    """
    words = tf.strings.split(text)  # [B, (P)]
    flat = words.flat_values
    known = tf.strings.regex_full_match(flat, "[0-9]{1,9}")
    ids = tf.strings.to_number(tf.where(known, flat, "0"), tf.int32)
    return words.with_flat_values(tf.where(known, ids, _UNKNOWN))


class GenerateIds(Generate):
    """`generate` with ids as prompts; it shares the compiled function."""

    name = "generate_ids"
    program = "generate_ids"
    read = staticmethod(read_ids)

    def __init__(self, generator: TextGenerator, options: SignatureOptions) -> None:
        super().__init__(generator, options)
        self.inputs = (_IDS, *self.inputs[1:])
        self.padding_values = {**self.padding_values, "ids": ""}

    def to_rows(self, inputs: Tensors) -> Tensors:
        """See `Generate.to_rows`; ids stand in the place of texts."""
        return super().to_rows(_rename(inputs))

    def probe_inputs(self, text: tf.Tensor) -> Tensors | None:
        """The prompts of `generate` as ids."""
        settings = {k: x for k, x in super().probe_inputs(text).items() if k != "text"}
        return {"ids": write_ids(self.generator.pipeline.tokenize_prompts(text)), **settings}

    def warmup_inputs(self, shapes: WarmupShapes) -> list[Tensors]:
        """A single request: `generate` compiles the same programs."""
        return [self.padding_request()]


class InspectIds(Inspect):
    """`inspect` with ids in place of texts, and ids and log-probabilities of alternatives."""

    name = "inspect_ids"
    inputs = (_IDS,)
    padding_values = {"text": "", "ids": ""}
    ragged_outputs = ("token_bytes", "text_sizes", "token_logprobs", "ranks", "top_ids",
                      "top_bytes", "top_logprobs")  # fmt: skip
    record = None
    read = staticmethod(read_ids)

    def __call__(self, inputs: Tensors) -> Tensors:
        """Ids `[B]` -> tokens `[B, T]` and alternatives `[B, T, N]`."""
        scores, prompt, status, num_tokens = self.score(inputs["text"])
        logprobs, ranks, ids, top_logprobs = (left_align(values, num_tokens) for values in scores)
        tokens = left_align(prompt.ids + 1, num_tokens) - 1  # [B, T], -1 after a row's end
        follows = (ranks > 0)[..., None]  # [B, T, 1]
        shown = self.generator.tokenizer.detokenize_bytes(
            tf.reshape(tokens, [-1, 1]), skip_special_tokens=True
        )  # [B * T]
        return {
            "token_bytes": self.token_bytes(tokens),  # [B, T]
            "text_sizes": tf.reshape(tf.strings.length(shown), tf.shape(tokens)),  # [B, T]
            "token_logprobs": logprobs,
            "ranks": ranks,
            "top_ids": tf.where(follows, ids, -1),  # [B, T, N]
            "top_bytes": self.token_bytes(tf.where(follows, ids, -1)),  # [B, T, N]
            "top_logprobs": tf.where(follows, top_logprobs, 0.0),
            "num_tokens": num_tokens,
            "truncated": status.truncated,
        }

    @property
    def row_inputs(self) -> tuple[tf.TensorSpec, ...]:
        """Ids in the place of texts."""
        return (TEXT,)

    def to_rows(self, inputs: Tensors) -> Tensors:
        """Ids stand in the place of texts."""
        return _rename(inputs)

    def probe_inputs(self, text: tf.Tensor) -> Tensors | None:
        """The texts as ids."""
        return {"ids": write_ids(self.generator.pipeline.tokenize_prompts(text))}

    def warmup_inputs(self, shapes: WarmupShapes) -> Iterator[Tensors]:
        """A request for each batch size and prompt bucket."""
        for inputs in super().warmup_inputs(shapes):
            yield self.probe_inputs(inputs["text"])


def _rename(inputs: Tensors) -> Tensors:
    return {"text" if name == "ids" else name: value for name, value in inputs.items()}


def write_ids(tokens: tf.RaggedTensor) -> tf.Tensor:
    """Writes ids as `read_ids` reads them: int32 `[B, (P)]` -> string `[B]`."""
    return tf.strings.reduce_join(tf.strings.as_string(tokens), axis=1, separator=" ")
