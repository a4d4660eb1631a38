"""This package: float32, int8, bfloat16 and float16."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import protocol


class Ours(protocol.Peer):
    """`TFGPT2LMHeadModel.generate`, as a user calls it, and some cases of its own."""

    def load(self) -> None:
        """Loads the checkpoint."""
        import tfgpt2

        options = {"quantize": "int8"} if self.variant == "int8" else {"dtype": self.variant}
        self._model = tfgpt2.TFGPT2LMHeadModel.from_pretrained(self.folder, **options)
        self._core: Any = None
        self._generators: dict[int, Any] = {}

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy."""
        return self._generate(ids, new, do_sample=False)

    def sample(self, ids: np.ndarray, new: int, top_p: float) -> np.ndarray:
        """Draws from the nucleus."""
        return self._generate(ids, new, do_sample=True, top_k=0, top_p=top_p, seed=1)

    def beam(self, ids: np.ndarray, new: int, beams: int) -> np.ndarray:
        """Beam search."""
        return self._generate(ids, new, do_sample=False, num_beams=beams)

    def core(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy, by the shortest loop there is over the model's two methods, compiled.

        What `decode` takes beyond it is the price of everything a request may ask.
        """
        import tensorflow as tf

        if self._core is None:
            self._core = tf.function(self._bare_loop, jit_compile=True, autograph=False)
        return self._core(tf.constant(ids), tf.zeros([len(ids), new], tf.int32)).numpy()

    def buffer(self, room: int, new: int) -> dict[str, float]:
        """Decodes with an output buffer of `room` tokens, of which `new` are used.

        The number of tokens is a value and not a shape, so all of `new` run one program.
        """
        import tfgpt2

        if room not in self._generators:
            self._generators[room] = tfgpt2.TextGenerator(
                self._model,
                tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny"),
                prompt_buckets=[32],
                output_buckets=[room],
            )
        options = {"max_new_tokens": new, "min_new_tokens": new, "temperature": 0.0}
        start = time.perf_counter()
        found = self._generators[room].generate("To be", details=True, **options)
        seconds = time.perf_counter() - start
        if len(found.token_ids) != new:
            raise ValueError(f"asked for {new} tokens, got {len(found.token_ids)}")
        return {"seconds": seconds}

    def _generate(self, ids: np.ndarray, new: int, **how: Any) -> np.ndarray:
        found = self._model.generate(ids, max_new_tokens=new, eos_token_id=None, **how)
        return found.numpy()[:, ids.shape[1] :]

    def _bare_loop(self, ids: Any, room: Any) -> Any:
        """Greedy tokens int32 `[B, new]`; the shape of `room` says how many."""
        import tensorflow as tf

        columns = tf.shape(ids)[1] + tf.shape(room)[1]
        logits, cache = self._model.prefill(ids, tf.ones_like(ids), columns=columns)
        token = tf.argmax(logits, -1, tf.int32)  # [B]
        everywhere = tf.ones_like(token, tf.bool)[:, None]  # [B, 1]
        place = tf.range(tf.shape(room)[1])[None]  # [1, new]

        def step(count: Any, token: Any, tokens: Any, cache: Any) -> Any:
            logits, cache = self._model.decode_step(
                token[:, None], everywhere, cache, in_place=True
            )
            token = tf.argmax(logits[:, 0], -1, tf.int32)  # [B]
            tokens = tf.where(place == count, token[:, None], tokens)
            return count + 1, token, tokens, cache

        start = (tf.constant(1), token, tf.where(place == 0, token[:, None], room), cache)
        return tf.while_loop(lambda count, *_: count < tf.shape(room)[1], step, start)[2]


class Shape(protocol.Peer):
    """Random weights in one of the published shapes; the variant is its name."""

    SHAPES = {
        "gpt2": (12, 768, 12),
        "gpt2-medium": (24, 1024, 16),
        "gpt2-large": (36, 1280, 20),
        "gpt2-xl": (48, 1600, 25),
    }

    def load(self) -> None:
        """Makes the model."""
        import tfgpt2

        layers, width, heads = self.SHAPES[self.variant]
        config = tfgpt2.GPT2Config(n_layer=layers, n_embd=width, n_head=heads)
        self._model = tfgpt2.TFGPT2LMHeadModel(config)

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy."""
        found = self._model.generate(ids, max_new_tokens=new, eos_token_id=None, do_sample=False)
        return found.numpy()[:, ids.shape[1] :]


def make(folder: Any, variant: str) -> protocol.Peer:
    """The peer of a variant."""
    return (Shape if variant in Shape.SHAPES else Ours)(folder, variant)


if __name__ == "__main__":
    protocol.serve(make, ["tfgpt2", "tfgpt2.models.causal_lm"])
