"""The compiled programs of one model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfgpt2.generation import beam, loop
from tfgpt2.generation.beam import BeamRequest, Beams
from tfgpt2.generation.loop import Request, State
from tfgpt2.generation.options import BEAM_OPTIONS, ROW_OPTIONS
from tfgpt2.generation.stopping import StopStrings, TokenBytes


class Decoder:
    """The compiled programs of one model: decode at once, start and advance, or search.

    Args:
        model: The model to decode with.
        jit_compile: Whether XLA compiles the loop.
        vocabulary: Bytes of every token; given, the programs match stop strings.
    """

    def __init__(
        self, model: loop.LanguageModel, *, jit_compile: bool, vocabulary: TokenBytes | None = None
    ) -> None:
        self._model, self._vocabulary, self._in_place = model, vocabulary, jit_compile
        # Shapes are open in the trace: one trace, and one XLA program per concrete shape.
        rows = tf.TensorSpec([None, None], tf.int32)
        self._request = request_spec(stops=vocabulary is not None)
        prompts = (rows, rows, self._request, rows)
        self.decode = self._program(loop.decode, prompts)
        self.start = self._program(loop.start, prompts)
        self._searches: dict[int, Callable[..., Beams]] = {}

    @functools.cached_property
    def advance(self) -> Callable[[State, Request, tf.Tensor], State]:
        """Continues a state that `start` returned; made on first use, only streams need it."""
        state = self.start.get_concrete_function().structured_outputs
        state = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), state)
        return self._program(loop.advance, (state, self._request, tf.TensorSpec([], tf.int32)))

    def search(self, beams: int) -> Callable[..., Beams]:
        """Returns the program of `beam.decode` for a number of beams; made on first use."""

        def program(model: loop.LanguageModel, *tensors: Any, in_place: bool) -> Beams:
            *prompts, _ = tensors  # stop strings are not matched
            return beam.decode(model, *prompts, beams=beams, in_place=in_place)

        if beams not in self._searches:
            rows = tf.TensorSpec([None, None], tf.int32)
            self._searches[beams] = self._program(program, (rows, rows, beam_request_spec(), rows))
        return self._searches[beams]

    def _program(self, function: Callable[..., Any], signature: tuple[Any, ...]) -> Any:
        """Makes one function of the loop a program of this model."""

        def program(*tensors: Any) -> Any:
            return function(self._model, *tensors, self._vocabulary, in_place=self._in_place)

        # TensorFlow warns of retracing by the place of the code, which all programs share; a
        # partial has none, so each program is counted by itself.
        return tf.function(
            functools.partial(program),
            input_signature=signature,
            jit_compile=self._in_place,
            autograph=False,
        )


def request_spec(*, stops: bool) -> Request:
    """Returns the types and open shapes of a `Request`."""
    row_options = {
        name: tf.TensorSpec([None], option.dtype) for name, option in ROW_OPTIONS.items()
    }
    strings = ()
    if stops:
        strings = StopStrings(
            tf.TensorSpec([None, None, None], tf.int16), tf.TensorSpec([None, None], tf.int32)
        )
    return Request(**row_options, eos=tf.TensorSpec([None, None], tf.int32), stops=strings)


def beam_request_spec() -> BeamRequest:
    """Returns the types and open shapes of a `BeamRequest`."""
    own = {name: tf.TensorSpec([None], option.dtype) for name, option in BEAM_OPTIONS.items()}
    return BeamRequest(request_spec(stops=False), **own)
