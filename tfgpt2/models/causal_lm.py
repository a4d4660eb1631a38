"""The models that users name: the bare transformer and the transformer with a head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.models.call_inputs import Inputs
from tfgpt2.nn.backbone import Activations
from tfgpt2.nn.cache import Encoder, KVCache, Prefix, compact, rollback
from tfgpt2.nn.chunked_loss import chunked_causal_lm_loss
from tfgpt2.nn.layers import Embedding
from tfgpt2.nn.losses import causal_lm_loss
from tfgpt2.outputs import (
    ModelOutput,
    TFBaseModelOutputWithPastAndCrossAttentions,
    TFCausalLMOutputWithCrossAttentions,
)


@keras.saving.register_keras_serializable("tfgpt2")
class TFGPT2Model(TFGPT2PreTrainedModel):
    """GPT-2 without a head: it returns hidden states.

    Args:
        config: The configuration.
        **kwargs: `dtype` (Keras dtype policy), `name`, `trainable`.

    Example:
        >>> from tfgpt2 import GPT2Config
        >>> model = TFGPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
        >>> model(tf.constant([[1, 2, 3]])).last_hidden_state.shape
        TensorShape([1, 3, 8])
    """

    def call(
        self,
        input_ids: tf.Tensor | None = None,
        past_key_values: Sequence[tf.Tensor] | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        encoder_hidden_states: tf.Tensor | None = None,
        encoder_attention_mask: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> TFBaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """Runs the model.

        Args:
            input_ids: int `[B, T]` (further leading axes are allowed), ids in `[0, V)`.
            past_key_values: `L` tensors `[2, B, N, S, H]` that an earlier call returned; then
                `input_ids` are only the tokens after those.
            attention_mask: `[B, past + T]`, 1 for tokens and 0 for padding; or
                `[B, 1, T, past + T]`, 1 where a token may look, causal order included.
            token_type_ids: int `[B, T]`, looked up in the token table and added.
            position_ids: int `[B, T]` in `[0, n_positions)`. Left out, tokens are numbered from
                the length of the past on, padding included, as transformers does; for
                left-padded input pass `tfgpt2.nn.cache.positions_from_mask(mask)`.
            head_mask: Float `[N]` or `[L, N]`; 0 silences a head.
            inputs_embeds: Float `[B, T, D]`, instead of `input_ids`.
            encoder_hidden_states: Float `[B, E, D]`, for `config.add_cross_attention`.
            encoder_attention_mask: `[B, E]` or `[B, T, E]`, 1 where the encoder may be seen.
            use_cache: Return `past_key_values`; None is `config.use_cache`.
            output_attentions: Return the attention weights; None is the configuration's.
            output_hidden_states: Return all hidden states; None is the configuration's.
            return_dict: False returns a tuple; None is the configuration's.
            training: Whether dropout acts.

        Raises:
            ValueError: A shape, an id or a length does not fit.
            TypeError: An input has the wrong type or an unknown name.

        Source: transformers 4.57, `modeling_tf_gpt2.py::TFGPT2Model.call`.
        """
        inputs, done = self.encode(
            training,
            input_ids=input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
        )
        output = TFBaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=unflatten(done.last, inputs),
            **extras(self, done, inputs, use_cache, output_attentions, output_hidden_states),
        )
        return returned(self, output, return_dict)


@keras.saving.register_keras_serializable("tfgpt2")
class TFGPT2LMHeadModel(TFGPT2PreTrainedModel):
    """GPT-2 with a language-modeling head: it scores the next token, and generates.

    The head shares the token table unless `config.tie_word_embeddings` is False.

    Args:
        config: The configuration.
        **kwargs: `dtype` (Keras dtype policy), `name`, `trainable`.

    Example:
        >>> from tfgpt2 import GPT2Config
        >>> model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
        >>> ids = tf.constant([[1, 2, 3]])
        >>> model(ids, labels=ids).logits.shape
        TensorShape([1, 3, 10])
    """

    has_lm_loss = True

    def make_head(self) -> None:
        """Creates the output matrix, when it is not the token table."""
        ids = ("bos_token_id", "eos_token_id", "pad_token_id")
        self.generation_config = GenerationConfig(**{i: getattr(self.config, i) for i in ids})
        self.lm_head = None
        if not self.config.tie_word_embeddings:
            self.lm_head = Embedding(
                self.config.vocab_size,
                self.config.n_embd,
                stddev=self.config.initializer_range,
                name="lm_head",
                dtype=self.dtype_policy,
            )

    def build(self, input_shape: object = None) -> None:
        """Creates all weights."""
        super().build(input_shape)
        if self.lm_head is not None:
            self.lm_head.build()

    def lm_loss(
        self, hidden: tf.Tensor, labels: tf.Tensor, training: bool | None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Scores tokens against the next labels, as `loss_settings` say.

        Args:
            hidden: Float `[B, T, D]`, after the final layer norm.
            labels: int `[B, T]`; the shift by one happens here.
            training: Whether label smoothing and z-loss act.

        Returns:
            The loss, float32 `[]`, and the logits `[B, T, V]`; None where they were never held.
        """
        settings = self.loss_settings if training else self.loss_settings.measured()
        if settings.chunked:
            table = self.get_output_embeddings().weight
            return chunked_causal_lm_loss(
                hidden, table, labels, settings, training=bool(training)
            ), None
        logits = self.score(hidden)  # [B, T, V]
        return causal_lm_loss(logits, labels, settings), logits

    def score(self, hidden: tf.Tensor) -> tf.Tensor:
        """Scores every token: float `[B, T, D]` -> float32 logits `[B, T, V]`."""
        return self.get_output_embeddings().score(hidden)

    def get_output_embeddings(self) -> Embedding:
        """The table against which hidden states are scored."""
        return self.lm_head or self.transformer.wte

    def load_settings(self, files: Any) -> None:
        """Reads `generation_config.json`; ids that it leaves out come from `config.json`."""
        path = files.find("generation_config.json")
        if path is not None:
            ids = self.generation_config
            self.generation_config = GenerationConfig.from_json_file(path)
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                if getattr(self.generation_config, name) is None:
                    setattr(self.generation_config, name, getattr(ids, name))

    def save_settings(self, directory: Path) -> None:
        """Writes `generation_config.json`."""
        self.generation_config.save_pretrained(directory)

    def generate(
        self, inputs: Any = None, generation_config: GenerationConfig | None = None, **options: Any
    ) -> Any:
        """Continues token ids, with transformers' arguments.

        Args:
            inputs: int `[B, P]`, or the tokenizer's output; also as keyword `input_ids`.
            generation_config: Settings; None is `model.generation_config`.
            **options: What to continue: `attention_mask` `[B, P]`, padding on either side;
                `inputs_embeds` float `[B, P, D]`, in place of ids (then only new tokens come
                back) or beside them; `past_key_values` of the first columns of the ids; `prefix`,
                what `model.prefix` returned, before the ids; `encoder_hidden_states` and
                `encoder_attention_mask` for cross-attention; `negative_prompt_ids` and
                `negative_prompt_attention_mask` for `guidance_scale`.

                How: `tokenizer`, needed for `stop_strings`, `choices`, `regex` and `json_schema`;
                `assistant_model`, a smaller model of the same vocabulary that guesses ahead;
                `logits_processor`, functions `(input_ids [R, S], attention_mask [R, S],
                scores [R, V]) -> scores`, and `stopping_criteria`, functions `(input_ids,
                attention_mask) -> bool [R]`, which become part of the compiled program;
                `streamer` with `put(ids)` and `end()`;
                `jit_compile=False` to run without XLA.

                And the settings of `GenerationConfig`, one value or one per row, which replace
                those of the configuration: `max_new_tokens`, `do_sample`, `temperature`, `top_p`,
                `seed`, `num_beams`, ...

        Returns:
            int32 `[R, P + T]`, prompts and continuations, `num_return_sequences` rows for each
            prompt; after a row's end stands `pad_token_id`. With `return_dict_in_generate=True`,
            a `TFGenerateOutput`.

        Raises:
            TypeError: An option is unknown.
            ValueError: A value is out of range, contradicts another, or a prompt does not fit.

        Example:
            >>> import tfgpt2
            >>> model = TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
            >>> tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
            >>> model.generate(**tokenizer("To be"), do_sample=False, max_new_tokens=5).shape[0]
            1
        """
        from tfgpt2.generation.generate import generate

        return generate(self, inputs, generation_config, **options)

    # What the generation loop knows of a model: it can read prompts, and it can read on.

    def prefill_hidden(
        self,
        ids: tf.Tensor,
        mask: tf.Tensor,
        *,
        columns: tf.Tensor,
        embeds: tf.Tensor | None = None,
        prefix: Prefix | tuple[()] = (),
        encoder: Encoder | tuple[()] = (),
    ) -> tuple[tf.Tensor, KVCache]:
        """Reads tokens into a fresh cache; the arguments are those of `prefill`.

        Returns:
            Last hidden states `[B, P, D]`, and the cache.
        """
        return self.transformer.prefill_hidden(
            ids,
            tf.cast(mask, tf.bool),
            columns=columns,
            embeds=embeds,
            prefix=prefix,
            encoder=encoder,
        )

    def prefill(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor, **context: Any
    ) -> tuple[tf.Tensor, KVCache]:
        """Reads prompts into a fresh cache.

        Args:
            ids: int32 `[B, P]`, right-aligned (see `tfgpt2.nn.cache`).
            mask: int32 `[B, P]`, 1 for tokens and 0 for padding.
            columns: int32 `[]`, size `S >= P` of the cache, without the columns of a prefix.
            **context: `embeds` float `[B, P, D]`, read in place of the ids' own embeddings;
                `prefix`, a text that comes before; `encoder`, what cross-attention looks at.

        Returns:
            float32 logits `[B, V]` of the token after the prompt, and the cache.
        """
        hidden, cache = self.prefill_hidden(ids, mask, columns=columns, **context)
        return self.score(hidden[:, -1:])[:, 0], cache  # [B, V]

    def prefix(self, inputs: Any, attention_mask: Any = None) -> Prefix:
        """Reads a text once, so that any number of others can go on from it.

        Args:
            inputs: int `[1, S]`, one text for all rows, or `[B, S]`, one for each; also the
                tokenizer's output.
            attention_mask: `[B, S]`, padding on either side; None is all ones.

        Returns:
            What `generate(input_ids, prefix=...)` goes on from.

        Raises:
            ValueError: The ids do not fit.

        Example:
            >>> model = TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
            >>> rules = model.prefix([[5, 6, 7]])
            >>> model.generate([[8]], prefix=rules, max_new_tokens=3, eos_token_id=None).shape
            TensorShape([1, 4])
        """
        from tfgpt2.generation.inputs import read_prefix

        return read_prefix(self, inputs, attention_mask)

    def embed(self, ids: tf.Tensor) -> tf.Tensor:
        """Token embeddings: int32 `[B, T]` -> float `[B, T, D]`."""
        return self.transformer.wte(ids)

    def decode_hidden(
        self, ids: tf.Tensor, valid: tf.Tensor, cache: KVCache, *, in_place: bool
    ) -> tuple[tf.Tensor, KVCache]:
        """Reads `T` more tokens per row: the last hidden states `[B, T, D]` and the cache."""
        return self.transformer.decode_hidden(ids, valid, cache, in_place=in_place)

    def rollback(self, cache: KVCache, before: KVCache, kept: tf.Tensor, *, width: int) -> KVCache:
        """Keeps the first `kept` (int32 `[B]`) of the tokens that were read since `before`.

        A row's dropped tokens leave holes; a cache that those have filled is made compact.

        Args:
            cache: The cache now.
            before: The cache then.
            kept: int32 `[B]`.
            width: Most columns that the next read takes.
        """
        rolled_back = rollback(cache, before, kept)
        full = rolled_back.column + width > tf.shape(cache.valid)[1]
        return tf.cond(full, lambda: compact(rolled_back), lambda: rolled_back)

    def decode_step(
        self, ids: tf.Tensor, valid: tf.Tensor, cache: KVCache, *, in_place: bool
    ) -> tuple[tf.Tensor, KVCache]:
        """Reads `T` more tokens per row.

        Args:
            ids: int32 `[B, T]`.
            valid: bool `[B, T]`, False where a row has no token.
            cache: What was read so far.
            in_place: See `tfgpt2.nn.cache.write`.

        Returns:
            float32 logits `[B, T, V]` and the longer cache.
        """
        hidden, cache = self.transformer.decode_hidden(ids, valid, cache, in_place=in_place)
        return self.score(hidden), cache  # [B, T, V]

    def call(
        self,
        input_ids: tf.Tensor | None = None,
        past_key_values: Sequence[tf.Tensor] | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        encoder_hidden_states: tf.Tensor | None = None,
        encoder_attention_mask: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> TFCausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """Runs the model; arguments beyond `labels` are those of `TFGPT2Model.call`.

        Args:
            input_ids: int `[B, T]`.
            past_key_values: See `TFGPT2Model.call`, as for the next eleven.
            attention_mask: `[B, past + T]`.
            token_type_ids: int `[B, T]`.
            position_ids: int `[B, T]`.
            head_mask: Float `[N]` or `[L, N]`.
            inputs_embeds: Float `[B, T, D]`.
            encoder_hidden_states: Float `[B, E, D]`.
            encoder_attention_mask: `[B, E]` or `[B, T, E]`.
            use_cache: Return `past_key_values`.
            output_attentions: Return the attention weights.
            output_hidden_states: Return all hidden states.
            return_dict: False returns a tuple.
            labels: int `[B, T]` in `[0, V)` or -100 for "not scored", usually `input_ids`
                themselves: the shift by one happens inside. Gives `loss` in nats per token, and
                with `compile(chunked_loss=True)` no `logits`.
            training: Whether dropout acts.

        Raises:
            ValueError: A shape, an id or a length does not fit.
            TypeError: An input has the wrong type or an unknown name.
        """
        inputs, done = self.encode(
            training,
            input_ids=input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            labels=labels,
        )
        if labels is None:
            loss, logits = None, self.score(done.last)  # [B, T, V]
        else:
            loss, logits = self.lm_loss(done.last, inputs.labels, training)
        output = TFCausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=None if logits is None else unflatten(logits, inputs),
            **extras(self, done, inputs, use_cache, output_attentions, output_hidden_states),
        )
        return returned(self, output, return_dict)


