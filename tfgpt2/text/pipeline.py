"""Text generation as graphs in three passes: strings -> ids, ids -> ids, ids -> strings.

    strings -> ids    `encode_texts`          TF string ops
    ids -> ids        `CompiledDecoder.run`   one program, compiled by XLA
    ids -> strings    `decode_texts`          TF string ops

Strings cannot enter XLA, so the borders lie where they do. A `TextPipeline` called is the three
passes as one graph; Python calls and SavedModel signatures run the same one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.generation import stopping
from tfgpt2.generation.buckets import default_buckets, round_up
from tfgpt2.generation.compiled import CompiledDecoder
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.from_config import build_params, decode_spec, extra_params
from tfgpt2.generation.guidance import GUIDANCE_SCALE
from tfgpt2.generation.option_table import EXTRA_OPTIONS
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.params import (
    DecodeSpec,
    Prompt,
    PromptContext,
    SamplingParams,
    broadcast_rows,
    clamp,
)
from tfgpt2.generation.results import Result
from tfgpt2.generation.scoring import summarize, token_logprobs
from tfgpt2.generation.stopping import StopStrings
from tfgpt2.generation.token_texts import read_token_texts
from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
from tfgpt2.nn.kv_cache import Prefix, align_right
from tfgpt2.text.prompts import PromptStatus, make_prompt, prepend_token
from tfgpt2.text.records import prompts_as_bytes, result_to_text
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

ReadTokens = Callable[[tf.Tensor], tf.RaggedTensor]  # string [B] -> int32 [B, (P)]


class EncodedTexts(NamedTuple):
    """Texts and settings of a request as numbers; `B` rows.

    Attributes:
        prompt: The prompts.
        status: What became of the texts.
        values: Settings by the name of their option, in range, seeds 0 or more.
        limit: int32 `[B]`, the most new tokens of each row that fit.
        stop_strings: The stop strings as bytes.
    """

    prompt: Prompt
    status: PromptStatus
    values: Mapping[str, tf.Tensor]
    limit: tf.Tensor
    stop_strings: StopStrings


class TextRequest(NamedTuple):
    """Input of the decoder.

    Attributes:
        prompt: The prompts, `B` rows.
        params: The settings of each row; `R` rows, `spec.rows_per_prompt` for each prompt.
        output_buffer: int32 zeros `[R, T]`; the shape is the most tokens a row can get.
    """

    prompt: Prompt
    params: SamplingParams
    output_buffer: tf.Tensor


class TextPipeline(tf.Module):
    """The graphs of a `TextGenerator`: from strings and settings to strings.

    Args:
        model: The language model.
        tokenizer: The tokenizer that belongs to it.
        config: Default settings, and what programs are compiled for.
        truncate: Whether prompts that do not fit lose their beginning; else they are refused.
        prompt_buckets: Sizes of prompts, in ascending order.
        output_buckets: Sizes of the output buffer, in ascending order.
        jit_compile: Whether XLA compiles the decode loop.
        prefix: A text before every prompt, which is read once.
        negative_prompt: What `guidance_scale` leads away from.
        assistant: A smaller model that proposes draft tokens.
        cache_dtype: See `CompiledDecoder`.

    Raises:
        ValueError: The prefix is too short or too long.
    """

    def __init__(
        self,
        model: TFGPT2LMHeadModel,
        tokenizer: TFGPT2Tokenizer,
        config: GenerationConfig,
        *,
        truncate: bool,
        prompt_buckets: Sequence[int],
        output_buckets: Sequence[int],
        jit_compile: bool,
        prefix: str | None = None,
        negative_prompt: str | None = None,
        assistant: TFGPT2LMHeadModel | None = None,
        cache_dtype: str | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.truncate, self.assistant, self._jit_compile = truncate, assistant, jit_compile
        self.prompt_buckets, self.output_buckets = tuple(prompt_buckets), tuple(output_buckets)
        # Texts with tokens that the model does not have are refused.
        size = model.config.vocab_size
        self._known_ids = size if tokenizer.vocab_size > size else None
        self._num_first = len(tokenizer.spec.prefix_ids)
        self.token_texts = read_token_texts(tokenizer, size)
        self.decoder = CompiledDecoder(
            model,
            jit_compile=jit_compile,
            token_bytes=stopping.token_bytes(self.token_texts.written),
            assistant=assistant,
            cache_dtype=cache_dtype,
        )
        self.spec, self._extra = self.compile_config(config, rows=1)
        self._prefix, self._prefix_end = (), None
        if prefix is not None:
            self._prefix, self._prefix_end = self._read_prefix(prefix)
        self._negative = None if negative_prompt is None else self.prompt_only(negative_prompt)
        values = {name: tf.TensorSpec([None], one.dtype) for name, one in REQUEST_OPTIONS.items()}
        texts, stops = tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.string)
        self._encode_texts = tf.function(
            self.encode_texts, input_signature=[texts, values, stops], autograph=False
        )
        self._result_to_text = tf.function(
            functools.partial(result_to_text, tokenizer), autograph=False, reduce_retracing=True
        )
        self._token_logprobs = self.compile_scoring(functools.partial(token_logprobs, model))

    def compile_scoring(self, scoring: Callable[..., Any]) -> Callable[[Prompt], Any]:
        """Compiles a function of ids, mask and prefix.

        Args:
            scoring: From ids and mask, int32 `[B, P]`, and a `Prefix` or nothing.

        Returns:
            A function of what `whole_text_prompt` returns first.
        """
        prefix = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), self._prefix)
        program = tf.function(
            scoring,
            input_signature=[*[tf.TensorSpec([None, None], tf.int32)] * 2, prefix],
            jit_compile=self._jit_compile,
            autograph=False,
        )
        return lambda prompt: program(prompt.ids, prompt.mask, self._prefix_tensors())

    @property
    def prefix_variables(self) -> list[tf.Variable]:
        """The keys and values of the prefix, for an export."""
        return tf.nest.flatten(self._prefix)

    @property
    def start_id(self) -> int | None:
        """The token that stands for an empty prompt: the start token, else an end token."""
        ids = (self.config.bos_token_id, self.model.config.bos_token_id, *self.config.eos_ids)
        size = self.model.config.vocab_size
        return next((one for one in ids if one is not None and 0 <= one < size), None)

    @property
    def has_constraint(self) -> bool:
        """Whether the texts of the configuration must match something."""
        return bool(self._extra.constraint)

    def compile_config(
        self, config: GenerationConfig, rows: int, **functions: Any
    ) -> tuple[DecodeSpec, SamplingParams]:
        """The `DecodeSpec` of a configuration, and its optional parameters.

        Args:
            config: The configuration.
            rows: `B`, for options that are lists with one value per prompt; 1 for defaults.
            **functions: `logits_processor` and `stopping_criteria` of a user.
        """
        size, drafts = self.model.config.vocab_size, config.strategy.takes_draft_tokens
        assisted = self.assistant is not None and drafts and not config.prompt_lookup_num_tokens
        spec = decode_spec(config, size, assisted=assisted, **functions)
        # The outputs of a text generator hold no scores of the whole vocabulary.
        spec = dataclasses.replace(spec, output_scores=False, output_logits=False)
        return spec, extra_params(config, rows, size, self.token_texts)

    def __call__(
        self,
        text: tf.Tensor,
        values: Mapping[str, tf.Tensor],
        stop: tf.Tensor,
        read: ReadTokens | None = None,
    ) -> dict[str, tf.Tensor]:
        """Runs the three passes in one graph, for SavedModels and Keras graphs.

        What the values do not say is as the configuration says.

        Args:
            text: string `[B]`.
            values: One tensor `[B]` for each of `REQUEST_OPTIONS`, and for any of
                `EXTRA_OPTIONS`.
            stop: string `[B, Q]`; empty strings are not stop strings.
            read: Makes tokens of the texts; None is the tokenizer.

        Returns:
            See `result_to_text`. Where the configuration asks for several sequences per prompt
            (`num_return_sequences`), a second axis counts them: `[B, n, ...]`.
        """
        if self.config.max_time is not None:
            raise value_error(
                "A graph cannot watch the clock: max_time is for generate().",
                fix="Use max_new_tokens.",
                max_time=self.config.max_time,
            )
        rows = tf.shape(text)[0]
        # XLA compiles no program for zero rows: an empty batch becomes a row that asks nothing.
        filler = {"max_new_tokens": 0, "seed": 0}
        known = REQUEST_OPTIONS | EXTRA_OPTIONS
        values = {
            name: _at_least_one_row(value, filler.get(name, known[name].off))
            for name, value in values.items()
        }
        stop = _at_least_one_row(stop, "")
        encoded = self.encode_texts(_at_least_one_row(text, ""), values, stop, read)
        result = self.run(self.make_request(encoded))
        outputs = self.decode_texts(result, encoded.status)
        returns = self.spec.num_return_sequences
        if returns > 1:
            shapes = {n: tf.concat([[-1, returns], tf.shape(x)[1:]], 0) for n, x in outputs.items()}
            outputs = {name: tf.reshape(x, shapes[name]) for name, x in outputs.items()}
        return {name: value[:rows] for name, value in outputs.items()}

    def encode_texts(
        self,
        text: tf.Tensor,
        values: Mapping[str, tf.Tensor],
        stop: tf.Tensor,
        read: ReadTokens | None = None,
    ) -> EncodedTexts:
        """Pass 1: turns texts and settings into numbers.

        Values out of range are clamped and prompts that cannot run are marked, because a graph
        cannot raise; `TextGenerator` checks the one before and raises for the other.

        Args:
            text: string `[B]`.
            values: See `__call__`.
            stop: string `[B, Q]`.
            read: See `__call__`.
        """
        known = REQUEST_OPTIONS | EXTRA_OPTIONS
        values = {name: clamp(known[name], value) for name, value in values.items()}
        prompt, status, context = self._prompt(text, values["max_new_tokens"], read)
        fits = tf.where(status.refusal > 0, 0, context - status.length)
        limit = tf.minimum(values["max_new_tokens"], tf.minimum(fits, self.output_buckets[-1]))
        values["seed"] = tf.where(values["seed"] < 0, _fresh_seeds(text), values["seed"])
        return EncodedTexts(prompt, status, values, limit, stopping.encode_stop_strings(stop))

    def encode_eagerly(self, *request: Any) -> EncodedTexts:
        """`encode_texts` as a compiled function, for calls from Python with `REQUEST_OPTIONS`."""
        return self._encode_texts(*request)

    def make_request(
        self,
        encoded: EncodedTexts,
        config: GenerationConfig | None = None,
        compiled: tuple[DecodeSpec, SamplingParams] | None = None,
        negative: Prompt | None = None,
    ) -> TextRequest:
        """Adds what a configuration says of every row.

        Args:
            encoded: What `encode_texts` returned.
            config: The configuration; None is the pipeline's.
            compiled: What `compile_config` returned for it; None is the pipeline's.
            negative: What guidance leads away from, 1 or `B` rows; None is the pipeline's, else
                each prompt's last token.
        """
        prompt, _, values, limit, stop_strings = encoded
        config = self.config if config is None else config
        spec, extra = (self.spec, self._extra) if compiled is None else compiled
        rows = tf.shape(prompt.ids)[0]
        if GUIDANCE_SCALE.name in {*extra.options, *values}:
            negative = self._negative if negative is None else negative
            if negative is None:
                last = prompt.ids[:, -1:]
                negative = Prompt(last, tf.ones_like(last))
            prompt = prompt._replace(negative=broadcast_rows(negative, rows))
        params = build_params(
            config, spec, values, extra, limit=limit, rows=rows, stop_strings=stop_strings
        )
        columns = round_up(tf.reduce_max(tf.pad(limit, [[0, 1]])), self.output_buckets)
        buffer = tf.zeros([rows * spec.rows_per_prompt, columns], tf.int32)  # [R, T]
        return TextRequest(prompt, params, buffer)

    def run(self, request: TextRequest, spec: DecodeSpec | None = None) -> Result:
        """Pass 2: runs the compiled program, by default that of the configuration."""
        spec = self.spec if spec is None else spec
        return self.decoder.run(spec, request.prompt, request.params, request.output_buffer)

    def decode_texts(self, result: Result, status: PromptStatus) -> dict[str, tf.Tensor]:
        """Pass 3: see `result_to_text`."""
        return self._result_to_text(result, self.own_status(status))

    def own_status(self, status: PromptStatus) -> PromptStatus:
        """The status without the token of a prefix, which is not part of the prompts."""
        before = 0 if self._prefix_end is None else 1
        return status._replace(length=status.length - before)

    def score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores texts under the model, in one graph.

        Args:
            text: string `[B]`. What exceeds the context is dropped on the left.

        Returns:
            `logprob` float32 `[B]` (nats, the sum over tokens); `num_tokens` int32 `[B]`, the
            tokens that are scored: all but the first, which follows nothing, and all after a
            prefix; `perplexity` float32 `[B]`; `token_logprobs` float32 `[B, T]`, one for each
            token, 0 for a first one that follows nothing and after the last; `text_tokens` int32
            `[B]`, how many those are; `truncated` int32 `[B]`. An empty text has `num_tokens` 0
            and perplexity 1.
        """
        rows = tf.shape(text)[0]
        prompt, status, num_tokens = self.whole_text_prompt(_at_least_one_row(text, ""))
        scored = num_tokens if self._prefix else None
        outputs = summarize(self._token_logprobs(prompt), status.length, scored)
        outputs |= {"text_tokens": num_tokens, "truncated": status.truncated}
        return {name: value[:rows] for name, value in outputs.items()}

    def tokenize_prompts(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Tokenizes texts as they are read, string `[B]` -> int32 `[B, (P)]`.

        A prefix has the special tokens that stand before a text, and what follows it goes on.
        """
        tokenizer = self.tokenizer
        return tokenizer.tokenize(text) if self._prefix else tokenizer.tokenize_prompts(text)

    def whole_text_prompt(
        self, text: tf.Tensor, read: ReadTokens | None = None
    ) -> tuple[Prompt, PromptStatus, tf.Tensor]:
        """Tokenizes texts to be read only; they may fill the context.

        Args:
            text: string `[B]`. What exceeds the context is dropped on the left.
            read: See `__call__`.

        Returns:
            Prompts, the start token for an empty text; where there is a prefix, each begins with
            its last token. Their status, without that token; and int32 `[B]`, tokens of the text
            itself, 0 for an empty one.
        """
        tokens = (self.tokenize_prompts if read is None else read)(text)  # [B, (P)]
        one = tf.ones_like(tokens.row_lengths(), tf.int32)  # [B]
        prompt, status = self._own_prompt(tokens, one, read, room=1, truncate=True)
        known = tf.cast(status.refusal == 0, tf.int32)  # [B]
        prompt = prompt._replace(mask=prompt.mask * known[:, None])  # nothing of a refused text
        status = self.own_status(status)
        status = status._replace(length=status.length * known)
        return prompt, status, tf.where(tokens.row_lengths() > 0, status.length, 0)

    def prompt_only(self, texts: str | Sequence[str]) -> Prompt:
        """Tokenizes negative prompts: `[1 or B, P]`, padded to a bucket."""
        tokens = self._tokenize_known("negative_prompt", texts)
        context = self.model.config.n_positions
        prompt, _ = make_prompt(
            tokens,
            tf.ones([tokens.shape[0]], tf.int32),
            context=context,
            start_id=self.start_id,
            truncate=True,
            buckets=default_buckets(context),
            num_first=self._num_first,
        )
        return prompt

    def _prompt(
        self, text: tf.Tensor, max_new_tokens: tf.Tensor, read: ReadTokens | None = None
    ) -> tuple[Prompt, PromptStatus, int]:
        """Tokenizes prompts, after the prefix where there is one; returns the context, too."""
        tokens = (self.tokenize_prompts if read is None else read)(text)  # [B, (P)]
        prompt, status = self._own_prompt(tokens, max_new_tokens, read, truncate=self.truncate)
        context = self.model.config.n_positions
        if not self._prefix:
            return prompt, status, context
        prefix = self._prefix_tensors()
        before = tf.repeat(prefix.ids, tf.shape(prompt.ids)[0], axis=0)  # [B, S]
        ids, mask = align_right(
            tf.concat([before, prompt.ids], axis=1),
            tf.concat([tf.ones_like(before), prompt.mask], axis=1),
        )  # [B, S + P]
        context -= self._prefix.ids.shape[1]
        return Prompt(ids, mask, PromptContext(*prompt[:2], prefix=prefix)), status, context

    def _own_prompt(
        self,
        tokens: tf.RaggedTensor,
        max_new_tokens: tf.Tensor,
        read: ReadTokens | None,
        *,
        room: int = 0,
        truncate: bool,
    ) -> tuple[Prompt, PromptStatus]:
        """Makes prompts of what is read after the prefix: its last token, and the text's tokens.

        Args:
            tokens: int32 `[B, (P)]`.
            max_new_tokens: See `make_prompt`.
            read: What made the tokens; None is the tokenizer.
            room: Tokens that fit beside those of the context.
            truncate: See `make_prompt`.
        """
        prefixed = bool(self._prefix)
        before = self._prefix.ids.shape[1] + 1 if prefixed else 0
        prompt, status = make_prompt(
            tokens,
            max_new_tokens,
            context=self.model.config.n_positions + room - before,
            start_id=None if prefixed else self.start_id,
            truncate=truncate,
            buckets=self.prompt_buckets,
            vocab_size=self._known_ids if read is None else self.model.config.vocab_size,
            num_first=self._num_first if read is None and not prefixed else 0,
        )
        return prepend_token(prompt, status, self._prefix_end) if prefixed else (prompt, status)

    def _prefix_tensors(self) -> Prefix | tuple[()]:
        """What was read of the prefix: all but its last token."""
        return tf.nest.map_structure(tf.convert_to_tensor, self._prefix)

    def _tokenize_known(self, name: str, texts: str | Sequence[str]) -> tf.RaggedTensor:
        """Tokenizes an option's texts, `[B, (P)]`, and checks that the model has their tokens."""
        tokens = self.tokenizer.tokenize_prompts(tf.constant(prompts_as_bytes(texts), tf.string))
        size = self.model.config.vocab_size
        if self._known_ids is not None and np.any(tokens.flat_values.numpy() >= size):
            raise value_error(
                f"`{name}` has a token that the model has no embedding for.",
                fix="Leave it out, or call resize_token_embeddings and train the model.",
                model_vocab_size=size,
                **{name: texts},
            )
        return tokens

    def _read_prefix(self, text: str) -> tuple[Prefix, int]:
        """Reads a prefix but for its last token, which the model reads with each prompt."""
        ids = self._tokenize_known("prefix", text)[0]  # [P]
        if not 2 <= ids.shape[0] < self.model.config.n_positions - 1:
            raise value_error(
                "`prefix` must have two tokens or more, and leave room in the model's context"
                f" of {self.model.config.n_positions}.",
                fix="Shorten it, or put a short one into the prompts.",
                tokens=ids.shape[0],
            )
        read = self.model.prefix(ids[None, :-1])
        # Variables, so that the signatures of an export share one copy.
        kept = tf.nest.map_structure(lambda x: tf.Variable(x, trainable=False), read)
        return kept, int(ids[-1])


def _fresh_seeds(text: tf.Tensor) -> tf.Tensor:
    """Random seeds int64 `[B]` that differ from run to run, whatever `tf.random.set_seed` said."""
    # Not `RandomUniformInt`: under `enable_op_determinism` no program with one runs, not even when
    # every row brings its seed.
    bits = tf.raw_ops.NonDeterministicInts(shape=tf.shape(text, tf.int64), dtype=tf.int64)  # [B]
    return tf.bitwise.bitwise_and(bits, tf.constant(2**62 - 1, tf.int64))


def _at_least_one_row(value: tf.Tensor, filler: Any) -> tf.Tensor:
    """`[B, ...]` -> `[max(B, 1), ...]`."""
    shape = tf.shape(value)
    missing = tf.concat([tf.maximum(1 - shape[:1], 0), shape[1:]], axis=0)
    return tf.concat([value, tf.fill(missing, tf.constant(filler, value.dtype))], axis=0)
