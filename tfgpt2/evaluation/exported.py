"""An exported SavedModel as something that scores tokens and continues texts."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)

from tfgpt2.errors import explain
from tfgpt2.evaluation.scoring import Request, Score, batches

_SCORING = ({"tokenize", "detokenize", "inspect"}, {"tokenize", "detokenize", "score", "generate"})


class ExportedModel:
    """Scores and continues with nothing but an export's signatures.

    What they limit: they take text, so the tokens of a request are turned into text and must come
    back as the same tokens. Those of whole texts do; a window that begins within a character, or
    where a longer token ended, need not, and is refused. The last target is read, too, so that one
    token less fits than in a live model. Scores come from `inspect` (whose ranks say whether a
    target was the likeliest token), else from `score`, and then a greedy `generate` of as many
    tokens is compared with the targets.

    Args:
        directory: Version directory of the export.
        batch_size: Rows that are sent at once.

    Raises:
        FileNotFoundError: There is no SavedModel.
        ValueError: The export lacks signatures.
    """

    def __init__(self, directory: str | os.PathLike[str], batch_size: int) -> None:
        if not (Path(directory) / "saved_model.pb").is_file():
            raise FileNotFoundError(
                explain(
                    "There is no SavedModel in this directory.",
                    fix="Name a version directory, such as saved_models/gpt2/1.",
                    saved_model=str(directory),
                )
            )
        self._loaded = tf.saved_model.load(str(directory))
        self._batch_size = batch_size
        names = set(self._loaded.signatures)
        if not any(needed <= names for needed in _SCORING):
            raise ValueError(
                explain(
                    "The export cannot be evaluated: it must have the signatures tokenize,"
                    " detokenize and inspect (or score and generate).",
                    fix="Export it with its default signatures.",
                    signatures=sorted(names),
                )
            )
        self._inspects = "inspect" in names

    @functools.cached_property
    def longest(self) -> int:
        """Most tokens of a request's inputs: the context less the last target.

        No signature says what the context is; a text that exceeds it says what was cut off.
        """
        text, size = "a b", 1024
        while True:
            found = self._call("inspect" if self._inspects else "score", [text * size])
            cut = int(found["truncated"][0])
            if cut:
                return len(self.encode(text * size)) - cut - 1
            size *= 4

    @functools.lru_cache(maxsize=100_000)  # noqa: B019  (lives as long as the model does)
    def _piece(self, token: int) -> bytes:
        """The bytes of a token; those of a special token are its text, where a probe finds it."""
        found = self._call("detokenize", [[token]], tf.int32, name="ids")["text_bytes"][0]
        return found or self._special.get(token, b"")

    @functools.cached_property
    def _special(self) -> dict[int, bytes]:
        """Special tokens, which `detokenize` leaves out, by id."""
        known = ("<|endoftext|>", "<|startoftext|>", "<|pad|>")
        encoded = {text: self.encode(text) for text in known}
        return {ids[0]: text.encode() for text, ids in encoded.items() if len(ids) == 1}

    def encode(self, text: str | bytes) -> list[int]:
        """Tokenizes."""
        return self._encode([text])[0]

    def _encode(self, texts: Sequence[str | bytes]) -> list[list[int]]:
        found = self._call("tokenize", texts)
        rows = zip(found["ids"], found["num_tokens"], strict=True)
        return [ids[:count].tolist() for ids, count in rows]

    def score(self, requests: Sequence[Request], *, progress: bool = False) -> list[Score]:
        """Scores requests; the arguments are those of `Scorer.score`.

        Raises:
            ValueError: The tokens of a request are not those of their text.
        """
        found: list[Score] = []
        for batch in batches(requests, self._batch_size, progress):
            tokens = [[*inputs, targets[-1]] for inputs, targets in batch]
            texts = self._texts(tokens)
            counts = [len(targets) for _, targets in batch]
            out = self._call("inspect" if self._inspects else "score", texts)
            scored = [
                out["token_logprobs"][row, len(ids) - count : len(ids)].astype(np.float64)
                for row, (ids, count) in enumerate(zip(tokens, counts, strict=True))
            ]
            if self._inspects:
                best = [
                    bool((out["ranks"][row, len(ids) - count : len(ids)] == 1).all())
                    for row, (ids, count) in enumerate(zip(tokens, counts, strict=True))
                ]
            else:
                best = self._greedy(tokens, counts)
            found += [Score(*pair) for pair in zip(scored, best, strict=True)]
        return found

    def _greedy(self, tokens: list[list[int]], counts: list[int]) -> list[bool]:
        """Says whether greedy decoding gives the last tokens of each row."""
        contexts = [ids[:-count] for ids, count in zip(tokens, counts, strict=True)]
        out = self._loaded.generate(
            tf.constant(self._texts(contexts)),
            max_new_tokens=tf.constant(counts),
            temperature=tf.zeros([1]),
        )
        new, lengths = out["token_ids"].numpy(), out["num_tokens"].numpy()
        return [
            new[row, : lengths[row]].tolist() == ids[-count:]
            for row, (ids, count) in enumerate(zip(tokens, counts, strict=True))
        ]

    def generate(self, prompts: list[str], stop: list[str], options: dict[str, Any]) -> list[str]:
        """Continues prompts.

        Raises:
            ValueError: The export refuses a prompt.
        """
        kinds = {"max_new_tokens": tf.int32, "top_k": tf.int32, "seed": tf.int64}
        settings = {
            name: tf.constant([value], kinds.get(name, tf.float32))
            for name, value in options.items()
        }
        out = self._loaded.generate(
            tf.constant(prompts), **settings, stop=tf.constant([stop or [""]])
        )
        for row, reason in enumerate(out["finish_reason"].numpy().tolist()):
            if reason in (b"prompt_too_long", b"empty_prompt"):
                raise ValueError(
                    explain(
                        "The export did not continue a prompt.",
                        fix="Export with on_long_prompt='truncate_left', and give no empty prompt.",
                        finish_reason=reason.decode(),
                        prompt=prompts[row],
                    )
                )
        return [text.decode() for text in out["text"].numpy()]

    def _texts(self, tokens: list[list[int]]) -> list[bytes]:
        """The texts of rows of tokens.

        Raises:
            ValueError: A text has other tokens.
        """
        texts = [b"".join(map(self._piece, ids)) for ids in tokens]
        for ids, text, back in zip(tokens, texts, self._encode(texts), strict=True):
            if ids != back:
                raise ValueError(
                    explain(
                        "The export takes text, and these tokens are not those of their text: a"
                        " window or a context ends within a character or a longer token.",
                        fix="Evaluate the model itself: pretrained=... in place of saved_model=...",
                        text=text[-80:],
                        tokens=ids[-8:],
                        tokens_of_the_text=back[-8:],
                    )
                )
        return texts

    def _call(
        self, signature: str, values: Any, dtype: tf.DType = tf.string, name: str = "text"
    ) -> dict[str, np.ndarray]:
        """Runs a signature on one tensor."""
        out = self._loaded.signatures[signature](**{name: tf.constant(values, dtype)})
        return {key: value.numpy() for key, value in out.items()}
