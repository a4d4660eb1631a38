"""The compiled programs of one model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.model_wrappers import reader
from tfgpt2.generation.request import Program, Prompt, Request, Result
from tfgpt2.generation.speculative.guessers import Draft, Lookup
from tfgpt2.generation.stopping import TokenBytes
from tfgpt2.generation.strategies import sampling as loop
from tfgpt2.generation.strategies import searches
from tfgpt2.generation.strategies.sampling import State, Task

_WATCHED = 8  # tokens between two looks at the clock


class Decoder:
    """The compiled programs of one model: decode at once, or start and advance.

    A program is made for each `Program` and each set of fields that requests hold, when it is
    first used. Shapes are open in its trace: one trace, and one XLA program per concrete shape.

    Args:
        model: The model to decode with.
        jit_compile: Whether XLA compiles the programs.
        vocabulary: Bytes of every token; needed for requests with stop strings.
        assistant: A smaller model that guesses ahead where a program has `lookahead`; without
            one, guesses come from the text itself.
    """

    def __init__(
        self,
        model: loop.LanguageModel,
        *,
        jit_compile: bool,
        vocabulary: TokenBytes | None = None,
        assistant: loop.LanguageModel | None = None,
    ) -> None:
        self._model, self._vocabulary, self._assistant = model, vocabulary, assistant
        self._in_place = jit_compile
        self._made: dict[Any, Callable[..., Any]] = {}

    def run(self, program: Program, prompt: Prompt, request: Request, room: tf.Tensor) -> Result:
        """Generates; see `Result`, whose rows are `program.returns` for each prompt.

        Args:
            program: What to run.
            prompt: The texts to continue.
            request: The settings of each row, `program.texts` for each prompt.
            room: int32 `[R, T]`, of which the shape is the most tokens that a row can get.
        """
        return self._call("run", self._run, program, prompt, request, room)

    def start(self, program: Program, prompt: Prompt, request: Request, room: tf.Tensor) -> State:
        """Reads the prompts and chooses the first token; see `loop.start`."""
        return self._call("start", self._start, program, prompt, request, room)

    def advance(
        self, program: Program, prompt: Prompt, request: Request, state: State, until: tf.Tensor
    ) -> State:
        """Chooses more tokens; see `loop.advance`."""
        return self._call("advance", self._advance, program, prompt, request, state, until)

    def _task(self, program: Program, prompt: Prompt, request: Request) -> Task:
        guesser = None
        if program.lookahead and self._assistant is None:
            guesser = Lookup(program)
        elif program.lookahead:
            guesser = Draft(self._assistant, program, in_place=self._in_place)
        return Task(
            model=reader(self._model, prompt, request, program),
            prompt=prompt,
            request=request,
            program=program,
            vocabulary=self._vocabulary,
            guesser=guesser,
            in_place=self._in_place,
        )

    def _run(self, program: Program, prompt: Prompt, request: Request, room: tf.Tensor) -> Result:
        task = self._task(program, prompt, request)
        if program.beams > 1:
            return searches.beams(task, room)
        if program.candidates:
            return searches.contrast(task, room)
        return searches.best(loop.decode(task, room), program)

    def _start(self, program: Program, prompt: Prompt, request: Request, room: tf.Tensor) -> State:
        return loop.start(self._task(program, prompt, request), room)

    def _advance(
        self, program: Program, prompt: Prompt, request: Request, state: State, until: tf.Tensor
    ) -> State:
        return loop.advance(self._task(program, prompt, request), state, until)

    def _call(self, name: str, method: Callable[..., Any], program: Program, *tensors: Any) -> Any:
        """Calls the program for these fields, and makes it first where there is none yet."""
        signature = tf.nest.map_structure(_open_spec, tensors)
        key = (name, program, repr(signature))
        if key not in self._made:
            # TensorFlow warns of retracing by the place of the code, which all programs share; a
            # partial has none, so each program is counted by itself.
            self._made[key] = tf.function(
                functools.partial(method, program),
                input_signature=signature,
                jit_compile=self._in_place,
                autograph=False,
            )
        return self._made[key](*tensors)


def watched(
    decoder: Decoder,
    program: Program,
    prompt: Prompt,
    request: Request,
    room: tf.Tensor,
    *,
    seconds: float | None = None,
    streamer: Any = None,
) -> Result:
    """Generates in pieces, where the clock is watched or somebody waits for each token.

    Args:
        decoder: The programs.
        program: What to run, as for the next three; see `Decoder.run`.
        prompt: The texts to continue.
        request: The settings of each row.
        room: int32 `[R, T]`.
        seconds: After so many, rows end with the reason `stopping.TIME`; at least one token each.
        streamer: Gets the prompt and each token of the one row: `put(ids)`, at last `end()`.
    """
    end = time.monotonic() + (float("inf") if seconds is None else seconds)
    step = _WATCHED if streamer is None else 1
    state, sent, late = decoder.start(program, prompt, request, room), 0, False
    if streamer is not None:
        streamer.put(prompt.ids.numpy()[prompt.mask.numpy() > 0][None])
    while True:
        if streamer is not None:
            count = int(state.count[0])
            for token in state.tokens[0, sent:count].numpy():
                streamer.put(token[None])
            sent = count
        late = time.monotonic() > end
        running = state.reason == stopping.RUNNING
        if late or not bool(tf.reduce_any(running)):
            break
        # Rows that have ended may be far ahead, where guesses were right.
        most = tf.reduce_max(tf.where(running, state.count, 0))
        state = decoder.advance(program, prompt, request, state, most + step)
    if streamer is not None:
        streamer.end()
    result = searches.best(loop.finish(state), program)
    running = result.reason == stopping.RUNNING
    return result._replace(reason=tf.where(running, stopping.TIME, result.reason))


def _open_spec(tensor: tf.Tensor) -> tf.TensorSpec:
    """Leaves all sizes open but those that belong to the model: heads, widths, vocabulary."""
    tensor = tf.convert_to_tensor(tensor)
    shape: list[int | None] = [None] * tensor.shape.rank
    if tensor.dtype.is_floating and len(shape) > 2:
        shape[-1] = tensor.shape[-1]
    if tensor.dtype.is_floating and len(shape) == 4:
        shape[1] = tensor.shape[1]
    return tf.TensorSpec(shape, tensor.dtype)
