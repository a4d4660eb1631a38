"""`generate` and `serving_default`: continuations of texts, with settings for each row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.generation import stopping
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.option_table import EXTRA_OPTIONS, SAMPLING_OPTIONS
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.strategies.registry import STRATEGIES
from tfgpt2.generation.strategies.sampling import GreedySearch
from tfgpt2.serving.client.records import Generation
from tfgpt2.serving.export.signatures.base import (
    SETTINGS,
    TEXT,
    Programs,
    SignatureFn,
    SignatureOptions,
    Tensors,
    WarmupShapes,
    text_column,
)
from tfgpt2.text.generator import TextGenerator, default_stops
from tfgpt2.text.pipeline import ReadTokens

_PROBE_SETTINGS = {
    # Greedy and sampled rows, with the same shapes: one program to compile.
    "max_new_tokens": 8, "temperature": [0.0, 1.0, 1.0], "seed": 7,
}  # fmt: skip
_SMALLEST_STOP_TABLE = 16  # bytes of a stop string


class Generate(SignatureFn):
    """Continuations. Settings are `[B]`, or `[1]` for all rows.

    Attributes:
        settings: Default values of the settings that every row gets.
    """

    name = "generate"
    program = "generate"
    compiled = True
    record = Generation
    read: ReadTokens | None = None  # the tokenizer

    def __init__(self, generator: TextGenerator, options: SignatureOptions) -> None:
        super().__init__(generator, options)
        config = generator.generation_config
        self.setting_names = self.choose_inputs(generator, options)
        self.settings = default_settings(generator, self.setting_names)
        self._tensors = {
            name: tf.constant([value], SETTINGS[name].dtype)
            for name, value in self.settings.items()
        } | {"stop": tf.constant([default_stops(config)], tf.string)}  # [1], [1, Q]
        stop = tf.TensorSpec([None, None], tf.string, "stop")
        self.inputs = (TEXT, *_specs(self.setting_names), stop)
        padding = {name: SETTINGS[name].off for name in self.settings}
        self.padding_values = padding | {"max_new_tokens": 0, "seed": 0, "text": "", "stop": ""}
        self.ragged_outputs = ("token_ids", "token_logprobs")
        spec = generator.pipeline.spec
        if spec.top_logprobs:
            self.ragged_outputs += ("top_ids", "top_logprobs")
        self.ragged_axis = 2 if spec.num_return_sequences > 1 else 1

    @classmethod
    def choose_inputs(cls, generator: TextGenerator, options: SignatureOptions) -> tuple[str, ...]:
        """Settings that the signature takes."""
        usual = usual_inputs(generator.generation_config)
        return usual if options.inputs is None else options.inputs

    def __call__(self, inputs: Tensors) -> Tensors:
        """Texts and settings `[B]`, stop strings `[B, Q]` -> see `tfgpt2.text.records`."""
        return self.generator.pipeline(*self.read_inputs(inputs), self.read)

    def read_inputs(self, inputs: Tensors) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
        """Texts, settings, and stop strings without unused columns."""
        stop = inputs["stop"]
        stop = tf.where(tf.strings.length(stop) > self.options.stop_limits[1], "", stop)
        # Columns that no row uses are dropped, so that they need no larger program.
        used = tf.reduce_any(tf.strings.length(stop) > 0, axis=0)  # [Q]
        columns = tf.range(1, tf.size(used) + 1)
        last = tf.reduce_max(tf.pad(tf.where(used, columns, 1), [[0, 1]], constant_values=1))
        settings = {name: inputs[name] for name in self.settings}
        return inputs["text"], settings, stop[:, :last]

    @property
    def row_inputs(self) -> tuple[tf.TensorSpec, ...]:
        """Every setting, and a table of stop strings of fixed width."""
        stop = tf.TensorSpec([None, self.options.stop_limits[0]], tf.string, "stop")
        return (TEXT, *_specs(self.settings), stop)

    @property
    def max_length(self) -> int:
        """The largest output bucket."""
        return self.generator.output_buckets[-1]

    def default_inputs(self) -> Tensors:
        """The generator's settings `[1]` and stop strings `[1, Q]`."""
        return {name: self._tensors[name] for name in (*self.setting_names, "stop")}

    def to_rows(self, inputs: Tensors) -> Tensors:
        """Gives each row its settings, defaults included, and fills the table of stop strings."""
        values = self._tensors | inputs
        text, stop = values.pop("text"), values.pop("stop")
        rows, most = tf.shape(text)[0], self.options.stop_limits[0]
        stop = stop[:, :most]
        missing = tf.fill([tf.shape(stop)[0], most - tf.shape(stop)[1]], "")
        stop = tf.ensure_shape(tf.concat([stop, missing], axis=1), [None, most])
        settings = {name: tf.broadcast_to(value, [rows]) for name, value in values.items()}
        return {"text": text, **settings, "stop": tf.broadcast_to(stop, [rows, most])}  # [B, Q]

    def count_programs(self) -> Programs | None:
        """Output buckets and stop tables multiply the programs."""
        programs = super().count_programs()
        if programs is None:
            return None
        return programs._replace(
            output_buckets=len(self.generator.output_buckets),
            stop_tables=count_stop_tables(self.options.stop_limits),
        )

    def probe_inputs(self, text: tf.Tensor) -> Tensors | None:
        """A few tokens for each text, greedy and sampled."""
        values = self.settings | _PROBE_SETTINGS
        settings = {
            name: tf.constant(np.reshape(values[name], [-1]), SETTINGS[name].dtype)
            for name in self.setting_names
        }
        return {"text": text, **settings, "stop": tf.constant([["\n\n"]])}

    def warmup_inputs(self, shapes: WarmupShapes) -> Iterator[Tensors]:
        """A request for each batch size, prompt bucket and output bucket.

        A stop string ends generation after a token: it is what comes after these texts.
        """
        pieces = {text: self._likely_text(text) for text in ("", *shapes.prompts)}
        for size, prompt, tokens in product(*shapes):
            # One row has the longest prompt and the others ask for the most tokens: together they
            # may be more than the context.
            alone = size == 1
            if alone and not self._fits(prompt, tokens):
                continue
            values = self.settings | {"temperature": 0.0, "min_new_tokens": 0}
            rows = {name: [values[name]] * size for name in self.setting_names}
            if "max_new_tokens" in rows:
                rows["max_new_tokens"] = [tokens if alone else 0, *[tokens] * (size - 1)]
            settings = {name: tf.constant(row, SETTINGS[name].dtype) for name, row in rows.items()}
            stop = tf.fill([size, 1], pieces[prompt if alone else ""])
            yield {"text": text_column(prompt, size), **settings, "stop": stop}

    def _fits(self, prompt: str, new_tokens: int) -> bool:
        """Whether one row can have both this prompt and so many new tokens."""
        length = int(self.generator.tokenizer.tokenize_prompts(tf.constant([prompt])).row_splits[1])
        return length + new_tokens <= self.generator.model.config.n_positions

    def _likely_text(self, prompt: str) -> bytes:
        """The most likely next token's text, where the smallest table of stop strings holds it."""
        generator = self.generator
        text = tf.constant([(generator.prefix or "") + prompt])
        ids = generator.tokenizer.tokenize_prompts(text).flat_values.numpy().tolist()
        ids = ids[-generator.model.config.n_positions :] or [generator.pipeline.start_id or 0]
        logits = generator.model(tf.constant([ids])).logits[0, -1]  # [V]
        raw = generator.tokenizer.detokenize_bytes(tf.argmax(logits)[None, None]).numpy()[0]
        return raw if len(raw) <= _SMALLEST_STOP_TABLE else b""


