"""The engine: `engine_start`, `engine_start_ids`, `engine_join`, `engine_advance`, `engine_tokens`.

A server that keeps a state between calls generates for many requests at a time: rows come and go
every few tokens. See `tfgpt2.serving.export.engine_state`.
"""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.serving.export import engine_state
from tfgpt2.serving.export.signatures.base import (
    Programs,
    SignatureFn,
    SignatureOptions,
    Tensors,
    WarmupShapes,
)
from tfgpt2.serving.export.signatures.from_ids import GenerateIds
from tfgpt2.serving.export.signatures.generate import Generate, default_settings
from tfgpt2.serving.export.token_biases import read_biases
from tfgpt2.text.generator import TextGenerator
from tfgpt2.text.prompts import UNKNOWN

_OTHER = "other_"  # begins the names of the second state
# Settings of OpenAI's API that `generate` does not take unless asked: there every client of
# TensorFlow Serving's REST API would have to send them.
_MORE_SETTINGS = ("presence_penalty", "frequency_penalty")
_BIAS = tf.TensorSpec([None], tf.string, "logit_bias")


class EngineStart(Generate):
    """Reads prompts: the inputs of `generate` -> a state with a slot for each."""

    name = program = "engine_start"
    compiled = False  # the caller chooses the number of rows
    record = None
    ragged_outputs = ()

    def __init__(self, generator: TextGenerator, options: SignatureOptions) -> None:
        super().__init__(generator, options)
        self.inputs = (*self.inputs, _BIAS)
        self.padding_values = {**self.padding_values, _BIAS.name: ""}

    @classmethod
    def choose_inputs(cls, generator: TextGenerator, options: SignatureOptions) -> tuple[str, ...]:
        """The settings of `generate`, and more that clients of completions send."""
        return tuple(dict.fromkeys((*super().choose_inputs(generator, options), *_MORE_SETTINGS)))

    def default_inputs(self) -> Tensors:
        """See `Generate.default_inputs`."""
        return {**super().default_inputs(), _BIAS.name: tf.constant([""])}

    @classmethod
    def is_available(cls, generator: TextGenerator, options: SignatureOptions) -> bool:
        """See `engine_state.can_serve`."""
        return engine_state.can_serve(generator.pipeline, options.inputs or ())

    def __call__(self, inputs: Tensors) -> Tensors:
        """Texts and settings `[S]` -> the state, and what became of the prompts."""
        pipeline = self.generator.pipeline
        text, settings, stop = self.read_inputs(inputs)
        encoded = pipeline.encode_texts(text, settings, stop, self.read)
        written = tf.broadcast_to(inputs[_BIAS.name], tf.shape(text))
        biases, known = read_biases(written, pipeline.model.config.vocab_size)
        refusal = encoded.status.refusal
        refusal = tf.where(known | (refusal > 0), refusal, UNKNOWN)
        encoded = encoded._replace(status=encoded.status._replace(refusal=refusal))
        request = pipeline.make_request(encoded)
        state = engine_state.start_rows(pipeline, encoded, request, biases)
        return state | {
            "prompt_tokens": pipeline.own_status(encoded.status).length,
            "truncated": encoded.status.truncated,
            "finish_reason": engine_state.finish_reasons(state["reason"]),
        }

    def probe_inputs(self, text: tf.Tensor) -> Tensors | None:
        """None: a state is large, and shows nothing by itself."""
        return None

    def warmup_inputs(self, shapes: WarmupShapes) -> Iterable[Tensors]:
        """None: a server that uses the engine runs it itself."""
        return ()

    def count_programs(self) -> Programs | None:
        """None: they depend on the server's numbers of slots."""
        return None


class EngineStartIds(EngineStart, GenerateIds):
    """`engine_start` with ids as prompts."""

    name = program = "engine_start_ids"


class _StateFn(SignatureFn):
    """A signature whose inputs are states."""

    padding_values = {}

    def __init__(self, generator: TextGenerator, options: SignatureOptions) -> None:
        super().__init__(generator, options)
        names = default_settings(generator, EngineStart.choose_inputs(generator, options))
        self.state = engine_state.state_specs(generator.pipeline, names)

    @classmethod
    def is_available(cls, generator: TextGenerator, options: SignatureOptions) -> bool:
        """See `engine_state.can_serve`."""
        return EngineStart.is_available(generator, options)

    def probe_inputs(self, text: tf.Tensor) -> Tensors | None:
        """None: see `EngineStart.probe_inputs`."""
        return None

    def warmup_inputs(self, shapes: WarmupShapes) -> Iterable[Tensors]:
        """None: see `EngineStart.warmup_inputs`."""
        return ()


class EngineJoin(_StateFn):
    """Two states and the row of each slot -> one state."""

    name = "engine_join"

    def __init__(self, generator: TextGenerator, options: SignatureOptions) -> None:
        super().__init__(generator, options)
        others = (
            tf.TensorSpec(spec.shape, spec.dtype, _OTHER + name)
            for name, spec in self.state.items()
        )
        source = tf.TensorSpec([None], tf.int32, "source")
        self.inputs = (*self.state.values(), *others, source)

    def __call__(self, inputs: Tensors) -> Tensors:
        """See `engine_state.join_rows`."""
        state = {name: inputs[name] for name in self.state}
        other = {name: inputs[_OTHER + name] for name in self.state}
        pipeline = self.generator.pipeline
        return engine_state.join_rows(pipeline, state, other, inputs["source"])


class EngineAdvance(_StateFn):
    """A state, the slots that go on, and a number of tokens -> what has changed."""

    name = "engine_advance"

    def __init__(self, generator: TextGenerator, options: SignatureOptions) -> None:
        super().__init__(generator, options)
        active = tf.TensorSpec([None], tf.int32, "active")
        self.inputs = (*self.state.values(), active, tf.TensorSpec([1], tf.int32, "steps"))

    def __call__(self, inputs: Tensors) -> Tensors:
        """See `engine_state.advance_rows`."""
        state = {name: inputs[name] for name in self.state}
        running = (state["reason"] != stopping.RUNNING) | (inputs["active"] > 0)
        state["reason"] = tf.where(running, state["reason"], stopping.TIME)
        pipeline = self.generator.pipeline
        changed = engine_state.advance_rows(pipeline, state, inputs["steps"][0])
        return changed | {"finish_reason": engine_state.finish_reasons(changed["reason"])}


class EngineTokens(SignatureFn):
    """The text of token ids, for streams: int32 `[B]` -> string `[B]`."""

    name = "engine_tokens"
    inputs = (tf.TensorSpec([None], tf.int32, "ids"),)
    padding_values = {"ids": 0}

    @classmethod
    def is_available(cls, generator: TextGenerator, options: SignatureOptions) -> bool:
        """See `engine_state.can_serve`."""
        return EngineStart.is_available(generator, options)

    def __call__(self, inputs: Tensors) -> Tensors:
        """What stop strings are matched against, and what texts show: special tokens are empty."""
        tokenizer, ids = self.generator.tokenizer, inputs["ids"][:, None]  # [B, 1]
        return {
            "written_bytes": tokenizer.detokenize_bytes(ids, skip_special_tokens=False),
            "shown_bytes": tokenizer.detokenize_bytes(ids, skip_special_tokens=True),
        }

    def probe_inputs(self, text: tf.Tensor) -> Tensors | None:
        """The first ids."""
        return {"ids": tf.range(3)}
