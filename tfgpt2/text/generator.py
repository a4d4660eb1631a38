"""Text in, text out: `TextGenerator`, the Keras model and its Python API."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain, nearest, type_error, value_error
from tfgpt2.generation import stopping
from tfgpt2.generation.buckets import check_buckets, default_buckets
from tfgpt2.generation.compiled import decode_with_deadline
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.option_table import OPTIONS, SAMPLING_OPTIONS
from tfgpt2.generation.option_values import check_option
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.params import DecodeSpec, option_rows
from tfgpt2.hub import HubOptions
from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
from tfgpt2.text.checks import TEXT_OPTIONS, check_defaults, check_parts, with_end_token
from tfgpt2.text.pipeline import EncodedTexts, TextPipeline, TextRequest
from tfgpt2.text.prompts import EMPTY, UNKNOWN
from tfgpt2.text.records import Generation, generations, prompts_as_bytes
from tfgpt2.text.streaming import stream_text
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

__all__ = ["Generation", "TextGenerator"]


# Keywords of `from_pretrained` that are the model's.
_MODEL_OPTIONS = ("dtype", "quantize", "ignore_mismatched_sizes", "use_safetensors", "from_pt",
                  "low_cpu_mem_usage")  # fmt: skip


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
        prefix: A text that comes before every prompt, such as an instruction; it is read once.
        negative_prompt: What `guidance_scale` leads away from; None is each prompt's last token.
        assistant: A smaller model of the same vocabulary that proposes `num_assistant_tokens` draft
            tokens at a time; the texts stay the same.
        cache_dtype: Dtype in which keys and values are kept: `"float32"`, or `"bfloat16"` or
            `"float16"`, which take half the memory and make long contexts faster; None is the
            model's own.
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
        cache_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_parts(model, tokenizer, on_long_prompt, assistant)
        if generation_config is None:
            generation_config = model.generation_config
        generation_config = with_end_token(generation_config, model, tokenizer)
        check_defaults(generation_config, prefix)
        super().__init__(**kwargs)
        self.model, self.tokenizer, self.assistant = model, tokenizer, assistant
        self.generation_config = generation_config
        self.on_long_prompt, self.jit_compile_loop = on_long_prompt, jit_compile
        self.prefix, self.negative_prompt = prefix, negative_prompt
        self.cache_dtype = cache_dtype
        context = model.config.n_positions
        buckets = {"prompt_buckets": prompt_buckets, "output_buckets": output_buckets}
        for name, sizes in buckets.items():
            sizes = default_buckets(context) if sizes is None else sizes
            setattr(self, name, check_buckets(name, sizes, context))
        self.pipeline = TextPipeline(
            model,
            tokenizer,
            generation_config,
            truncate=on_long_prompt == "truncate_left",
            prompt_buckets=self.prompt_buckets,
            output_buckets=self.output_buckets,
            jit_compile=jit_compile,
            prefix=prefix,
            negative_prompt=negative_prompt,
            assistant=assistant,
            cache_dtype=cache_dtype,
        )
        self.built = True

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> TextGenerator:
        """Loads model, tokenizer and generation settings by directory, bundled or hub name.

        Args:
            name: `"shakespeare-tiny"` (bundled), a directory, a file of weights, or a hub name.
            **options: Where to look (`revision`, `token`, `cache_dir`, `subfolder`,
                `local_files_only`, `force_download`, `gguf_file`), the model's `dtype`, `quantize`,
                `ignore_mismatched_sizes`, `from_pt` and `low_cpu_mem_usage`, and the arguments of
                the class.

        Raises:
            FileNotFoundError: There is no such model.
            ValueError: A file is broken, or vocabulary and weights do not fit together.
            TypeError: An option is unknown.
        """
        hub_options, options = HubOptions.split(options)
        own = inspect.signature(cls).parameters.keys() - {"model", "tokenizer", "kwargs"}
        known = {*own, "name", *_MODEL_OPTIONS, *HubOptions.names()}
        for option in options:
            if option not in known:
                raise type_error(
                    f"TextGenerator.from_pretrained has no option {option!r}.",
                    fix=nearest(option, known),
                    **{option: options[option]},
                )
        files = vars(hub_options)
        loading = {n: options.pop(n) for n in _MODEL_OPTIONS if n in options}
        model = TFGPT2LMHeadModel.from_pretrained(name, **loading, **files)
        return cls(model, TFGPT2Tokenizer.from_pretrained(name, **files), **options)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes model, tokenizer and generation settings in transformers' formats."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        self.generation_config.save_pretrained(directory)

    def call(self, text: tf.Tensor) -> tf.Tensor:
        """Continues texts with the default settings: string `[]` or `[B]` -> the same shape."""
        rows = tf.reshape(text, [-1])  # [B]
        values = {
            name: tf.fill(tf.shape(rows), tf.cast(value, REQUEST_OPTIONS[name].dtype))
            for name, value in self.generation_config.request_values().items()
        }
        stops = tf.constant([default_stops(self.generation_config)], tf.string)  # [1, Q]
        found = self.pipeline(rows, values, tf.tile(stops, [tf.size(rows), 1]))["text"]
        several = self.pipeline.spec.num_return_sequences > 1
        return tf.reshape(found[:, 0] if several else found, tf.shape(text))  # the best

    # Python's API -----------------------------------------------------------------------------

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
            TypeError: `prompts` are not strings, or an option is unknown.
            ValueError: A value is out of range, contradicts another, or a prompt cannot run.
        """
        texts = prompts_as_bytes(prompts)
        config = self._config(options)
        functions = {
            "logits_processor": logits_processor, "stopping_criteria": stopping_criteria,
        }  # fmt: skip
        encoded, spec, request = self._request(texts, config, stop, negative_prompt, **functions)
        if not texts:
            found = []
        elif config.max_time is None:
            result = self.pipeline.run(request, spec)
            found = generations(self.pipeline.decode_texts(result, encoded.status), self.tokenizer)
        else:
            decoder = self.pipeline.decoder
            result = decode_with_deadline(decoder, spec, *request, seconds=config.max_time)
            found = generations(self.pipeline.decode_texts(result, encoded.status), self.tokenizer)
        values: list[Any] = found if details else [record.text for record in found]
        returns = spec.num_return_sequences
        if returns > 1:
            values = [values[i : i + returns] for i in range(0, len(values), returns)]
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
            TypeError: `prompt` is not a string, or an option is unknown.
            ValueError: A value is out of range, or the prompt cannot run.
        """
        texts = prompts_as_bytes(prompt)
        if not isinstance(prompt, (str, bytes)):
            raise type_error(
                "stream() continues one text.",
                fix="Use generate() for several.",
                prompt=prompt,
            )
        config = self._config(options)
        _, spec, request = self._request(texts, config, stop)
        if not config.strategy.streams or spec.rows_per_prompt > 1 or config.max_time:
            raise value_error(
                "stream() gives one text, as it grows: searches, several texts and max_time"
                " are for generate().",
                fix="Leave num_beams, penalty_alpha, num_return_sequences, best_of and"
                " max_time out.",
                **options,
            )
        return stream_text(self.pipeline, spec, request)

    def _config(self, options: Mapping[str, Any]) -> GenerationConfig:
        """Joins the configuration and the options of a call.

        Raises:
            TypeError: An option is unknown.
            ValueError: A value is out of range, or contradicts another.
        """
        options = {name: value for name, value in options.items() if value is not None}
        for name in options:
            if name not in TEXT_OPTIONS:
                raise type_error(
                    f"There is no option {name!r}.",
                    fix=nearest(name, [*TEXT_OPTIONS, "stop", "details"]),
                    **{name: options[name]},
                )
        if not options:
            return self.generation_config
        if "temperature" in options and "do_sample" not in options:
            check_option(OPTIONS["temperature"], options["temperature"])
            options["do_sample"] = bool(np.any(np.asarray(options["temperature"]) > 0))
            if not options["do_sample"]:
                options.pop("temperature")
            elif not self.generation_config.do_sample:
                # As in an export: filters of a greedy configuration are off unless asked for.
                off = {
                    name: OPTIONS[name].off for name in SAMPLING_OPTIONS if name != "temperature"
                }
                options = off | options
        return self.generation_config.updated(**options)

    def _request(
        self,
        texts: list[bytes],
        config: GenerationConfig,
        stop: Any,
        negative_prompt: Any = None,
        **functions: Any,
    ) -> tuple[EncodedTexts, DecodeSpec, TextRequest | None]:
        """Checks what a user asked for and makes the decoder's request of it.

        Raises:
            ValueError: A value is out of range, or a prompt cannot run.
        """
        rows = len(texts)
        values = {
            name: option_rows(REQUEST_OPTIONS[name], value, rows)
            for name, value in config.request_values().items()
        }
        strings = default_stops(config) if stop is None else stop
        stops = stopping.check_stop_strings("stop", strings, rows)
        if not config.strategy.takes_prefix:
            check_defaults(config, self.prefix)
        compiled = self.pipeline.compile_config(config, rows, **functions)
        encoded = self.pipeline.encode_eagerly(tf.constant(texts, tf.string, [rows]), values, stops)
        for row, refusal in enumerate(encoded.status.refusal.numpy()):
            if refusal:
                raise ValueError(self._refusal(refusal, row))
        negative = None
        if negative_prompt is not None:
            if not config.asks("guidance_scale"):
                raise value_error(
                    "A negative prompt acts with guidance only.",
                    fix="Add guidance_scale=1.5.",
                    guidance_scale=config.guidance_scale,
                )
            negative = self.pipeline.prompt_only(negative_prompt)
        request = self.pipeline.make_request(encoded, config, compiled, negative) if rows else None
        return encoded, compiled[0], request

    def _refusal(self, code: int, row: int) -> str:
        """The error message of a prompt that cannot run."""
        if code == UNKNOWN:
            return explain(
                "The prompt has a token that the model has no embedding for.",
                fix="Leave it out, or call resize_token_embeddings and train the model.",
                prompt_number=row,
                tokenizer_vocab_size=self.tokenizer.vocab_size,
                model_vocab_size=self.model.config.vocab_size,
            )
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

    def export_litert(self, path: str | os.PathLike[str], **options: Any) -> Any:
        """Writes a folder that LiteRT runs; see `tfgpt2.litert.export.export_litert`."""
        from tfgpt2.litert.export import export_litert

        return export_litert(self, path, **options)

    def export_litertlm(self, path: str | os.PathLike[str], **options: Any) -> Any:
        """Writes a `.litertlm` file; see `tfgpt2.litert.export_litertlm.export_litertlm`."""
        from tfgpt2.litert.export_litertlm import export_litertlm

        return export_litertlm(self, path, **options)

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
            "cache_dtype": self.cache_dtype,
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


def default_stops(config: GenerationConfig) -> list[str]:
    """Stop strings of a configuration, at least one, which may be empty."""
    strings = config.stop_strings or [""]
    return [strings] if isinstance(strings, str) else list(strings)
