"""`model.generate`: transformers' arguments in, token ids out, around the compiled loop."""

from __future__ import annotations

import functools
import secrets
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain, nearest
from tfgpt2.generation import loop, stopping
from tfgpt2.generation.buckets import default_buckets, round_up
from tfgpt2.generation.config import ROW_OPTIONS, GenerationConfig, spread
from tfgpt2.generation.loop import Request, Result, State
from tfgpt2.generation.stopping import StopStrings, TokenBytes
from tfgpt2.outputs import ModelOutput


class TFGenerateOutput(ModelOutput):
    """Results of `model.generate(return_dict_in_generate=True)`.

    Attributes:
        sequences: int32 `[B, P + T]`, prompts and continuations, padded after a row's end.
        token_logprobs: float32 `[B, T]`, nats of each new token under the model's own
            distribution; 0 after a row's end.
        num_tokens: int32 `[B]`, new tokens of each row, an end token included.
        finish_reason: `B` strings: `"length"`, `"eos"` or `"stop"`.
    """

    sequences: Any
    token_logprobs: Any
    num_tokens: Any
    finish_reason: Any


class Decoder:
    """The compiled programs of one model: decode at once, or start and advance.

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

    @functools.cached_property
    def advance(self) -> Callable[[State, Request, tf.Tensor], State]:
        """Continues a state that `start` returned; made on first use, only streams need it."""
        state = self.start.get_concrete_function().structured_outputs
        state = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), state)
        return self._program(loop.advance, (state, self._request, tf.TensorSpec([], tf.int32)))

    def _program(self, function: Callable[..., Any], signature: tuple[Any, ...]) -> Any:
        """Makes one function of the loop a program of this model."""

        def program(*tensors: Any) -> Any:
            return function(self._model, *tensors, self._vocabulary, in_place=self._in_place)

        return tf.function(
            program, input_signature=signature, jit_compile=self._in_place, autograph=False
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


def random_seed() -> int:
    """Returns a seed that nobody can foresee."""
    return secrets.randbits(62)


def generate(
    model: Any,
    inputs: Any = None,
    generation_config: GenerationConfig | None = None,
    *,
    attention_mask: Any = None,
    tokenizer: Any = None,
    jit_compile: bool = True,
    **options: Any,
) -> tf.Tensor | TFGenerateOutput:
    """Continues token ids; see `TFGPT2LMHeadModel.generate`."""
    if isinstance(inputs, Mapping):  # what the tokenizer returns
        named = dict(inputs)
        inputs, mask = named.pop("input_ids", None), named.pop("attention_mask", None)
        attention_mask = mask if attention_mask is None else attention_mask
        if named:
            name = sorted(named)[0]
            raise TypeError(
                explain(
                    f"generate() has no input {name!r}.",
                    fix=nearest(name, ["input_ids", "attention_mask"]),
                    inputs=sorted(named),
                )
            )
    if inputs is None:
        inputs = options.pop("input_ids", None)
    ids, mask = _check_ids(model, inputs, attention_mask)
    config = (generation_config or model.generation_config).updated(**options)
    rows, columns = ids.shape
    pad_id = _pad_id(config)
    settings = config.row_options() | _lengths(config, columns)
    seed = random_seed() if config.seed is None else config.seed
    lengths = mask.sum(axis=1)  # [B]
    limit = np.minimum(np.maximum(model.config.n_positions - lengths, 0),
                       np.broadcast_to(settings["max_new_tokens"], [rows]))  # fmt: skip
    settings |= {"max_new_tokens": limit.astype(np.int64), "seed": seed}
    stops = _stops(config, tokenizer, rows)
    decoder = _decoder(model, tokenizer if stops else None, jit_compile)
    result = _run(model, decoder, ids, mask, settings, config, stops) if rows else None
    width = int(result.count.numpy().max(initial=0)) if result is not None else 0
    new = np.zeros([rows, 0], np.int32)
    if result is not None:
        ended = np.arange(width)[None] >= result.count.numpy()[:, None]  # [B, T]
        new = np.where(ended, pad_id, result.tokens.numpy()[:, :width])
    sequences = tf.constant(np.concatenate([ids, new], axis=1), tf.int32)  # [B, P + T]
    if not config.return_dict_in_generate:
        return sequences
    empty = tf.zeros([0], tf.int32)
    return TFGenerateOutput(
        sequences=sequences,
        token_logprobs=tf.zeros([0, 0]) if result is None else result.logprobs[:, :width],
        num_tokens=empty if result is None else result.count,
        finish_reason=[]
        if result is None
        else [stopping.FINISH_REASONS[code] for code in result.reason.numpy()],
    )


def _check_ids(model: Any, inputs: Any, attention_mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Checks prompts and mask: int32 arrays `[B, P]`."""
    if inputs is None:
        raise ValueError(
            explain(
                "generate() needs token ids to continue.",
                fix="Pass input_ids [B, P], for example model.generate(**tokenizer(text)).",
                input_ids=None,
            )
        )
    try:
        ids = np.asarray(inputs)
    except ValueError as error:
        raise ValueError(
            explain(
                "`input_ids` must be a rectangle [B, P].",
                fix="Pad the rows and pass attention_mask, or use the tokenizer.",
                input_ids=inputs,
            )
        ) from error
    mask = np.ones(ids.shape, np.int32) if attention_mask is None else np.asarray(attention_mask)
    vocabulary = model.config.vocab_size
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or mask.shape != ids.shape:
        raise ValueError(
            explain(
                "`input_ids` must be integers [B, P] and `attention_mask` have the same shape.",
                fix="Pass the tokenizer's output unchanged.",
                input_ids=f"{ids.dtype} {list(ids.shape)}",
                attention_mask=f"{mask.dtype} {list(mask.shape)}",
            )
        )
    mask = (mask > 0).astype(np.int32)
    inside = ids[mask > 0]
    if inside.size and not 0 <= inside.min() <= inside.max() < vocabulary:
        raise ValueError(
            explain(
                f"`input_ids` must be in [0, {vocabulary}), the size of the model's vocabulary.",
                fix="Use the tokenizer that belongs to the model.",
                input_ids=[int(inside.min()), int(inside.max())],
            )
        )
    lengths = mask.sum(axis=1)
    if ids.shape[0] and not lengths.all():
        raise ValueError(
            explain(
                "Every prompt needs at least one token.",
                fix="Start an empty prompt with the model's bos_token_id.",
                row=int(np.argmin(lengths)),
            )
        )
    limit = model.config.n_positions
    if ids.shape[0] and lengths.max() > limit:
        raise ValueError(
            explain(
                f"A prompt is longer than the model's context of {limit} tokens.",
                fix="Truncate it, or use TextGenerator(on_long_prompt='truncate_left').",
                tokens=int(lengths.max()),
            )
        )
    return np.where(mask > 0, ids, 0).astype(np.int32), mask


