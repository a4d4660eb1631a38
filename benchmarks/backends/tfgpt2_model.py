"""This package: float32, int8, bfloat16 and float16."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import protocol


class Model(protocol.Backend):
    """`TFGPT2LMHeadModel.generate`, and two kinds of work that only this package has."""

    def load(self) -> None:
        """Load the checkpoint."""
        import tfgpt2

        options = {"quantize": "int8"} if self.variant == "int8" else {"dtype": self.variant}
        self._model = tfgpt2.TFGPT2LMHeadModel.from_pretrained(self.folder, **options)
        self._bare: Any = None
        self._generators: dict[int, Any] = {}

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy decoding."""
        return self._generate(ids, new, do_sample=False)

    def sample(self, ids: np.ndarray, new: int, top_p: float) -> np.ndarray:
        """Nucleus sampling."""
        return self._generate(ids, new, do_sample=True, top_k=0, top_p=top_p, seed=1)

    def beam(self, ids: np.ndarray, new: int, beams: int) -> np.ndarray:
        """Beam search."""
        return self._generate(ids, new, do_sample=False, num_beams=beams)

    def bare_loop(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy decoding by a minimal compiled loop over `prefill` and `decode_step`.

        The difference from `decode` is the cost of the generation options.
        """
        import tensorflow as tf

        if self._bare is None:
            self._bare = tf.function(self._bare_loop, jit_compile=True, autograph=False)
        return self._bare(tf.constant(ids), tf.zeros([len(ids), new], tf.int32)).numpy()

    def buffer(self, size: int, new: int) -> dict[str, float]:
        """Greedy decoding of `new` tokens with an output buffer of a given size.

        The number of tokens is a tensor, not a shape, so all values of `new` share one program.
        """
        import tfgpt2

        if size not in self._generators:
            self._generators[size] = tfgpt2.TextGenerator(
                self._model,
                tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny"),
                prompt_buckets=[32],
                output_buckets=[size],
            )
        options = {"max_new_tokens": new, "min_new_tokens": new, "temperature": 0.0}
        start = time.perf_counter()
        found = self._generators[size].generate("To be", details=True, **options)
        seconds = time.perf_counter() - start
        if len(found.token_ids) != new:
            raise ValueError(f"expected {new} tokens, got {len(found.token_ids)}")
        return {"seconds": seconds}

    def _generate(self, ids: np.ndarray, new: int, **how: Any) -> np.ndarray:
        found = self._model.generate(ids, max_new_tokens=new, eos_token_id=None, **how)
        return found.numpy()[:, ids.shape[1] :]

    def _bare_loop(self, ids: Any, buffer: Any) -> Any:
        """Greedy tokens int32 `[B, new]`, in the shape of `buffer`."""
        import tensorflow as tf

        columns = tf.shape(ids)[1] + tf.shape(buffer)[1]
        logits, cache = self._model.prefill(ids, tf.ones_like(ids), columns=columns)
        token = tf.argmax(logits, -1, tf.int32)  # [B]
        everywhere = tf.ones_like(token, tf.bool)[:, None]  # [B, 1]
        index = tf.range(tf.shape(buffer)[1])[None]  # [1, new]

        def step(count: Any, token: Any, tokens: Any, cache: Any) -> Any:
            logits, cache = self._model.decode_step(
                token[:, None], everywhere, cache, in_place=True
            )
            token = tf.argmax(logits[:, 0], -1, tf.int32)  # [B]
            tokens = tf.where(index == count, token[:, None], tokens)
            return count + 1, token, tokens, cache

        start = (tf.constant(1), token, tf.where(index == 0, token[:, None], buffer), cache)
        return tf.while_loop(lambda count, *_: count < tf.shape(buffer)[1], step, start)[2]


class RandomModel(protocol.Backend):
    """Random weights in one of the published sizes; the variant is its name."""

    SHAPES = {
        "gpt2": (12, 768, 12),
        "gpt2-medium": (24, 1024, 16),
        "gpt2-large": (36, 1280, 20),
        "gpt2-xl": (48, 1600, 25),
    }

    def load(self) -> None:
        """Build the model."""
        import tfgpt2

        layers, width, heads = self.SHAPES[self.variant]
        config = tfgpt2.GPT2Config(n_layer=layers, n_embd=width, n_head=heads)
        self._model = tfgpt2.TFGPT2LMHeadModel(config)

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy decoding."""
        found = self._model.generate(ids, max_new_tokens=new, eos_token_id=None, do_sample=False)
        return found.numpy()[:, ids.shape[1] :]


def make(folder: Any, variant: str) -> protocol.Backend:
    """Create the backend of a variant."""
    return (RandomModel if variant in RandomModel.SHAPES else Model)(folder, variant)


if __name__ == "__main__":
    protocol.serve(make, ["tfgpt2", "tfgpt2.models.causal_lm"])
