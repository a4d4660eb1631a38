"""The language model: next-token scores, the loss, generation."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.generate import generate
from tfgpt2.generation.inputs import read_prefix
from tfgpt2.generation.option_values import TOKEN_IDS, without_negative_ids
from tfgpt2.generation.transition_scores import transition_scores
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.models.call_inputs import CallInputs, check_labels
from tfgpt2.models.call_outputs import unflatten
from tfgpt2.nn.backbone import ForwardOutputs
from tfgpt2.nn.chunked_loss import chunked_causal_lm_loss
from tfgpt2.nn.kv_cache import KVCache, Prefix, compact, rollback
from tfgpt2.nn.layers import Embedding
from tfgpt2.nn.losses import Losses, causal_lm_loss, causal_lm_nll, classification_loss
from tfgpt2.outputs import TFCausalLMOutputWithCrossAttentions


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
        """Creates the output matrix, unless it is the token table."""
        self._generation_config = self._followed_config = None
        self.lm_head = None
        if not self.config.tie_word_embeddings:
            self.lm_head = Embedding(
                self.config.vocab_size,
                self.config.n_embd,
                stddev=self.config.initializer_range,
                name="lm_head",
                dtype=self.dtype_policy,
            )

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
        """Runs the model.

        Args:
            input_ids: int `[B, T]`.
            past_key_values: See `TFGPT2Model.call`, also for the next eleven.
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
            labels: int `[B, T]` in `[0, V)` or -100 for "not scored", usually the `input_ids`; the
                shift by one happens inside. Adds `loss` in nats per token; with
                `compile(chunked_loss=True)` there are no `logits` then.
            training: Whether dropout is applied.

        Raises:
            ValueError: A shape, an id or a length does not fit.
            TypeError: An input has the wrong type or an unknown name.
        """
        return self.run(locals())

    def forward(
        self, inputs: CallInputs, outputs: ForwardOutputs, arguments: dict[str, Any]
    ) -> TFCausalLMOutputWithCrossAttentions:
        """Scores every token, and computes the loss where there are labels."""
        hidden, loss = outputs.last_hidden_state, None
        if arguments["labels"] is None:
            logits = self.score(hidden)  # [B, T, V]
        else:
            labels = check_labels(self.config, arguments["labels"], inputs)
            loss, logits = self.lm_loss(hidden, labels, arguments["training"])
        return TFCausalLMOutputWithCrossAttentions(
            loss=loss, logits=None if logits is None else unflatten(logits, inputs)
        )

    def lm_loss(
        self, hidden: tf.Tensor, labels: tf.Tensor, training: bool | None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Computes the loss of predicting each next label, as `loss_settings` define it.

        Args:
            hidden: Float `[B, T, D]`, after the final layer norm.
            labels: int `[B, T]`; the shift by one happens here.
            training: Whether label smoothing and z-loss are applied.

        Returns:
            The loss, float32 `[]`, and the logits `[B, T, V]`, None where the loss is chunked.
        """
        settings = self.loss_settings if training else self.loss_settings.for_evaluation()
        if settings.chunked:
            table = self.get_output_embeddings().weight
            return chunked_causal_lm_loss(
                hidden, table, labels, settings, training=bool(training)
            ), None
        logits = self.score(hidden)  # [B, T, V]
        return causal_lm_loss(logits, labels, settings), logits

    def loss_parts(
        self, labels: Mapping[str, tf.Tensor], results: Mapping[str, tf.Tensor], training: bool
    ) -> dict[str, Losses]:
        """See `TrainableModel`."""
        settings = self.loss_settings if training else self.loss_settings.for_evaluation()
        if settings.chunked:
            raise value_error(
                "The chunked loss computes no losses of single texts that weights could scale.",
                fix="Compile with chunked_loss=False, or leave the weights out.",
                chunked_loss=settings.chunk or True,
            )
        wanted, logits = tf.convert_to_tensor(labels["labels"]), results["logits"]
        shape = tf.shape(wanted)  # [B, T], or [B, C, T]
        rows = tf.reshape(wanted, [-1, shape[-1]])
        flat = tf.reshape(logits, tf.concat([tf.shape(rows), [logits.shape[-1]]], axis=0))
        part = causal_lm_nll(flat, rows, settings)
        # The first label of a text is predicted by nothing.
        part = [tf.reshape(tf.pad(x, [[0, 0], [1, 0]]), shape) for x in part]
        return {"labels": Losses(*(tf.ensure_shape(x, wanted.shape) for x in part))}

    def score(self, hidden: tf.Tensor) -> tf.Tensor:
        """Scores every token: float `[B, T, D]` -> float32 logits `[B, T, V]`."""
        return self.get_output_embeddings().score(hidden)

    def get_output_embeddings(self) -> Embedding:
        """The table that hidden states are scored against."""
        return self.lm_head or self.transformer.wte

    @property
    def generation_config(self) -> GenerationConfig:
        """Default options of `generate`. Until they are set, they follow those in `config`."""
        if self._generation_config == self._followed_config:
            current = GenerationConfig.from_model_config(self.config)
            if current != self._followed_config:
                self._generation_config, self._followed_config = current, copy.deepcopy(current)
        return self._generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self._generation_config, self._followed_config = config, None

    def load_generation_config(self, files: Any) -> None:
        """Reads `generation_config.json`; ids that it lacks come from `config.json`."""
        path = files.find("generation_config.json")
        if path is not None:
            # Not through the property, whose old value TensorFlow would read first.
            self._generation_config = GenerationConfig.from_json_file(path)
            self._followed_config = None
            ids = {name: getattr(self.config, name) for name in TOKEN_IDS}
            for name, token_id in without_negative_ids(ids).items():
                if getattr(self.generation_config, name) is None:
                    setattr(self.generation_config, name, token_id)

    def save_generation_config(self, directory: Path) -> None:
        """Writes `generation_config.json`."""
        self.generation_config.save_pretrained(directory)

    @tf.autograph.experimental.do_not_convert
    def generate(
        self, inputs: Any = None, generation_config: GenerationConfig | None = None, **options: Any
    ) -> Any:
        """Continues token ids, with transformers' arguments.

        Args:
            inputs: int `[B, P]`, or the tokenizer's output; also as keyword `input_ids`.
            generation_config: Settings; None is `model.generation_config`.
            **options: The prompt: `attention_mask` `[B, P]`, padding on either side;
                `inputs_embeds` float `[B, P, D]`, instead of ids (then only new tokens are
                returned) or with them; `past_key_values` of the first columns of the ids;
                `prefix`, the result of `model.prefix`, which precedes the ids;
                `encoder_hidden_states` and `encoder_attention_mask` for cross-attention;
                `negative_prompt_ids` and `negative_prompt_attention_mask` for `guidance_scale`.

                The method: `tokenizer`, required for `stop_strings`, `choices`, `regex` and
                `json_schema`; `assistant_model`, a smaller draft model of the same vocabulary;
                `logits_processor`, functions `(input_ids [R, S], attention_mask [R, S],
                scores [R, V]) -> scores`, and `stopping_criteria`, functions `(input_ids,
                attention_mask) -> bool [R]`, which become part of the compiled program;
                `streamer` with `put(ids)` and `end()`;
                `jit_compile=False` to run without XLA; `cache_dtype`, `"float32"`, `"bfloat16"` or
                `"float16"`, in which keys and values are kept, by default the model's.

                And the settings of `GenerationConfig`, one value or one per row, which override
                those of the configuration: `max_new_tokens`, `do_sample`, `temperature`, `top_p`,
                `seed`, `num_beams`, ...

        Inside `tf.function`, such as `tf.function(model.generate, jit_compile=True)`, ids and mask
        are tensors and options Python values; rows are padded to the most new tokens.

        Returns:
            int32 `[R, P + T]`, prompts and continuations, `num_return_sequences` rows for each
            prompt; finished rows are padded with `pad_token_id`. With
            `return_dict_in_generate=True`, a `TFGenerateOutput`.

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
        return generate(self, inputs, generation_config, **options)

    def compute_transition_scores(
        self,
        sequences: tf.Tensor,
        scores: Sequence[tf.Tensor],
        beam_indices: tf.Tensor | None = None,
        normalize_logits: bool = False,
    ) -> tf.Tensor:
        """Picks the score of each generated token from what `generate` returned.

        Args:
            sequences: int32 `[R, P + T]`.
            scores: `T` floats `[R, V]`, the `scores` of a result.
            beam_indices: int32 `[R, T]`; None without beams.
            normalize_logits: Whether scores become log-probabilities.

        Returns:
            Float `[R, T]`.
        """
        return transition_scores(sequences, scores, beam_indices, normalize_logits=normalize_logits)

    def prepare_inputs_for_generation(
        self,
        inputs: tf.Tensor,
        past_key_values: Sequence[tf.Tensor] | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Returns the inputs of the next call, for a decoding loop of one's own.

        Args:
            inputs: int32 `[B, S]`, all tokens so far.
            past_key_values: What the last call returned, or None before the first one.
            use_cache: Passed on.
            **kwargs: `attention_mask` `[B, S]`, `token_type_ids`, `position_ids`.

        Returns:
            Arguments of `call`; after the first call, only the last token is an input.
        """
        types, mask = kwargs.get("token_type_ids"), kwargs.get("attention_mask")
        positions = kwargs.get("position_ids")
        if past_key_values is not None:
            inputs, types = inputs[:, -1:], None if types is None else types[:, -1:]
        if mask is not None and positions is None:
            positions = tf.cumsum(mask, axis=-1, exclusive=True)
            positions = positions if past_key_values is None else positions[:, -1:]
        return {
            "input_ids": inputs,
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            "token_type_ids": types,
        }

    def hf_compute_loss(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Mean loss of labels that are already shifted: int `[B, T]`, float `[B, T, V]` -> `[1]`.

        Labels of -100 are not scored.
        """
        return classification_loss(logits, tf.cast(labels, tf.int32))[None]

    def prefix(self, inputs: Any, attention_mask: Any = None) -> Prefix:
        """Computes keys and values of a common prefix, for any number of continuations.

        Args:
            inputs: int `[1, S]`, one prefix for all rows, or `[B, S]`, one for each; also the
                tokenizer's output.
            attention_mask: `[B, S]`, padding on either side; None is all ones.

        Returns:
            The prefix, for `generate(input_ids, prefix=...)`.

        Raises:
            ValueError: The ids do not fit.

        Example:
            >>> model = TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
            >>> rules = model.prefix([[5, 6, 7]])
            >>> model.generate([[8]], prefix=rules, max_new_tokens=3, eos_token_id=None).shape
            TensorShape([1, 4])
        """
        return read_prefix(self, inputs, attention_mask)

    # The interface of the generation loop --------------------------------------------------------

    def embed(self, ids: tf.Tensor) -> tf.Tensor:
        """Token embeddings: int32 `[B, T]` -> float `[B, T, D]`."""
        return self.transformer.wte(ids)

    def prefill_hidden(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor, **context: Any
    ) -> tuple[tf.Tensor, KVCache]:
        """Runs prompts into a new cache; the arguments are those of `prefill`.

        Returns:
            Last hidden states `[B, P, D]`, and the cache.
        """
        return self.transformer.prefill_hidden(
            ids, tf.cast(mask, tf.bool), columns=columns, **context
        )

    def prefill(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor, **context: Any
    ) -> tuple[tf.Tensor, KVCache]:
        """Runs prompts into a new cache.

        Args:
            ids: int32 `[B, P]`, right-aligned (see `tfgpt2.nn.kv_cache`).
            mask: int32 `[B, P]`, 1 for tokens and 0 for padding.
            columns: int32 `[]`, size `S >= P` of the cache, without the columns of a prefix.
            **context: `embeds` float `[B, P, D]`, instead of the ids' own embeddings;
                `prefix`, which precedes the prompts; `encoder`, for cross-attention.

        Returns:
            float32 logits `[B, V]` of the token after the prompt, and the cache.
        """
        hidden, cache = self.prefill_hidden(ids, mask, columns=columns, **context)
        return self.score(hidden[:, -1:])[:, 0], cache  # [B, V]

    def decode_hidden(
        self, ids: tf.Tensor, valid: tf.Tensor, cache: KVCache, *, in_place: bool
    ) -> tuple[tf.Tensor, KVCache]:
        """Runs `T` more tokens per row; returns last hidden states `[B, T, D]` and the cache."""
        return self.transformer.decode_hidden(ids, valid, cache, in_place=in_place)

    def decode_step(
        self, ids: tf.Tensor, valid: tf.Tensor, cache: KVCache, *, in_place: bool
    ) -> tuple[tf.Tensor, KVCache]:
        """Runs `T` more tokens per row.

        Args:
            ids: int32 `[B, T]`.
            valid: bool `[B, T]`, False where a row has no token.
            cache: The cache so far.
            in_place: See `tfgpt2.nn.kv_cache.write`.

        Returns:
            float32 logits `[B, T, V]` and the longer cache.
        """
        hidden, cache = self.decode_hidden(ids, valid, cache, in_place=in_place)
        return self.score(hidden), cache  # [B, T, V]

    def rollback(self, cache: KVCache, before: KVCache, kept: tf.Tensor, *, width: int) -> KVCache:
        """Keeps the first `kept` of the tokens that were added since `before`.

        Dropped tokens leave holes in a row's columns; a cache that is full of them is compacted.

        Args:
            cache: The cache now.
            before: The earlier cache.
            kept: int32 `[B]`.
            width: Most columns that the next step takes.
        """
        rolled_back = rollback(cache, before, kept)
        full = rolled_back.column + width > tf.shape(cache.valid)[1]
        return tf.cond(full, lambda: compact(rolled_back), lambda: rolled_back)
