"""Models as decoding sees them when there is more to read than ids, or another way to read.

    CacheDtypeModel     keeps keys and values in another dtype than it computes in
    PromptContextModel  reads a prefix, embeddings or an encoder beside the ids
    UncachedModel       reads the whole sequence again for each token; the slow twin of the cache
    GuidedModel         leads away from a negative prompt; see `guidance`

Each is a `LanguageModel` around another one, so every strategy works with each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt2.generation.guidance import GUIDANCE_SCALE, GuidedModel
from tfgpt2.generation.params import DecodeSpec, Prompt, PromptContext, SamplingParams
from tfgpt2.nn.kv_cache import cast_cache


def wrap_model(model: Any, prompt: Prompt, params: SamplingParams, spec: DecodeSpec) -> Any:
    """Returns the model as decoding is to see it for a request."""
    model = model if spec.use_cache else UncachedModel(model)
    wrapped = _with_context(model, prompt)
    if GUIDANCE_SCALE.name not in params.options:
        return wrapped
    return GuidedModel(wrapped, _with_context(model, prompt.negative), prompt.negative, params)


def _with_context(model: Any, prompt: Prompt) -> Any:
    return PromptContextModel(model, prompt.context) if prompt.context else model


class CacheDtypeModel:
    """Keeps keys and values in a dtype of its own.

    Prompts are read in the model's dtype, and what is kept of them is cast; see `kv_cache.pack`.

    Args:
        model: The model.
        dtype: One of `kv_cache.CACHE_DTYPES`.
    """

    def __init__(self, model: Any, dtype: str) -> None:
        self._model, self._dtype = model, dtype

    def prefill(self, *args: Any, **kwargs: Any) -> tuple[tf.Tensor, Any]:
        """See `LanguageModel`."""
        logits, cache = self._model.prefill(*args, **kwargs)
        return logits, cast_cache(cache, self._dtype)

    def prefill_hidden(self, *args: Any, **kwargs: Any) -> tuple[tf.Tensor, Any]:
        """See `TFGPT2LMHeadModel.prefill_hidden`."""
        hidden, cache = self._model.prefill_hidden(*args, **kwargs)
        return hidden, cast_cache(cache, self._dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)  # what is written later takes the cache's dtype


class PromptContextModel:
    """Reads what a `PromptContext` holds in place of the prompt's ids.

    Args:
        model: The model.
        context: What it reads.
    """

    def __init__(self, model: Any, context: PromptContext) -> None:
        self._model, self._context = model, context

    def _arguments(self, ids: tf.Tensor, columns: tf.Tensor) -> dict[str, Any]:
        own = self._context
        # Columns for the rest are for the rest here, too: a prefix brings its own.
        size = columns - tf.shape(ids)[1] + tf.shape(own.ids)[1]
        found = {"ids": own.ids, "mask": own.mask, "columns": size}
        found |= {} if isinstance(own.embeds, tuple) else {"embeds": own.embeds}
        found |= {"prefix": own.prefix} if own.prefix else {}
        found |= {} if isinstance(own.token_types, tuple) else {"token_types": own.token_types}
        return found | ({"encoder": own.encoder} if own.encoder else {})

    def prefill(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """See `LanguageModel`."""
        return self._model.prefill(**self._arguments(ids, columns))

    def prefill_hidden(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """See `TFGPT2LMHeadModel.prefill_hidden`."""
        return self._model.prefill_hidden(**self._arguments(ids, columns))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)  # reading on is the model's own


class SequenceSoFar(NamedTuple):
    """All that was read so far, to be read again; the "cache" of an `UncachedModel`.

    Attributes:
        embeds: Float `[B, S, D]`.
        valid: bool `[B, S]`.
        column: int32 `[]`, where the next token is written.
        prefix: What comes before.
        encoder: Input of cross-attention.
        token_type: int32 `[B]`, the type of what is generated, or nothing.
    """

    embeds: tf.Tensor
    valid: tf.Tensor
    column: tf.Tensor
    prefix: Any
    encoder: Any
    token_type: Any = ()


class UncachedModel:
    """Keeps no keys and values but the sequence itself.

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
        token_types: tf.Tensor | tuple[()] = (),
    ) -> tuple[tf.Tensor, SequenceSoFar]:
        """See `LanguageModel`."""
        embeds = self._model.embed(ids) if embeds is None else embeds  # [B, P, D]
        typed = not isinstance(token_types, tuple)
        if typed:
            embeds += self._model.embed(token_types)
        length = tf.shape(ids)[1]
        padding = [[0, 0], [0, columns - length]]
        text = SequenceSoFar(
            embeds=tf.pad(embeds, [*padding, [0, 0]]),  # [B, S, D]
            valid=tf.pad(tf.cast(mask, tf.bool), padding),  # [B, S]
            column=length,
            prefix=prefix,
            encoder=encoder,
            token_type=token_types[:, -1] if typed else (),  # [B]
        )
        return self._score(text, length - 1, 1)[:, 0], text

    def decode_step(
        self, ids: tf.Tensor, valid: tf.Tensor, cache: SequenceSoFar, *, in_place: bool
    ) -> tuple[tf.Tensor, SequenceSoFar]:
        """See `LanguageModel`."""
        length = tf.shape(ids)[1]
        offset = tf.range(tf.shape(cache.valid)[1]) - cache.column  # [S]
        new = (offset >= 0) & (offset < length)
        source = tf.clip_by_value(offset, 0, length - 1)
        embeds = self._model.embed(ids)  # [B, T, D]
        if not isinstance(cache.token_type, tuple):
            embeds += self._model.embed(cache.token_type[:, None])
        embeds = tf.gather(embeds, source, axis=1)  # [B, S, D]
        text = cache._replace(
            embeds=tf.where(new[None, :, None], embeds, cache.embeds),
            valid=tf.where(new[None], tf.gather(valid, source, axis=1), cache.valid),
            column=cache.column + length,
        )
        return self._score(text, cache.column, length), text

    def rollback(
        self, cache: SequenceSoFar, before: SequenceSoFar, kept: tf.Tensor, *, width: int
    ) -> SequenceSoFar:
        """See `LanguageModel`; the sequence stays compact."""
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

    def _score(self, text: SequenceSoFar, first: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
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
