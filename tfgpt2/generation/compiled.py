"""The compiled programs of one model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.generation import stopping
from tfgpt2.generation.model_wrappers import CacheDtypeModel, PromptContextModel, wrap_model
from tfgpt2.generation.params import DecodeSpec, Prompt, SamplingParams
from tfgpt2.generation.results import Result, select_best
from tfgpt2.generation.speculative.draft_model import DraftModelProposer
from tfgpt2.generation.speculative.prompt_lookup import PromptLookupProposer
from tfgpt2.generation.stopping import TokenBytes
from tfgpt2.generation.strategies import sampling
from tfgpt2.generation.strategies.base import DecodeTask, LanguageModel
from tfgpt2.generation.strategies.sampling import State
from tfgpt2.heap import release_free_memory
from tfgpt2.nn.kv_cache import CACHE_DTYPES, KVCache
from tfgpt2.nn.one_row import any_number_alike

_DEADLINE_STEP = 8  # tokens between two looks at the clock


class CompiledDecoder:
    """The compiled programs of one model: decode at once, start and advance, or rows of any age.

    A program is made for each `DecodeSpec` and each set of options that requests hold, when it is
    first used. Shapes are open in its trace: one trace, and one XLA program per concrete shape.

    Args:
        model: The model to decode with.
        jit_compile: Whether XLA compiles the programs.
        token_bytes: Bytes of every token; needed for requests with stop strings.
        assistant: A smaller model that proposes draft tokens; without one, drafts come from the
            sequence itself.
        cache_dtype: One of `kv_cache.CACHE_DTYPES`, in which both models keep keys and values;
            None is the dtype that each computes in.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        jit_compile: bool,
        token_bytes: TokenBytes | None = None,
        assistant: LanguageModel | None = None,
        cache_dtype: str | None = None,
    ) -> None:
        check_cache_dtype(cache_dtype)
        self.cache_dtype = cache_dtype
        self._model, self._assistant = self._with_cache(model), self._with_cache(assistant)
        self._token_bytes = token_bytes
        self._in_place = jit_compile
        self._programs: dict[Any, Callable[..., Any]] = {}

    def _with_cache(self, model: LanguageModel | None) -> LanguageModel | None:
        """The model with a cache of this decoder's dtype."""
        if model is None or self.cache_dtype is None:
            return model
        return CacheDtypeModel(model, self.cache_dtype)

    def run(
        self, spec: DecodeSpec, prompt: Prompt, params: SamplingParams, output_buffer: tf.Tensor
    ) -> Result:
        """Generates; see `Result`, whose rows are `spec.num_return_sequences` for each prompt.

        Args:
            spec: What to run.
            prompt: The sequences to continue.
            params: The settings of each row, `spec.rows_per_prompt` for each prompt.
            output_buffer: int32 `[R, T]`, of which the shape is the most tokens that a row can get.
        """
        return self._call("run", spec, prompt, params, output_buffer)

    def start(
        self, spec: DecodeSpec, prompt: Prompt, params: SamplingParams, output_buffer: tf.Tensor
    ) -> State:
        """Reads the prompts and chooses the first token; see `sampling.start`."""
        return self._call("start", spec, prompt, params, output_buffer)

    def advance(
        self,
        spec: DecodeSpec,
        prompt: Prompt,
        params: SamplingParams,
        output_buffer: tf.Tensor,
        state: State,
        until: tf.Tensor,
    ) -> State:
        """Chooses more tokens; see `sampling.advance`."""
        return self._call("advance", spec, prompt, params, output_buffer, state, until)

    def prefill(self, spec: DecodeSpec, prompt: Prompt) -> KVCache:
        """Reads the prompts but for their last tokens, with which `advance_rows` goes on."""
        return self._call("prefill", spec, prompt)

    def advance_rows(
        self,
        spec: DecodeSpec,
        prompt: Prompt,
        params: SamplingParams,
        output_buffer: tf.Tensor,
        state: State,
        steps: tf.Tensor,
    ) -> State:
        """Chooses more tokens in rows of different age; see `sampling.advance_rows`."""
        return self._call("advance_rows", spec, prompt, params, output_buffer, state, steps)

    def _computation(self, name: str) -> Callable[..., Any]:
        """The computation of a program, as a function of its options and tensors."""
        if name == "prefill":
            return any_number_alike()(self._traced_prefill)
        computation = functools.partial(self._traced, name)
        return any_number_alike()(computation) if name == "advance_rows" else computation

    def _traced_prefill(self, spec: DecodeSpec, prompt: Prompt) -> KVCache:
        """The computation of `prefill`."""
        model = self._model
        ids, mask = (prompt.context or prompt)[:2]  # [B, P]
        columns = tf.shape(ids)[1]
        mask *= tf.cast(tf.range(columns) < columns - 1, mask.dtype)
        if prompt.context:
            model = PromptContextModel(model, prompt.context._replace(mask=mask))
        return model.prefill_hidden(ids, mask, columns=columns)[1]

    def _traced(
        self,
        name: str,
        spec: DecodeSpec,
        prompt: Prompt,
        params: SamplingParams,
        output_buffer: tf.Tensor,
        *state: Any,
    ) -> Any:
        """The computation of a program."""
        proposer = None
        if spec.num_draft_tokens and self._assistant is None:
            proposer = PromptLookupProposer(spec)
        elif spec.num_draft_tokens:
            proposer = DraftModelProposer(self._assistant, spec, in_place=self._in_place)
        model = wrap_model(self._model, prompt, params, spec)
        task = DecodeTask(
            model, prompt, params, spec, output_buffer, self._token_bytes, proposer, self._in_place
        )
        if name == "run":
            return spec.strategy.run(task)
        return getattr(sampling, name)(task, *state)

    def _call(self, name: str, spec: DecodeSpec, *tensors: Any) -> Any:
        """Calls the program for these options, and makes it first where there is none yet."""
        if self.cache_dtype is not None and not spec.use_cache:
            raise value_error(
                "`cache_dtype` is the type of a cache, and `use_cache=False` keeps none.",
                fix="Leave one of them out.",
                cache_dtype=self.cache_dtype,
                use_cache=False,
            )
        signature = tf.nest.map_structure(_open_spec, tensors)
        key = (name, spec, repr(signature))
        is_new = key not in self._programs
        if is_new:
            # TensorFlow warns of retracing by the place of the code, which all programs share; a
            # partial has none, so each program is counted by itself.
            self._programs[key] = tf.function(
                functools.partial(self._computation(name), spec),
                input_signature=signature,
                jit_compile=self._in_place,
                autograph=False,
            )
        result = self._programs[key](*tensors)
        if is_new:
            release_free_memory()  # of which tracing and compiling have left much
        return result