def unflatten(x: tf.Tensor, inputs: Inputs) -> tf.Tensor:
    """`[B, T, C]` -> `[..., T, C]`, with the leading axes the inputs had."""
    rank = inputs.leading.shape[0]
    if rank == 2:
        return x
    return tf.reshape(x, tf.concat([inputs.leading, tf.shape(x)[-1:]], axis=0))


def extras(
    model: TFGPT2PreTrainedModel,
    done: Activations,
    inputs: Inputs,
    use_cache: bool | None,
    output_attentions: bool | None,
    output_hidden_states: bool | None,
) -> dict[str, Any]:
    """The optional outputs that the caller or the configuration asks for."""
    config, found = model.config, {}
    wants_cache = config.use_cache if use_cache is None else use_cache
    wants_attention = config.output_attentions if output_attentions is None else output_attentions
    if wants_cache and (done.presents or use_cache):
        _require(done.presents, "past_key_values", "Gradient checkpointing keeps no cache.")
        found["past_key_values"] = tuple(tf.stack(pair) for pair in done.presents)
    if config.output_hidden_states if output_hidden_states is None else output_hidden_states:
        found["hidden_states"] = tuple(unflatten(x, inputs) for x in done.hidden)
    if wants_attention:
        _require(done.attentions, "attentions", "Nothing holds the attention weights: the attention"
                 " is blockwise, or gradients are checkpointed.")  # fmt: skip
        found["attentions"] = done.attentions
        found["cross_attentions"] = done.cross_attentions or None
    return found


def _require(values: tuple[Any, ...], name: str, reason: str) -> None:
    if not values:
        raise ValueError(
            explain(
                f"`{name}` cannot be returned. {reason}",
                fix="Use attn_implementation='eager' and gradient_checkpointing_disable().",
                output=name,
            )
        )


def returned(
    model: TFGPT2PreTrainedModel, output: ModelOutput, return_dict: bool | None
) -> ModelOutput | tuple[Any, ...]:
    """The output in the form that the caller or the configuration asks for."""
    wanted = model.config.use_return_dict if return_dict is None else return_dict
    return output if wanted else output.to_tuple()
