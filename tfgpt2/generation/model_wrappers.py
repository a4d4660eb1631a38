"""Models as the loop sees them when there is more to read than ids, or another way to read.

    Reader     a prefix, embeddings or an encoder beside the ids
    Uncached   reads the whole text anew for each token; the slow twin of the cache
    Guided     leads away from a negative prompt: classifier-free guidance

Each is a `loop.LanguageModel` around another one, so every strategy works with each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt2.generation.logits.processors import guide
from tfgpt2.generation.request import Context, Program, Prompt, Request


def reader(model: Any, prompt: Prompt, request: Request, program: Program) -> Any:
    """Returns the model as the loop is to see it for a request."""
    model = model if program.use_cache else Uncached(model)
    seen = _with_context(model, prompt)
    if isinstance(request.guidance_scale, tuple):
        return seen
    return Guided(seen, _with_context(model, prompt.negative), prompt.negative, request)


def _with_context(model: Any, prompt: Prompt) -> Any:
    return Reader(model, prompt.context) if prompt.context else model


class Reader:
    """A model that reads what a `Context` says in place of the prompt's ids.

    Args:
        model: The model.
        context: What it reads.
    """

    def __init__(self, model: Any, context: Context) -> None:
        self._model, self._context = model, context

    def _arguments(self, ids: tf.Tensor, columns: tf.Tensor) -> dict[str, Any]:
        own = self._context
        # Columns for the rest are for the rest here, too: a prefix brings its own.
        size = columns - tf.shape(ids)[1] + tf.shape(own.ids)[1]
        found = {"ids": own.ids, "mask": own.mask, "columns": size}
        found |= {} if isinstance(own.embeds, tuple) else {"embeds": own.embeds}
        found |= {"prefix": own.prefix} if own.prefix else {}
        return found | ({"encoder": own.encoder} if own.encoder else {})

    def prefill(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """See `loop.LanguageModel`."""
        return self._model.prefill(**self._arguments(ids, columns))

    def prefill_hidden(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """Returns hidden states `[B, P, D]` and the cache; see `TFGPT2LMHeadModel.prefill_hidden`."""
        return self._model.prefill_hidden(**self._arguments(ids, columns))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)  # reading on is the model's own


class Text(NamedTuple):
    """All that was read so far, to be read again.

    Attributes:
        embeds: Float `[B, S, D]`.
        valid: bool `[B, S]`.
        column: int32 `[]`, where the next token is written.
        prefix: A text that comes before.
        encoder: What cross-attention looks at.
    """

    embeds: tf.Tensor
    valid: tf.Tensor
    column: tf.Tensor
    prefix: Any
    encoder: Any


class Uncached:
    """A model that remembers nothing but the text.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def prefill(
        self,
        ids: tf.Tensor,
        mask: tf.Tensor,
        *,
        columns: tf.Tensor,
        embeds: tf.Tensor | None = None,
        prefix: Any = (),
        encoder: Any = (),
    ) -> tuple[tf.Tensor, Text]:
        """See `loop.LanguageModel`."""
        embeds = self._model.embed(ids) if embeds is None else embeds  # [B, P, D]
        length = tf.shape(ids)[1]
        room = [[0, 0], [0, columns - length]]
        text = Text(
            embeds=tf.pad(embeds, [*room, [0, 0]]),  # [B, S, D]
            valid=tf.pad(tf.cast(mask, tf.bool), room),  # [B, S]
            column=length,
            prefix=prefix,
            encoder=encoder,
        )
        return self._score(text, length - 1, 1)[:, 0], text

    def decode_step(
        self, ids: tf.Tensor, valid: tf.Tensor, cache: Text, *, in_place: bool
    ) -> tuple[tf.Tensor, Text]:
        """See `loop.LanguageModel`."""
        length = tf.shape(ids)[1]
        offset = tf.range(tf.shape(cache.valid)[1]) - cache.column  # [S]
        new = (offset >= 0) & (offset < length)
        source = tf.clip_by_value(offset, 0, length - 1)
        embeds = tf.gather(self._model.embed(ids), source, axis=1)  # [B, S, D]
        text = cache._replace(
            embeds=tf.where(new[None, :, None], embeds, cache.embeds),
            valid=tf.where(new[None], tf.gather(valid, source, axis=1), cache.valid),
            column=cache.column + length,
        )
        return self._score(text, cache.column, length), text

    def rollback(self, cache: Text, before: Text, kept: tf.Tensor, *, width: int) -> Text:
        """See `loop.LanguageModel`; holes are closed at once."""
        offset = tf.range(tf.shape(cache.valid)[1]) - before.column  # [S]
        dropped = (offset >= 0)[None] & (offset[None] >= kept[:, None])  # [B, S]
        hole = tf.cast(~(cache.valid & ~dropped), tf.int32)
        order = tf.argsort(hole, axis=1, stable=True)  # [B, S]
        count = tf.reduce_sum(1 - hole, axis=1)  # [B]
        return cache._replace(
            embeds=tf.ensure_shape(
                tf.gather(cache.embeds, order, batch_dims=1), cache.embeds.shape
            ),
            valid=tf.range(tf.shape(hole)[1])[None] < count[:, None],
            column=tf.reduce_max(count),
        )

    def _score(self, text: Text, first: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
        """Reads the text and scores what follows some columns: float32 `[B, T, V]`."""
        context = {name: getattr(text, name) for name in ("prefix", "encoder")}
        hidden, _ = self._model.prefill_hidden(
            tf.zeros_like(text.valid, tf.int32),
            text.valid,
            columns=tf.shape(text.valid)[1],
            embeds=text.embeds,
            **{name: value for name, value in context.items() if value},
        )  # [B, S, D]
        return self._model.score(tf.gather(hidden, first + tf.range(count), axis=1))

    def embed(self, ids: tf.Tensor) -> tf.Tensor:
        """See `TFGPT2LMHeadModel.embed`."""
        return self._model.embed(ids)


class Pair(NamedTuple):
    """The memories of guidance.

    Attributes:
        prompt: Of the text with its prompt.
        negative: Of the text with the negative prompt.
    """

    prompt: Any
    negative: Any


class Guided:
    """Two readings of one text, after its prompt and after a negative one.

    Args:
        model: Reads the prompt.
        away: Reads the negative prompt.
        negative: The negative prompt.
        request: Holds `guidance_scale`.

    Source: Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance"; transformers 4.57,
        `UnbatchedClassifierFreeGuidanceLogitsProcessor`.
    """

    def __init__(self, model: Any, away: Any, negative: Prompt, request: Request) -> None:
        self._model, self._away, self._negative = model, away, negative
        self._scale = request.guidance_scale

    def prefill(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor
    ) -> tuple[tf.Tensor, Pair]:
        """See `loop.LanguageModel`."""
        other = self._negative
        size = columns - tf.shape(ids)[1] + tf.shape(other.ids)[1]
        logits, cache = self._model.prefill(ids, mask, columns=columns)
        away, memory = self._away.prefill(other.ids, other.mask, columns=size)
        rows = tf.shape(logits)[0]
        # Texts of one prompt come later and share its scale.
        scale = tf.reshape(self._scale, [rows, tf.size(self._scale) // rows])[:, 0]  # [B]
        return guide(logits, away, scale), Pair(cache, memory)

    def decode_step(
        self, ids: tf.Tensor, valid: tf.Tensor, cache: Pair, *, in_place: bool
    ) -> tuple[tf.Tensor, Pair]:
        """See `loop.LanguageModel`."""
        logits, own = self._model.decode_step(ids, valid, cache.prompt, in_place=in_place)
        away, other = self._away.decode_step(ids, valid, cache.negative, in_place=in_place)
        rows, length, size = tf.unstack(tf.shape(logits))
        beams = rows // tf.size(self._scale)
        scale = tf.repeat(self._scale, beams * length)  # [R * T]
        flat = [tf.reshape(x, [rows * length, size]) for x in (logits, away)]
        guided = guide(*flat, scale)
        return tf.ensure_shape(tf.reshape(guided, tf.shape(logits)), logits.shape), Pair(own, other)

    def rollback(self, cache: Pair, before: Pair, kept: tf.Tensor, *, width: int) -> Pair:
        """See `loop.LanguageModel`."""
        return Pair(
            self._model.rollback(cache.prompt, before.prompt, kept, width=width),
            self._away.rollback(cache.negative, before.negative, kept, width=width),
        )
