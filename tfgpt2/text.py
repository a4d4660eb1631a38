"""Text in, text out: the tokenizer, the compiled loop and the detokenizer joined.

    strings -> ids    `read_prompts`    TF string ops
    ids -> ids        `loop.decode`     one program, compiled by XLA
    ids -> strings    `write_texts`     TF string ops

Strings cannot enter XLA, so the borders lie where they do. `TextGenerator.pipeline` is the three
passes as one graph; Python calls and SavedModel signatures run the same one.
"""

from __future__ import annotations

import codecs
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfgpt2.errors import explain, nearest
from tfgpt2.generation import stopping
from tfgpt2.generation.buckets import check_buckets, default_buckets, round_up
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.decoder import Decoder
from tfgpt2.generation.loop import Request, Result
from tfgpt2.generation.options import ROW_OPTIONS, clamp, spread
from tfgpt2.generation.prompts import EMPTY, FINISH_REASONS, Prompts, read_prompts
from tfgpt2.generation.scoring import summarize, token_logprobs
from tfgpt2.generation.texts import Generation, as_bytes, check_numbers, records
from tfgpt2.modeling.heads import TFGPT2LMHeadModel
from tfgpt2.text_checks import check_defaults, check_parts
from tfgpt2.tokenizer.layer import TFGPT2Tokenizer
from tfgpt2.tokenizer.pretokenize import valid_utf8

__all__ = ["Generation", "TextGenerator"]

_STREAM_STEP = 4  # tokens between two looks at a stream: few calls, and still a steady flow


class Plan(NamedTuple):
    """What the loop is to do.

    Attributes:
        prompts: What it reads.
        request: The settings of each row.
        room: int32 zeros `[B, T]`; the shape is the size of the output.
    """

    prompts: Prompts
    request: Request
    room: tf.Tensor


def write_texts(
    tokenizer: TFGPT2Tokenizer, result: Result, prompts: Prompts
) -> dict[str, tf.Tensor]:
    """Turns what the loop made into strings and plain tensors, all with `B` as first axis.

    Returns:
        `text` (valid UTF-8), `text_bytes` (as the model wrote it) string `[B]`; `token_ids` int32
        `[B, T]`; `num_tokens`, `prompt_tokens`, `truncated` int32 `[B]`; `logprob` float32 `[B]`
        and `token_logprobs` `[B, T]` in nats; `finish_reason` string `[B]`.
    """
    width = tf.reduce_max(tf.pad(result.count, [[0, 1]]))
    tokens, logprobs = result.tokens[:, :width], result.logprobs[:, :width]  # [B, T]
    written = tf.range(width)[None] < result.count[:, None]  # [B, T]
    # -1 is no token; special tokens, the end token among them, are not text.
    raw = tokenizer.detokenize_bytes(tf.where(written, tokens, -1), skip_special_tokens=True)
    size = tf.strings.length(raw)
    raw = tf.strings.substr(raw, tf.zeros_like(size), tf.where(result.cut >= 0, result.cut, size))
    reason = tf.where(prompts.refusal > 0, prompts.refusal, result.reason)
    return {
        "text": valid_utf8(raw),
        "text_bytes": raw,
        "token_ids": tokens,
        "num_tokens": result.count,
        "prompt_tokens": prompts.length,
        "logprob": tf.reduce_sum(logprobs, axis=1),
        "token_logprobs": logprobs,
        "finish_reason": tf.gather(tf.constant(FINISH_REASONS), reason),
        "truncated": prompts.truncated,
    }


