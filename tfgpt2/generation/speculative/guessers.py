"""Guessing tokens ahead: from the text itself, or with a small model.

A guess only has to be cheap. The loop chooses every token itself and keeps those guesses that
equal its choice, so a wrong one costs a little time and never a token.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgpt2.generation.logits import pipeline as rules
from tfgpt2.generation.logits.sampling import argmax
from tfgpt2.generation.request import History, Program, Prompt, Request
from tfgpt2.generation.strategies.sampling import Guess, LanguageModel, State, repeat


class Lookup:
    """Guesses that what followed the last tokens before will follow them again.

    Args:
        program: Its `lookahead` tokens are guessed where the text's last tokens, `longest_match`
            or fewer of them, occurred before.

    Source: Saxena 2023, "Prompt Lookup Decoding".
    """

    def __init__(self, program: Program) -> None:
        self._count, self._longest = program.lookahead, program.longest_match

    def start(self, prompt: Prompt, request: Request, size: tf.Tensor) -> tuple[()]:
        """See `loop.Guesser`; it remembers nothing."""
        return ()

    def guess(self, memory: tuple[()], history: History, state: State, request: Request) -> Guess:
        """See `loop.Guesser`."""
        place, found = last_match(history, self._longest)  # [R]
        end = history.prompt + history.count  # [R], one after the last token
        # A text that repeats itself goes on repeating itself.
        period = tf.maximum(end - place - 1, 1)
        offset = tf.range(self._count)[None] % period[:, None]  # [R, G]
        column = tf.minimum(place[:, None] + 1 + offset, tf.shape(history.ids)[1] - 1)
        tokens = tf.gather(history.ids, column, batch_dims=1)  # [R, G]
        running = state.reason == 0
        return Guess(tokens, tf.reduce_any(found & running), ())

    def rollback(self, memory: tuple[()], before: tuple[()], kept: tf.Tensor) -> tuple[()]:
        """See `loop.Guesser`."""
        return ()


def last_match(history: History, longest: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds where a text's last tokens occurred before.

    Args:
        history: The texts.
        longest: Most tokens to compare; of the places with as many equal ones, the last counts.

    Returns:
        int32 `[R]`, the column where the earlier occurrence ends, and bool `[R]`, whether there
        is one of at least one token.

    Example:
        >>> history = History(tf.constant([[5, 6, 7, 5, 6]]), tf.fill([1, 5], True),
        ...                   tf.constant(5), tf.constant([0]))
        >>> [int(x[0]) for x in last_match(history, 3)]
        [1, 1]
    """
    ids, size = tf.where(history.mask, history.ids, -1), tf.shape(history.ids)[1]
    columns = tf.range(size)[None]  # [1, S]
    end = (history.prompt + history.count)[:, None]  # [R, 1]
    same = tf.ones_like(ids, tf.bool) & (columns < end - 1)  # [R, S]
    length = tf.zeros_like(ids)  # [R, S], tokens that are equal up to a column
    for back in range(longest):
        token = tf.gather(ids, tf.maximum(end - 1 - back, 0), batch_dims=1)  # [R, 1]
        shifted = tf.pad(ids, [[0, 0], [back, 0]], constant_values=-1)[:, :size]  # [R, S]
        same &= (shifted == token) & (shifted >= 0)
        length += tf.cast(same, tf.int32)
    key = tf.where(length > 0, length * size + columns, -1)  # [R, S]
    best = tf.reduce_max(key, axis=1)
    return tf.maximum(best, 0) % size, best >= 0


class Draft:
    """Guesses with a smaller model that has the same vocabulary.

    It draws with the random numbers that the loop will draw with, so that where the two models
    agree about the likely tokens they draw the same one.

    Args:
        model: The small model.
        program: Its `lookahead` tokens are guessed.
        in_place: Compiled by XLA.

    Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
        for guessing with a small model; the shared noise is the Gumbel coupling of Daliri et al.
        2024, "Coupling without Communication and Drafter-Invariant Speculative Decoding".
    """

    def __init__(self, model: LanguageModel, program: Program, *, in_place: bool) -> None:
        self._model, self._program, self._in_place = model, program, in_place

    def start(self, prompt: Prompt, request: Request, size: tf.Tensor) -> Any:
        """See `loop.Guesser`: it reads the prompts."""
        _, cache = self._model.prefill(prompt.ids, prompt.mask, columns=size)
        return repeat(cache, self._program.texts)

    def guess(self, memory: Any, history: History, state: State, request: Request) -> Guess:
        """See `loop.Guesser`."""
        count = self._program.lookahead

        def body(place: tf.Tensor, token: tf.Tensor, guesses: tf.Tensor, cache: Any) -> Any:
            valid = tf.ones_like(token, tf.bool)[:, None]  # [R, 1]
            logits, cache = self._model.decode_step(
                token[:, None], valid, cache, in_place=self._in_place
            )
            scores = rules.warped(logits[:, 0], request)
            token = argmax(rules.noisy(scores, request, state.count + place))  # [R]
            here = tf.range(count)[None] == place  # [1, G]
            return place + 1, token, tf.where(here, token[:, None], guesses), cache

        # One step more than there are guesses: the last one must have been read, too.
        none = tf.zeros([tf.shape(state.token)[0], count], tf.int32)
        _, _, guesses, cache = tf.while_loop(
            lambda place, *_: place <= count, body, (tf.constant(0), state.token, none, memory)
        )
        return Guess(guesses, tf.constant(True), cache)

    def rollback(self, memory: Any, before: Any, kept: tf.Tensor) -> Any:
        """See `loop.Guesser`."""
        return self._model.rollback(memory, before, kept, width=self._program.lookahead + 1)
