"""Scoring and generation by the signatures of an exported SavedModel."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)

from tfgpt2.errors import explain, value_error
from tfgpt2.evaluation.scoring import Score, ScoringRequest, batches

_SCORING = ({"tokenize", "detokenize", "inspect"}, {"tokenize", "detokenize", "score", "generate"})


class ExportedModel:
    """An export as a backend of the harness.

    Signatures take text, so the tokens of a request are converted to text and must be tokenized
    to the same tokens. Those of complete texts are; a window that begins within a character or a
    longer token may not be, and is refused. The last target is an input, too, so one token less
    fits than in an in-memory model. Scores come from `inspect`, whose ranks show whether a target
    is the likeliest token, or else from `score`, with a greedy `generate` compared to the targets.

    Args:
        directory: Version directory of the export.
        batch_size: Rows in a batch.

    Raises:
        FileNotFoundError: There is no SavedModel.
        ValueError: The export lacks signatures.
    """

    def __init__(self, directory: str | os.PathLike[str], batch_size: int) -> None:
        if not (Path(directory) / "saved_model.pb").is_file():
            raise FileNotFoundError(
                explain(
                    "There is no SavedModel in this directory.",
                    fix="Pass a version directory, such as saved_models/gpt2/1.",
                    saved_model=str(directory),
                )
            )
        self._loaded = tf.saved_model.load(str(directory))
        self._batch_size = batch_size
        names = set(self._loaded.signatures)
        if not any(needed <= names for needed in _SCORING):
            raise value_error(
                "The export cannot be evaluated: it must have the signatures tokenize,"
                " detokenize and inspect (or score and generate).",
                fix="Export it with its default signatures.",
                signatures=sorted(names),
            )
        self._inspects = "inspect" in names

    @functools.cached_property
    def longest(self) -> int:
        """Most input tokens of a request: the context without the last target.

        No signature returns the context, but `truncated` of a long text gives it.
        """
        text, size = "a b", 1024
        while True:
            found = self._call("inspect" if self._inspects else "score", [text * size])
            cut = int(found["truncated"][0])
            if cut:
                return len(self.encode(text * size)) - cut - 1
            size *= 4

    @functools.lru_cache(maxsize=100_000)  # noqa: B019  (lives as long as the model)
    def _token_bytes(self, token: int) -> bytes:
        """The bytes of a token; of a known special token, its text."""
        found = self._call("detokenize", [[token]], tf.int32, name="ids")["text_bytes"][0]
        return found or self._special.get(token, b"")

    @functools.cached_property
    def _special(self) -> dict[int, bytes]:
        """Text of the special tokens, which `detokenize` leaves out, by id."""
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

    def score(self, requests: Sequence[ScoringRequest], *, progress: bool = False) -> list[Score]:
        """Scores requests; the arguments are those of `Scorer.score`.

        Raises:
            ValueError: The tokens of a request are not those of their text.
        """
        scores: list[Score] = []
        for batch in batches(requests, self._batch_size, progress):
            tokens = [[*inputs, targets[-1]] for inputs, targets in batch]
            counts = [len(targets) for _, targets in batch]
            out = self._call("inspect" if self._inspects else "score", self._texts(tokens))
            scored = [
                (row, slice(len(ids) - count, len(ids)))
                for row, (ids, count) in enumerate(zip(tokens, counts, strict=True))
            ]
            if self._inspects:
                greedy = [bool((out["ranks"][place] == 1).all()) for place in scored]
            else:
                greedy = self._greedy(tokens, counts)
            logprobs = [out["token_logprobs"][place].astype(np.float64) for place in scored]
            scores += map(Score, logprobs, greedy)
        return scores

    def _greedy(self, tokens: list[list[int]], counts: list[int]) -> list[bool]:
        """Whether greedy decoding gives the last tokens of each row."""
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
        """Generates continuations of prompts.

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
            if reason in (b"prompt_too_long", b"empty_prompt", b"unknown_token"):
                raise value_error(
                    "The export refused a prompt.",
                    fix="Export with on_long_prompt='truncate_left', and pass no empty prompt.",
                    finish_reason=reason.decode(),
                    prompt=prompts[row],
                )
        return [text.decode() for text in out["text"].numpy()]

    def _texts(self, tokens: list[list[int]]) -> list[bytes]:
        """The texts of rows of tokens.

        Raises:
            ValueError: A text is tokenized to other tokens.
        """
        texts = [b"".join(map(self._token_bytes, ids)) for ids in tokens]
        for ids, text, back in zip(tokens, texts, self._encode(texts), strict=True):
            if ids != back:
                raise value_error(
                    "The export takes text, and the text of these tokens is tokenized differently:"
                    " a window or a context ends within a character or a longer token.",
                    fix="Evaluate the model itself: pretrained=... instead of saved_model=...",
                    text=text[-80:],
                    tokens=ids[-8:],
                    tokens_of_the_text=back[-8:],
                )
        return texts

    def _call(
        self, signature: str, values: Any, dtype: tf.DType = tf.string, name: str = "text"
    ) -> dict[str, np.ndarray]:
        """Runs a signature on one tensor."""
        out = self._loaded.signatures[signature](**{name: tf.constant(values, dtype)})
        return {key: value.numpy() for key, value in out.items()}