class ServingDefault(Generate):
    """`generate` without settings, for simple REST calls; it shares the compiled function."""

    name = "serving_default"

    def __init__(self, generator: TextGenerator, options: SignatureOptions) -> None:
        super().__init__(generator, options)
        self.inputs = (TEXT,)

    def probe_inputs(self, text: tf.Tensor) -> Tensors | None:
        """An empty batch, where it is the only signature: its settings may ask for many tokens."""
        return {"text": text[:0]} if self.options.names == (self.name,) else None

    def warmup_inputs(self, shapes: WarmupShapes) -> Iterable[Tensors]:
        """A single request where `generate` compiles the same programs."""
        if Generate.name in self.options.names:
            return [self.padding_request()]
        return SignatureFn.warmup_inputs(self, shapes)


def default_settings(generator: TextGenerator, inputs: tuple[str, ...]) -> dict[str, Any]:
    """Default values of the settings that every row gets, and of those that `generate` takes.

    Args:
        generator: The text generator.
        inputs: Settings that `generate` takes.

    Raises:
        ValueError: An input contradicts the configuration, or has no effect with it.
    """
    config = generator.generation_config
    values = config.request_values()
    for name in inputs:
        _check_input(config, name, draws="temperature" in inputs)
        if name in EXTRA_OPTIONS:
            asked = config.asks(name)
            values[name] = getattr(config, name) if asked else EXTRA_OPTIONS[name].off
    return values


def usual_inputs(config: GenerationConfig) -> tuple[str, ...]:
    """Settings that `generate` takes unless an export names others.

    Args:
        config: Contrastive search draws nothing, so it takes no settings of draws.

    Example:
        >>> usual_inputs(GenerationConfig(penalty_alpha=0.6, top_k=4))
        ('max_new_tokens', 'min_new_tokens', 'top_k', 'repetition_penalty')
    """
    return tuple(name for name in REQUEST_OPTIONS if not _only_drawn(config, name))


def count_stop_tables(limits: tuple[int, int]) -> int:
    """Number of sizes that the table of stop strings can have within limits.

    Args:
        limits: Most stop strings of a row, and the most bytes of one.

    Example:
        >>> count_stop_tables((4, 16))
        2
    """
    sizes = zip((stopping._COUNTS, stopping._WIDTHS), limits, strict=True)
    counts, widths = (sum(size < limit for size in known) + 1 for known, limit in sizes)
    return counts * widths


def _specs(names: Iterable[str]) -> tuple[tf.TensorSpec, ...]:
    return tuple(tf.TensorSpec([None], SETTINGS[name].dtype, name) for name in names)


def _only_drawn(config: GenerationConfig, name: str) -> bool:
    """Whether a setting acts on draws, and nothing is drawn."""
    strategy = config.strategy
    draws = {*SAMPLING_OPTIONS, "seed"} - {*strategy.sampling_options}
    return name in draws and not strategy.takes_sampling_options


def _check_input(config: GenerationConfig, name: str, *, draws: bool) -> None:
    """Refuses an input that has no effect, whatever its value.

    Raises:
        ValueError: It has none, or contradicts the configuration.
    """
    owner = next((s.name for s in STRATEGIES if name in [one.name for one in s.options]), None)
    if (owner and not config.asks(name)) or _only_drawn(config, name):
        raise value_error(
            f"`{name}` only affects {owner or 'sampling'}, which this export does not use.",
            fix="Leave it out, or turn that on in generation_config.",
            inputs=name,
        )
    if name in EXTRA_OPTIONS and not config.asks(name):
        option = EXTRA_OPTIONS[name]
        value = True if option.dtype == "bool" else 2 if option.dtype.startswith("int") else 0.5
        drawn = {"do_sample": True} if draws and config.strategy is GreedySearch else {}
        config.updated(**drawn, **{name: value})  # raises where it contradicts another