def _pad_id(config: GenerationConfig) -> int:
    """The id that fills rows after their end: never read back as text, the mask is by count."""
    if config.pad_token_id is not None:
        return config.pad_token_id
    return config.eos_ids[0] if config.eos_ids else 0


def _lengths(config: GenerationConfig, columns: int) -> dict[str, Any]:
    """Turns lengths that include the prompt into numbers of new tokens, as transformers does."""
    most, least = config.max_new_tokens, config.min_new_tokens
    if most is None:
        most = max(0, (config.max_length or 0) - columns)
    if least is None:
        least = max(0, (config.min_length or 0) - columns)
    return {"max_new_tokens": most, "min_new_tokens": least}


def _decoder(model: Any, tokenizer: Any, jit_compile: bool) -> Decoder:
    """Returns the model's programs, made once for each way to run them."""
    made = model.__dict__.setdefault("_decoders", weakref.WeakKeyDictionary())
    key = model.transformer if tokenizer is None else tokenizer
    programs = made.setdefault(key, {})
    if jit_compile not in programs:
        vocabulary = None if tokenizer is None else stopping.token_bytes(tokenizer.token_bytes)
        programs[jit_compile] = Decoder(model, jit_compile=jit_compile, vocabulary=vocabulary)
    return programs[jit_compile]


def _stops(config: GenerationConfig, tokenizer: Any, rows: int) -> StopStrings | tuple[()]:
    """Lays out stop strings, for which the bytes of the tokens must be known."""
    strings = config.stop_strings
    if not strings:
        return ()
    if tokenizer is None or not hasattr(tokenizer, "token_bytes"):
        raise ValueError(
            explain(
                "`stop_strings` are matched on text, so generate() must know the tokenizer.",
                fix="Pass tokenizer=TFGPT2Tokenizer.from_pretrained(...).",
                tokenizer=tokenizer,
            )
        )
    strings = [strings] if isinstance(strings, str) else list(strings)
    return stopping.stop_strings(tf.tile(tf.constant([strings]), [rows, 1]))  # [B, Q]


def _run(
    model: Any,
    decoder: Decoder,
    ids: np.ndarray,
    mask: np.ndarray,
    settings: Mapping[str, Any],
    config: GenerationConfig,
    stops: StopStrings | tuple[()],
) -> Result:
    """Pads to buckets and runs the compiled loop."""
    rows, columns = ids.shape
    buckets = default_buckets(model.config.n_positions)
    order = np.argsort(mask, axis=1, kind="stable")  # the padding first
    ids, mask = np.take_along_axis(ids * mask, order, 1), np.take_along_axis(mask, order, 1)
    longest = int(mask.sum(axis=1).max())
    ids, mask = ids[:, columns - longest :], mask[:, columns - longest :]
    extra = int(round_up(tf.constant(longest), buckets)) - longest
    ids, mask = (np.pad(array, [[0, 0], [extra, 0]]) for array in (ids, mask))  # [B, P]
    room = int(round_up(tf.constant(int(np.max(settings["max_new_tokens"]))), buckets))
    eos = np.tile(np.array([config.eos_ids or [-1]], np.int32), [rows, 1])  # [B, E]
    request = Request(
        **{name: spread(name, settings[name], rows) for name in ROW_OPTIONS},
        eos=tf.constant(eos),
        stops=stops,
    )
    return decoder.decode(
        tf.constant(ids), tf.constant(mask), request, tf.zeros([rows, room], tf.int32)
    )