def check_cache_dtype(dtype: str | None) -> None:
    """Checks the dtype of a KV cache.

    Raises:
        ValueError: It is neither None nor one of `kv_cache.CACHE_DTYPES`.

    Example:
        >>> check_cache_dtype("bfloat16")
    """
    if dtype is not None and (not isinstance(dtype, str) or dtype not in CACHE_DTYPES):
        raise value_error(
            f"`cache_dtype` must be one of {CACHE_DTYPES}, or None for the model's own.",
            fix="Pass one of them.",
            cache_dtype=dtype,
        )


def decode_with_deadline(
    decoder: CompiledDecoder,
    spec: DecodeSpec,
    prompt: Prompt,
    params: SamplingParams,
    output_buffer: tf.Tensor,
    *,
    seconds: float | None = None,
    streamer: Any = None,
) -> Result:
    """Generates in pieces, where there is a deadline or somebody waits for each token.

    Args:
        decoder: The programs.
        spec: What to run, as for the next three; see `CompiledDecoder.run`.
        prompt: The sequences to continue.
        params: The settings of each row.
        output_buffer: int32 `[R, T]`.
        seconds: After so many, rows end with the reason `stopping.TIME`; at least one token each.
        streamer: Gets the prompt and each token of the one row: `put(ids)`, at last `end()`.
    """
    end = time.monotonic() + (float("inf") if seconds is None else seconds)
    step, request = _DEADLINE_STEP if streamer is None else 1, (spec, prompt, params, output_buffer)
    state, sent = decoder.start(*request), 0
    if streamer is not None:
        streamer.put(prompt.ids.numpy()[prompt.mask.numpy() > 0][None])
    while True:
        if streamer is not None:
            count = int(state.count[0])
            for token in state.tokens[0, sent:count].numpy():
                streamer.put(token[None])
            sent = count
        running = state.reason == stopping.RUNNING
        if time.monotonic() > end or not bool(tf.reduce_any(running)):
            break
        # Rows that have ended may be far ahead, where drafts were right.
        most = tf.reduce_max(tf.where(running, state.count, 0))
        state = decoder.advance(*request, state, most + step)
    if streamer is not None:
        streamer.end()
    result = select_best(sampling.finish(state), spec)
    running = result.reason == stopping.RUNNING
    return result._replace(reason=tf.where(running, stopping.TIME, result.reason))


def _open_spec(tensor: tf.Tensor) -> tf.TensorSpec:
    """Leaves all sizes open but those that belong to the model: heads, widths, vocabulary."""
    tensor = tf.convert_to_tensor(tensor)
    shape: list[int | None] = [None] * tensor.shape.rank
    if tensor.dtype.is_floating and len(shape) > 2:
        shape[-1] = tensor.shape[-1]
    if len(shape) == 4 and (tensor.dtype.is_floating or tensor.dtype == tf.uint16):  # a cache
        shape[1], shape[3] = tensor.shape[1], tensor.shape[3]
    return tf.TensorSpec(shape, tensor.dtype)
