"""Text in, text out: `TextGenerator`, the Keras model and what Python calls.

What happens between the strings is in `tfgpt2.text.pipeline`.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain, nearest
from tfgpt2.generation import stopping
from tfgpt2.generation.buckets import check_buckets, default_buckets
from tfgpt2.generation.compiled import watched
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.known_options import SAMPLING
from tfgpt2.generation.options import OPTIONS, ROW_OPTIONS, check_row_option, spread
from tfgpt2.generation.request import Program
from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
from tfgpt2.text.checks import TEXT_OPTIONS, check_defaults, check_parts
from tfgpt2.text.pipeline import Passes, Plan
from tfgpt2.text.prompts import EMPTY
from tfgpt2.text.records import Generation, as_bytes, check_numbers, records
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

__all__ = ["Generation", "TextGenerator"]

_STREAM_STEP = 4  # tokens between two looks at a stream: few calls, and still a steady flow


@keras.saving.register_keras_serializable("tfgpt2")
class TextGenerator(Passes, keras.Model):
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
        prefix: A text that comes before every prompt, such as an instruction; it is read once.
        negative_prompt: What `guidance_scale` leads away from; None is each prompt's last token.
        assistant: A smaller model of the same vocabulary that guesses `num_assistant_tokens` at a
            time; the texts stay the same.
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
        prefix: str | None = None,
        negative_prompt: str | None = None,
        assistant: TFGPT2LMHeadModel | None = None,
        **kwargs: Any,
    ) -> None:
        check_parts(model, tokenizer, on_long_prompt, assistant)
        if generation_config is None:
            generation_config = model.generation_config
        check_defaults(generation_config, prefix)
        super().__init__(**kwargs)
        self.model, self.tokenizer = model, tokenizer
        self.generation_config = generation_config
        self.on_long_prompt = on_long_prompt
        context = model.config.n_positions
        buckets = {"prompt_buckets": prompt_buckets, "output_buckets": output_buckets}
        for name, sizes in buckets.items():
            sizes = default_buckets(context) if sizes is None else sizes
            setattr(self, name, check_buckets(name, sizes, context))
        self.jit_compile_loop, self.assistant = jit_compile, assistant
        self.prefix, self.negative_prompt = prefix, negative_prompt
        self.set_up(jit_compile=jit_compile, prefix=prefix, negative=negative_prompt)
        self.built = True

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> TextGenerator:
        """Loads model, tokenizer and generation settings by directory, bundled or hub name.

        Args:
            name: `"shakespeare-tiny"` (bundled), a directory, or a hub name.
            **options: Where to look (`revision`, `token`, `cache_dir`, `subfolder`,
                `local_files_only`, `force_download`), `dtype` and `quantize` of the model, and the
                arguments of the class.

        Raises:
            FileNotFoundError: There is no such model.
            ValueError: A file is broken, or vocabulary and weights do not fit together.
            TypeError: An option is unknown.
        """
        own = ("generation_config", "on_long_prompt", "prompt_buckets", "output_buckets",
               "jit_compile", "prefix", "negative_prompt", "assistant", "name")  # fmt: skip
        where = ("revision", "token", "cache_dir", "subfolder", "local_files_only",
                 "force_download")  # fmt: skip
        weights = ("dtype", "quantize")
        for option in options:
            if option not in (*own, *where, *weights):
                raise TypeError(
                    explain(
                        f"TextGenerator.from_pretrained has no option {option!r}.",
                        fix=nearest(option, (*own, *where, *weights)),
                        **{option: options[option]},
                    )
                )
        files = {option: options[option] for option in where if option in options}
        loading = {option: options[option] for option in weights if option in options}
        model = TFGPT2LMHeadModel.from_pretrained(name, **loading, **files)
        tokenizer = TFGPT2Tokenizer.from_pretrained(name, **files)
        return cls(model, tokenizer, **{o: options[o] for o in own if o in options})

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes model, tokenizer and generation settings in transformers' formats."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        self.generation_config.save_pretrained(directory)

    def call(self, text: tf.Tensor) -> tf.Tensor:
        """Continues texts with the default settings: string `[]` or `[B]` -> the same shape."""
        rows = tf.reshape(text, [-1])  # [B]
        options = {
            name: tf.fill(tf.shape(rows), tf.cast(value, ROW_OPTIONS[name].dtype))
            for name, value in self.default_options().items()
        }
        stop = tf.tile(tf.constant([self.default_stops()], tf.string), [tf.size(rows), 1])
        found = self.pipeline(rows, options, stop)["text"]
        found = found if self.program.returns == 1 else found[:, 0]  # the best
        return tf.reshape(found, tf.shape(text))

    # Python's face ----------------------------------------------------------------------------

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        stop: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        details: bool = False,
        negative_prompt: str | Sequence[str] | None = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        **options: Any,
    ) -> Any:
        """Continues one text or several.

        Args:
            prompts: A string or strings. An empty one continues from the model's start token.
            stop: String or strings at which a text ends; they are matched on bytes across token
                boundaries and cut off. A list per prompt gives each its own. None takes the
                configuration's.
            details: Return `Generation` records in place of strings.
            negative_prompt: What `guidance_scale` leads away from; None is the generator's.
            logits_processor: A function of tensors, or several; see `TFGPT2LMHeadModel.generate`.
            stopping_criteria: The same for ends.
            **options: Settings of `GenerationConfig`, one value or one per prompt:
                `max_new_tokens`, `temperature` (0 is greedy), `top_p`, `seed` (prompt `i` uses
                `seed + i`), `num_beams`, `regex`, ... Left out, those of the configuration hold.
                A `temperature` decides by itself whether tokens are drawn.

        Returns:
            The continuation(s), without the prompt: `str` for one prompt, a list for several;
            with `num_return_sequences` above 1, a list in place of each.

        Raises:
            TypeError: `prompts` is no text, or an option is unknown.
            ValueError: A value is out of range, contradicts another, or a prompt cannot run.
        """
        texts = as_bytes(prompts)
        config = self._asked(options)
        functions = {"processors": logits_processor, "criteria": stopping_criteria}
        program, plan = self._checked_plan(texts, config, stop, negative_prompt, **functions)
        if not texts:
            found = []
        else:
            if config.max_time is None:
                result = self.decode(plan, program)
            else:
                run = (program, *plan[1:])
                result = watched(self.decoder, *run, seconds=config.max_time)
            found = records(self.write(result, plan.prompts))
        values: list[Any] = found if details else [record.text for record in found]
        if program.returns > 1:
            values = [
                values[i : i + program.returns] for i in range(0, len(values), program.returns)
            ]
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
            **options: See `generate`; no beams, no contrastive search and one text only.

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
        config = self._asked(options)
        program, plan = self._checked_plan(as_bytes(prompt), config, stop)
        if config.strategy not in ("greedy", "sample") or program.texts > 1 or config.max_time:
            raise ValueError(
                explain(
                    "stream() gives one text, as it grows: searches, several texts and max_time"
                    " are for generate().",
                    fix="Leave num_beams, penalty_alpha, num_return_sequences, best_of and"
                    " max_time out.",
                    **options,
                )
            )
        return self._pieces(program, plan)

    def _pieces(self, program: Program, plan: Plan) -> Iterator[str]:
        """Decodes a few tokens at a time and yields the text that can no longer change."""
        # The end of the text might be the beginning of a stop string.
        held_back = max(0, int(tf.reduce_max(plan.request.stops.lengths)) - 1)
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        asked = (program, plan.prompt, plan.request)
        state = self.decoder.start(*asked, plan.room)
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
            until = state.count[0] + _STREAM_STEP
            state = self.decoder.advance(*asked, state, until)

    def _asked(self, options: Mapping[str, Any]) -> GenerationConfig:
        """Joins the configuration and the options of a call.

        Raises:
            TypeError: An option is unknown.
            ValueError: A value is out of range, or contradicts another.
        """
        options = {name: value for name, value in options.items() if value is not None}
        for name in options:
            if name not in TEXT_OPTIONS:
                raise TypeError(
                    explain(
                        f"There is no option {name!r}.",
                        fix=nearest(name, [*TEXT_OPTIONS, "stop", "details"]),
                        **{name: options[name]},
                    )
                )
        if not options:
            return self.generation_config
        if "temperature" in options and "do_sample" not in options:
            check_row_option("temperature", options["temperature"])
            options["do_sample"] = bool(np.any(np.asarray(options["temperature"]) > 0))
            if not options["do_sample"]:
                options.pop("temperature")
            elif not self.generation_config.do_sample:
                # As in an export: filters of a greedy configuration are off unless asked for.
                off = {name: OPTIONS[name].off for name in SAMPLING if name != "temperature"}
                options = off | options
        return self.generation_config.updated(**options)

    def _checked_plan(
        self,
        texts: list[bytes],
        config: GenerationConfig,
        stop: Any,
        negative_prompt: Any = None,
        **functions: Any,
    ) -> tuple[Program, Plan]:
        """Checks what a user asked for and plans it.

        Raises:
            ValueError: A value is out of range, or a prompt cannot run.
        """
        rows = len(texts)
        values = self.default_options(config)
        settings = {name: spread(name, values[name], rows) for name in ROW_OPTIONS}
        strings = self.default_stops(config) if stop is None else stop
        stops = stopping.stop_rows("stop", strings, rows)
        if config.strategy == "contrastive":
            check_defaults(config, self.prefix)
        program, fields = self._planned(config, rows, **functions)
        plan = self._plan(tf.constant(texts, tf.string, [rows]), settings, stops)
        for row, refusal in enumerate(plan.prompts.refusal.numpy()):
            if refusal:
                raise ValueError(self._refusal(refusal, row))
        negative = None
        if negative_prompt is not None:
            if not config.asks("guidance_scale"):
                raise ValueError(
                    explain(
                        "A negative prompt acts with guidance only.",
                        fix="Add guidance_scale=1.5.",
                        guidance_scale=config.guidance_scale,
                    )
                )
            negative = self._read_ids(negative_prompt)
        return program, self.complete(plan, program, fields, negative) if rows else plan

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

    def export(self, path: str | os.PathLike[str], **options: Any) -> Any:
        """Writes a string-to-string SavedModel; see `tfgpt2.serving.export.export.export`."""
        from tfgpt2.serving.export.export import export

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
            "prefix": self.prefix,
            "negative_prompt": self.negative_prompt,
            "assistant": keras.saving.serialize_keras_object(self.assistant),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TextGenerator:
        """Makes a generator from what `get_config` returned."""
        config = dict(config)
        model = keras.saving.deserialize_keras_object(config.pop("model"))
        tokenizer = keras.saving.deserialize_keras_object(config.pop("tokenizer"))
        generation_config = GenerationConfig.from_dict(config.pop("generation_config"))
        config["assistant"] = keras.saving.deserialize_keras_object(config.pop("assistant", None))
        return cls(model, tokenizer, generation_config, **config)
