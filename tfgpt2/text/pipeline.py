"""The three passes of text generation as graphs: strings -> ids, ids -> ids, ids -> strings.

    strings -> ids    `read_prompts`    TF string ops
    ids -> ids        `Decoder.run`     one program, compiled by XLA
    ids -> strings    `write_texts`     TF string ops

Strings cannot enter XLA, so the borders lie where they do. `Passes.pipeline` is the three passes as
one graph; Python calls and SavedModel signatures run the same one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation import params as planning
from tfgpt2.generation import stopping
from tfgpt2.generation.buckets import default_buckets, round_up
from tfgpt2.generation.compiled import Decoder
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.options import EXTRA_OPTIONS, ROW_OPTIONS, clamp
from tfgpt2.generation.request import Context, Program, Prompt, Request, Result
from tfgpt2.generation.scoring import summarize, token_logprobs
from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
from tfgpt2.nn.cache import Prefix, align_right
from tfgpt2.text.prompts import Prompts, after_prefix, read_prompts
from tfgpt2.text.records import as_bytes, token_texts, write_texts
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer


class Plan(NamedTuple):
    """What the loop is to do.

    Attributes:
        prompts: What it reads.
        prompt: The same as the loop takes it.
        request: The settings of each row; `R` rows, `program.texts` for each prompt.
        room: int32 zeros `[R, T]`; the shape is the size of the output.
    """

    prompts: Prompts
    prompt: Prompt
    request: Request
    room: tf.Tensor


class Passes:
    """What turns texts into texts inside a graph; `TextGenerator` adds Keras and Python to it.

    Attributes:
        model: The language model.
        tokenizer: Its tokenizer.
        assistant: A smaller model that guesses ahead, or None.
        generation_config: Default settings.
        program: What the default settings are compiled for.
        decoder: The compiled programs.
    """

    model: TFGPT2LMHeadModel
    tokenizer: TFGPT2Tokenizer
    assistant: TFGPT2LMHeadModel | None
    generation_config: GenerationConfig
    on_long_prompt: str
    prompt_buckets: Sequence[int]
    output_buckets: Sequence[int]

    def set_up(self, *, jit_compile: bool, prefix: str | None, negative: str | None) -> None:
        """Makes the programs, and reads what comes before every prompt.

        Args:
            jit_compile: Whether XLA compiles pass 2.
            prefix: See `TextGenerator`.
            negative: See `TextGenerator`, `negative_prompt`.
        """
        model, tokenizer = self.model, self.tokenizer
        # The text of each token; special tokens and ids beyond the vocabulary have none.
        self._token_text = token_texts(tokenizer, model.config.vocab_size)
        vocabulary = stopping.token_bytes(self._token_text)
        self.decoder = Decoder(
            model, jit_compile=jit_compile, vocabulary=vocabulary, assistant=self.assistant
        )
        self.program, self._fields = self._planned(self.generation_config, 1)
        self._before, self._last, self.prefix_variables = (), None, []
        if prefix is not None:
            self._before, self._last = self._read_prefix(prefix)
        self._negative = None if negative is None else self._read_ids(negative)
        self._score = tf.function(
            functools.partial(token_logprobs, model),
            input_signature=[tf.TensorSpec([None, None], tf.int32)] * 2,
            jit_compile=jit_compile,
            autograph=False,
        )
        options = {name: tf.TensorSpec([None], one.dtype) for name, one in ROW_OPTIONS.items()}
        texts, stops = tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.string)
        self._plan = tf.function(
            self.plan, input_signature=[texts, options, stops], autograph=False
        )
        self._write = tf.function(
            functools.partial(write_texts, tokenizer), autograph=False, reduce_retracing=True
        )

    def plan(self, text: tf.Tensor, options: Mapping[str, tf.Tensor], stop: tf.Tensor) -> Plan:
        """Pass 1: turns texts and settings into what the loop takes, one row for each text.

        Values out of range are moved into it and prompts that cannot run are marked, because a
        graph cannot raise; `generate` checks the one before and raises for the other.

        Args:
            text: string `[B]`.
            options: One tensor `[B]` for each of `tfgpt2.generation.options.ROW_OPTIONS`.
            stop: string `[B, Q]`; empty strings are no stops.
        """
        taken = 0 if not self._before else self._before.ids.shape[1]
        context = self.model.config.n_positions - taken
        options = {name: clamp(name, options[name]) for name in ROW_OPTIONS}
        prompts = read_prompts(
            self.tokenizer.tokenize(text),
            options["max_new_tokens"],
            context=context - (self._last is not None),
            start_id=self._start_id() if self._last is None else None,
            truncate=self.on_long_prompt == "truncate_left",
            buckets=self.prompt_buckets,
        )
        if self._last is not None:
            prompts = after_prefix(prompts, self._last)
        fits = tf.where(prompts.refusal > 0, 0, context - prompts.length)
        limit = tf.minimum(options["max_new_tokens"], tf.minimum(fits, self.output_buckets[-1]))
        options["seed"] = tf.where(options["seed"] < 0, _fresh_seeds(text), options["seed"])
        rows = tf.shape(text)[0]
        request = Request(
            **(options | {"max_new_tokens": limit}),
            eos=planning.spread_rows(planning.eos_rows(self.generation_config), rows),  # [B, E]
            stops=stopping.stop_strings(stop),
        )
        columns = round_up(tf.reduce_max(tf.pad(limit, [[0, 1]])), self.output_buckets)
        prompt = self._after_prefix(prompts)
        return Plan(prompts, prompt, request, tf.zeros([rows, columns], tf.int32))  # [B, T]

    def complete(
        self, plan: Plan, program: Program, fields: Mapping[str, Any], negative: Any = None
    ) -> Plan:
        """Adds the fields that only some programs have, and rows for further texts of a prompt.

        Args:
            plan: What `plan` returned.
            program: What is to run.
            fields: Fields of a `Request` with 1 or `B` rows.
            negative: ids and mask int32 `[1 or B, P]` that guidance leads away from; None is
                each prompt's last token.
        """
        prompts, prompt, request, room = plan
        rows, texts = tf.shape(prompts.ids)[0], program.texts
        request = request._replace(**fields)
        if not isinstance(request.guidance_scale, tuple):
            negative = self._negative if negative is None else negative
            if negative is None:
                negative = prompts.ids[:, -1:], tf.ones_like(prompts.ids[:, -1:])
            prompt = prompt._replace(negative=planning.spread_rows(Prompt(*negative), rows))
        request = planning.spread_rows(request, rows, texts)._replace(
            seed=planning.spread_seeds(request.seed, texts)
        )
        return Plan(prompts, prompt, request, tf.repeat(room, texts, axis=0))  # [R, T]

    def decode(self, plan: Plan, program: Program | None = None) -> Result:
        """Pass 2: runs the compiled program, by default that of the generation configuration."""
        _, prompt, request, room = plan
        return self.decoder.run(self.program if program is None else program, prompt, request, room)

    def write(self, result: Result, prompts: Prompts) -> dict[str, tf.Tensor]:
        """Pass 3: see `tfgpt2.text.records.write_texts`."""
        if self._last is not None:  # the prefix's own token is no part of the prompt
            prompts = prompts._replace(length=prompts.length - 1)
        return self._write(result, prompts)

    def pipeline(
        self, text: tf.Tensor, options: Mapping[str, tf.Tensor], stop: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The three passes in one graph, for SavedModels and Keras graphs.

        What the options do not say is as the generation configuration says.

        Args:
            text: string `[B]`.
            options: One tensor `[B]` for each of `ROW_OPTIONS`, and for any of `EXTRA_OPTIONS`.
            stop: string `[B, Q]`.

        Returns:
            See `write_texts`. Where the configuration asks for several texts per prompt
            (`num_return_sequences`), a second axis counts them: `[B, n, ...]`.
        """
        if self.generation_config.max_time is not None:
            raise ValueError(
                explain(
                    "A graph cannot watch the clock: max_time is for generate().",
                    fix="Use max_new_tokens.",
                    max_time=self.generation_config.max_time,
                )
            )
        rows = tf.shape(text)[0]
        # XLA compiles no program for zero rows: an empty batch becomes a row that asks nothing.
        idle = {"max_new_tokens": 0, "seed": 0}
        every = ROW_OPTIONS | EXTRA_OPTIONS
        options = {
            name: _at_least_one(value, idle.get(name, every[name].off))
            for name, value in options.items()
        }
        plan = self.plan(_at_least_one(text, ""), options, _at_least_one(stop, ""))
        extra = {n: clamp(n, value) for n, value in options.items() if n in EXTRA_OPTIONS}
        plan = self.complete(plan, self.program, self._fields | extra)
        outputs = self.write(self.decode(plan), plan.prompts)
        returns = self.program.returns
        if returns > 1:
            shapes = {n: tf.concat([[-1, returns], tf.shape(x)[1:]], 0) for n, x in outputs.items()}
            outputs = {name: tf.reshape(x, shapes[name]) for name, x in outputs.items()}
        return {name: value[:rows] for name, value in outputs.items()}

    def scores(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """Says how likely the model finds texts, in one graph.

        Args:
            text: string `[B]`. What exceeds the context is dropped on the left.

        Returns:
            `logprob` float32 `[B]` (nats, the sum over tokens); `num_tokens` int32 `[B]`, the
            tokens that are scored: all but the first, which follows nothing; `perplexity` float32
            `[B]`; `token_logprobs` float32 `[B, T]`, 0 for the first token and after the last;
            `truncated` int32 `[B]`. An empty text has `num_tokens` 0 and perplexity 1.
        """
        context, rows = self.model.config.n_positions, tf.shape(text)[0]
        text = _at_least_one(text, "")
        prompts = read_prompts(
            self.tokenizer.tokenize(text),
            tf.ones([tf.shape(text)[0]], tf.int32),
            context=context + 1,  # nothing is generated: the text may fill the context
            start_id=self._start_id(),
            truncate=True,
            buckets=self.prompt_buckets,
        )
        outputs = summarize(self._score(prompts.ids, prompts.mask), prompts.length)
        outputs |= {"truncated": prompts.truncated}
        return {name: value[:rows] for name, value in outputs.items()}

    def default_options(self, config: GenerationConfig | None = None) -> dict[str, Any]:
        """Settings of a configuration, or of the generator's, by the names of `ROW_OPTIONS`."""
        return (self.generation_config if config is None else config).row_options()

    def default_stops(self, config: GenerationConfig | None = None) -> list[str]:
        """Stop strings of a configuration, at least one, which may be empty."""
        strings = (self.generation_config if config is None else config).stop_strings or [""]
        return [strings] if isinstance(strings, str) else list(strings)

    def _read_ids(self, texts: str | Sequence[str]) -> tuple[tf.Tensor, tf.Tensor]:
        """Tokenizes negative prompts: ids and mask int32 `[1 or B, P]`, padded to a bucket."""
        tokens = self.tokenizer.tokenize(tf.constant(as_bytes(texts), tf.string))
        context = self.model.config.n_positions
        prompts = read_prompts(
            tokens,
            tf.ones([tokens.shape[0]], tf.int32),
            context=context,
            start_id=self._start_id(),
            truncate=True,
            buckets=default_buckets(context),
        )
        return prompts.ids, prompts.mask

    def _read_prefix(self, text: str) -> tuple[Prefix, int]:
        """Reads a prefix but for its last token, which the model reads with each prompt."""
        ids = self.tokenizer.tokenize(tf.constant(as_bytes(text), tf.string))[0]  # [P]
        if not 2 <= ids.shape[0] < self.model.config.n_positions - 1:
            raise ValueError(
                explain(
                    "`prefix` must have two tokens or more, and leave room in the model's context"
                    f" of {self.model.config.n_positions}.",
                    fix="Shorten it, or put a short one into the prompts.",
                    tokens=ids.shape[0],
                )
            )
        read = self.model.prefix(ids[None, :-1])
        # Variables, so that the signatures of an export share one copy.
        kept = tf.nest.map_structure(lambda x: tf.Variable(x, trainable=False), read)
        self.prefix_variables = tf.nest.flatten(kept)  # Keras does not look into tuples of tuples
        return kept, int(ids[-1])

    def _after_prefix(self, prompts: Prompts) -> Prompt:
        """The prompts as the loop takes them: with the prefix, of which the cache is known."""
        if not self._before:
            return Prompt(prompts.ids, prompts.mask)
        prefix = tf.nest.map_structure(tf.convert_to_tensor, self._before)
        rows = tf.shape(prompts.ids)[0]
        before = tf.repeat(prefix.ids, rows, axis=0)  # [B, S]
        ids, mask = align_right(
            tf.concat([before, prompts.ids], axis=1),
            tf.concat([tf.ones_like(before), prompts.mask], axis=1),
        )  # [B, S + P]
        return Prompt(ids, mask, Context(prompts.ids, prompts.mask, prefix=prefix))

    def _planned(
        self, config: GenerationConfig, rows: int, **functions: Any
    ) -> tuple[Program, dict[str, Any]]:
        """What a program is compiled for, and the fields of a request that only some have."""
        size = self.model.config.vocab_size
        program = planning.program_of(config, size, assisted=self._assisted(config), **functions)
        # What a text generator returns holds no scores of the whole vocabulary.
        program = dataclasses.replace(program, scores=False, logits=False)
        return program, planning.extra_fields(config, rows, size, self._token_text)

    def _assisted(self, config: GenerationConfig) -> bool:
        """Whether the smaller model guesses: where there is one and nothing speaks against it."""
        single = config.strategy in ("greedy", "sample")
        return self.assistant is not None and single and not config.prompt_lookup_num_tokens

    def _start_id(self) -> int | None:
        """The token that stands for an empty prompt: the start token, else an end token."""
        config = self.generation_config
        ids = (config.bos_token_id, self.model.config.bos_token_id, *config.eos_ids)
        size = self.model.config.vocab_size
        return next((one for one in ids if one is not None and one < size), None)


def _fresh_seeds(text: tf.Tensor) -> tf.Tensor:
    """Random seeds int64 `[B]` that differ from run to run, whatever `tf.random.set_seed` said."""
    # Not `RandomUniformInt`: under `enable_op_determinism` no program with one runs, not even when
    # every row brings its seed.
    bits = tf.raw_ops.NonDeterministicInts(shape=tf.shape(text, tf.int64), dtype=tf.int64)  # [B]
    return tf.bitwise.bitwise_and(bits, tf.constant(2**62 - 1, tf.int64))


def _at_least_one(value: tf.Tensor, filler: Any) -> tf.Tensor:
    """`[B, ...]` -> `[max(B, 1), ...]`."""
    shape = tf.shape(value)
    missing = tf.concat([tf.maximum(1 - shape[:1], 0), shape[1:]], axis=0)
    return tf.concat([value, tf.fill(missing, tf.constant(filler, value.dtype))], axis=0)