@keras.saving.register_keras_serializable("tfgpt2")
class TextGenerator(keras.Model):
    """Continues text: a Keras model from string to string.

    Args:
        model: The language model.
        tokenizer: The tokenizer that belongs to it.
        generation_config: Default settings; None is those of the model.
        on_long_prompt: What happens to a prompt that does not fit the context: `"error"`, or
            `"truncate_left"`, which keeps its end and leaves room for `max_new_tokens`.
        prompt_buckets: Sizes to which prompts are padded, in tokens; None is powers of two. A
            prompt larger than the last one is treated like one that does not fit the context.
        output_buckets: Sizes of the output buffer, in tokens; None is powers of two. The last one
            is the most tokens that a prompt gets.
        jit_compile: Whether XLA compiles the decode loop.
        **kwargs: `name`, `trainable`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The vocabulary is larger than the model's, or an argument is out of range.

    Example:
        >>> generator = TextGenerator.from_pretrained("shakespeare-tiny")
        >>> isinstance(generator.generate("To be", max_new_tokens=4, seed=1), str)
        True
    """

    def __init__(
        self,
        model: TFGPT2LMHeadModel,
        tokenizer: TFGPT2Tokenizer,
        generation_config: GenerationConfig | None = None,
        *,
        on_long_prompt: str = "error",
        prompt_buckets: Sequence[int] | None = None,
        output_buckets: Sequence[int] | None = None,
        jit_compile: bool = True,
        **kwargs: Any,
    ) -> None:
        check_parts(model, tokenizer, on_long_prompt)
        if generation_config is None:
            generation_config = model.generation_config
        check_defaults(generation_config)
        super().__init__(**kwargs)
        self.model, self.tokenizer = model, tokenizer
        self.generation_config = generation_config
        self.on_long_prompt = on_long_prompt
        context = model.config.n_positions
        buckets = {"prompt_buckets": prompt_buckets, "output_buckets": output_buckets}
        for name, sizes in buckets.items():
            sizes = default_buckets(context) if sizes is None else sizes
            setattr(self, name, check_buckets(name, sizes, context))
        self.jit_compile_loop = jit_compile
        ids = tf.range(model.config.vocab_size)[:, None]  # [V, 1]
        # The text of each token; special tokens and ids beyond the vocabulary have none.
        self._token_text = list(tokenizer.detokenize_bytes(ids, skip_special_tokens=True).numpy())
        vocabulary = stopping.token_bytes(self._token_text)
        self.decoder = Decoder(model, jit_compile=jit_compile, vocabulary=vocabulary)
        self._score = tf.function(
            functools.partial(token_logprobs, model, in_place=jit_compile),
            input_signature=[tf.TensorSpec([None, None], tf.int32)] * 2,
            jit_compile=jit_compile,
            autograph=False,
        )
        options = {name: tf.TensorSpec([None], one.dtype) for name, one in ROW_OPTIONS.items()}
        texts, stops = tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.string)
        self._plan = tf.function(
            self.plan, input_signature=[texts, options, stops], autograph=False
        )
        self._write = tf.function(self.write, autograph=False, reduce_retracing=True)
        self.built = True

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> TextGenerator:
        """Loads model, tokenizer and generation settings by directory, bundled or hub name.

        Args:
            name: `"shakespeare-tiny"` (bundled), a directory, or a hub name.
            **options: Where to look (`revision`, `token`, `cache_dir`, `subfolder`,
                `local_files_only`, `force_download`), `dtype` of the model, and the arguments of
                the class.

        Raises:
            FileNotFoundError: There is no such model.
            ValueError: A file is broken, or vocabulary and weights do not fit together.
            TypeError: An option is unknown.
        """
        own = ("generation_config", "on_long_prompt", "prompt_buckets", "output_buckets",
               "jit_compile", "name")  # fmt: skip
        where = ("revision", "token", "cache_dir", "subfolder", "local_files_only",
                 "force_download")  # fmt: skip
        for option in options:
            if option not in (*own, *where, "dtype"):
                raise TypeError(
                    explain(
                        f"TextGenerator.from_pretrained has no option {option!r}.",
                        fix=nearest(option, (*own, *where, "dtype")),
                        **{option: options[option]},
                    )
                )
        files = {option: options[option] for option in where if option in options}
        model = TFGPT2LMHeadModel.from_pretrained(name, dtype=options.get("dtype"), **files)
        tokenizer = TFGPT2Tokenizer.from_pretrained(name, **files)
        return cls(model, tokenizer, **{o: options[o] for o in own if o in options})

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes model, tokenizer and generation settings in transformers' formats."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        self.generation_config.save_pretrained(directory)

    # The three passes -------------------------------------------------------------------------

    def plan(self, text: tf.Tensor, options: Mapping[str, tf.Tensor], stop: tf.Tensor) -> Plan:
        """Pass 1: turns texts and settings into what the loop takes.

        Values out of range are moved into it and prompts that cannot run are marked, because a
        graph cannot raise; `generate` checks the one before and raises for the other.

        Args:
            text: string `[B]`.
            options: One tensor `[B]` for each of `tfgpt2.generation.config.ROW_OPTIONS`.
            stop: string `[B, Q]`; empty strings are no stops.
        """
        context = self.model.config.n_positions
        options = {name: clamp(name, options[name]) for name in ROW_OPTIONS}
        prompts = read_prompts(
            self.tokenizer.tokenize(text),
            options["max_new_tokens"],
            context=context,
            start_id=self._start_id(),
            truncate=self.on_long_prompt == "truncate_left",
            buckets=self.prompt_buckets,
        )
        fits = tf.where(prompts.refusal > 0, 0, context - prompts.length)
        limit = tf.minimum(options["max_new_tokens"], tf.minimum(fits, self.output_buckets[-1]))
        options["seed"] = tf.where(options["seed"] < 0, _fresh_seeds(text), options["seed"])
        rows = tf.shape(text)[0]
        eos = tf.constant([self.generation_config.eos_ids or [-1]], tf.int32)  # [1, E]
        request = Request(
            **(options | {"max_new_tokens": limit}),
            eos=tf.tile(eos, [rows, 1]),  # [B, E]
            stops=stopping.stop_strings(stop),
        )
        columns = round_up(tf.reduce_max(tf.pad(limit, [[0, 1]])), self.output_buckets)
        return Plan(prompts, request, tf.zeros([rows, columns], tf.int32))  # [B, T]

    def decode(self, plan: Plan) -> Result:
        """Pass 2: runs the compiled loop."""
        prompts, request, room = plan
        return self.decoder.decode(prompts.ids, prompts.mask, request, room)

    def write(self, result: Result, prompts: Prompts) -> dict[str, tf.Tensor]:
        """Pass 3: see `write_texts`."""
        return write_texts(self.tokenizer, result, prompts)

    def pipeline(
        self, text: tf.Tensor, options: Mapping[str, tf.Tensor], stop: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The three passes in one graph, for SavedModels and Keras graphs.

        Args:
            text: See `plan`, as for the next two.
            options: One tensor `[B]` for each setting.
            stop: string `[B, Q]`.

        Returns:
            See `write_texts`.
        """
        rows = tf.shape(text)[0]
        # XLA compiles no program for zero rows: an empty batch becomes a row that asks nothing.
        idle = {"max_new_tokens": 0, "seed": 0}
        options = {
            name: _at_least_one(value, idle.get(name, ROW_OPTIONS[name].off))
            for name, value in options.items()
        }
        plan = self.plan(_at_least_one(text, ""), options, _at_least_one(stop, ""))
        outputs = self.write(self.decode(plan), plan.prompts)
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

    def call(self, text: tf.Tensor) -> tf.Tensor:
        """Continues texts with the default settings: string `[]` or `[B]` -> the same shape."""
        rows = tf.reshape(text, [-1])  # [B]
        options = {
            name: tf.fill(tf.shape(rows), tf.cast(value, ROW_OPTIONS[name].dtype))
            for name, value in self.default_options().items()
        }
        stop = tf.tile(tf.constant([self.default_stops()], tf.string), [tf.size(rows), 1])
        return tf.reshape(self.pipeline(rows, options, stop)["text"], tf.shape(text))

    def default_options(self) -> dict[str, Any]:
        """Settings of the generation configuration, by the names of `ROW_OPTIONS`."""
        options = self.generation_config.row_options()
        if self.generation_config.seed is None:
            options["seed"] = ROW_OPTIONS["seed"].off
        return options

    def default_stops(self) -> list[str]:
        """Stop strings of the generation configuration, at least one, which may be empty."""
        strings = self.generation_config.stop_strings or [""]
        return [strings] if isinstance(strings, str) else list(strings)

    # Python's face ----------------------------------------------------------------------------

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        stop: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        details: bool = False,
        **options: Any,
    ) -> Any:
        """Continues one text or several.

        Args:
            prompts: A string or strings. An empty one continues from the model's start token.
            stop: String or strings at which a text ends; they are matched on bytes across token
                boundaries and cut off. A list per prompt gives each its own. None takes the
                configuration's.
            details: Return `Generation` records in place of strings.
            **options: One value, or one per prompt, of: `max_new_tokens`, `min_new_tokens`,
                `temperature` (0 is greedy), `top_k` (0 is off), `top_p`, `min_p`,
                `repetition_penalty`, `seed` (prompt `i` uses `seed + i`). Left out, those of the
                configuration hold.

        Returns:
            The continuation(s), without the prompt: `str` for one prompt, a list for several.

        Raises:
            TypeError: `prompts` is no text, or an option is unknown.
            ValueError: A value is out of range, or a prompt cannot run.
        """
        texts = as_bytes(prompts)
        plan = self._checked_plan(texts, options, stop)
        found = records(self._write(self.decode(plan), plan.prompts) if texts else {})
        values = found if details else [record.text for record in found]
        return values[0] if isinstance(prompts, (str, bytes)) else values

    def stream(
        self, prompt: str, *, stop: str | Sequence[str] | None = None, **options: Any
    ) -> Iterator[str]:
        """Continues one text and yields it piece by piece, as soon as pieces are certain.

        A piece never ends within a UTF-8 character and never holds part of a stop string. The
        pieces joined are what `generate` returns for the same arguments.

        Args:
            prompt: A string.
            stop: See `generate`.
            **options: See `generate`.

        Yields:
            Pieces of text.

        Raises:
            TypeError: `prompt` is no string, or an option is unknown.
            ValueError: A value is out of range, or the prompt cannot run.
        """
        if not isinstance(prompt, (str, bytes)):
            raise TypeError(
                explain(
                    "stream() continues one text.",
                    fix="Use generate() for several.",
                    prompt=prompt,
                )
            )
        return self._pieces(self._checked_plan(as_bytes(prompt), options, stop))

    def _pieces(self, plan: Plan) -> Iterator[str]:
        """Decodes a few tokens at a time and yields the text that can no longer change."""
        # The end of the text might be the beginning of a stop string.
        held_back = max(0, int(tf.reduce_max(plan.request.stops.lengths)) - 1)
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        state = self.decoder.start(plan.prompts.ids, plan.prompts.mask, plan.request, plan.room)
        done = 0
        while True:
            running = int(state.reason[0]) == stopping.RUNNING
            check_numbers(state.logprobs.numpy())
            tokens = state.tokens[0, : int(state.count[0])].numpy()
            text = b"".join(self._token_text[token] for token in tokens)
            end, cut = len(text) - (held_back if running else 0), int(state.stop.cut[0])
            end = max(done, end if cut < 0 else cut)
            piece = utf8.decode(text[done:end], final=not running)
            if piece:
                yield piece
            if not running:
                return
            done = end
            until = state.step + _STREAM_STEP
            state = self.decoder.advance(state, plan.request, until)

    def _checked_plan(self, texts: list[bytes], options: Mapping[str, Any], stop: Any) -> Plan:
        """Checks what a user asked for and plans it.

        Raises:
            TypeError: An option is unknown.
            ValueError: A value is out of range, or a prompt cannot run.
        """
        for name in options:
            if name not in ROW_OPTIONS:
                raise TypeError(
                    explain(
                        f"There is no option {name!r}.",
                        fix=nearest(name, [*ROW_OPTIONS, "stop", "details"]),
                        **{name: options[name]},
                    )
                )
        rows = len(texts)
        values = self.default_options() | {k: v for k, v in options.items() if v is not None}
        settings = {name: spread(name, values[name], rows) for name in ROW_OPTIONS}
        stops = stopping.stop_rows("stop", self.default_stops() if stop is None else stop, rows)
        plan = self._plan(tf.constant(texts, tf.string, [rows]), settings, stops)
        for row, refusal in enumerate(plan.prompts.refusal.numpy()):
            if refusal:
                raise ValueError(self._refusal(refusal, row))
        return plan

    def _refusal(self, code: int, row: int) -> str:
        """Says why a prompt cannot run."""
        if code == EMPTY:
            return explain(
                "The prompt is empty and the model has no start token to begin from.",
                fix="Give at least one character that the vocabulary knows.",
                prompt_number=row,
            )
        return explain(
            "The prompt leaves no room in the model's context of"
            f" {self.model.config.n_positions} tokens.",
            fix="Shorten it, or make the generator with on_long_prompt='truncate_left'.",
            prompt_number=row,
        )

    def _start_id(self) -> int | None:
        """The token that stands for an empty prompt: the start token, else an end token."""
        config = self.generation_config
        ids = (config.bos_token_id, self.model.config.bos_token_id, *config.eos_ids)
        size = self.model.config.vocab_size
        return next((one for one in ids if one is not None and one < size), None)

    def export(self, path: str | os.PathLike[str], **options: Any) -> Any:
        """Writes a string-to-string SavedModel; see `tfgpt2.serving.export.export`."""
        from tfgpt2.serving.export import export

        return export(self, path, **options)

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make this generator again, without weights."""
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "tokenizer": keras.saving.serialize_keras_object(self.tokenizer),
            "generation_config": self.generation_config.to_dict(),
            "on_long_prompt": self.on_long_prompt,
            "prompt_buckets": list(self.prompt_buckets),
            "output_buckets": list(self.output_buckets),
            "jit_compile": self.jit_compile_loop,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TextGenerator:
        """Makes a generator from what `get_config` returned."""
        config = dict(config)
        model = keras.saving.deserialize_keras_object(config.pop("model"))
        tokenizer = keras.saving.deserialize_keras_object(config.pop("tokenizer"))
        generation_config = GenerationConfig.from_dict(config.pop("generation_config"))
        return cls(model, tokenizer, generation_config, **config)


def _fresh_seeds(text: tf.Tensor) -> tf.Tensor:
    """Random seeds int64 `[B]` that differ from run to run, whatever `tf.random.set_seed` said."""
    return tf.raw_ops.RandomUniformInt(
        shape=tf.shape(text),
        minval=tf.constant(0, tf.int64),
        maxval=tf.constant(2**62, tf.int64),
        seed=0,
        seed2=0,
    )


def _at_least_one(value: tf.Tensor, filler: Any) -> tf.Tensor:
    """`[B, ...]` -> `[max(B, 1), ...]`."""
    shape = tf.shape(value)
    missing = tf.concat([tf.maximum(1 - shape[:1], 0), shape[1:]], axis=0)
    return tf.concat([value, tf.fill(missing, tf.constant(filler, value.dtype))], axis=0)
