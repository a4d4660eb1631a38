"""`model.generate`: transformers' arguments in, token ids out, around the compiled loop."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain, nearest
from tfgpt2.generation import stopping
from tfgpt2.generation.beam import BeamRequest
from tfgpt2.generation.buckets import default_buckets, round_up
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.decoder import Decoder
from tfgpt2.generation.loop import Request, Result
from tfgpt2.generation.options import BEAM_OPTIONS, ROW_OPTIONS, spread
from tfgpt2.generation.stopping import StopStrings
from tfgpt2.generation.texts import check_numbers
from tfgpt2.modeling.cache import align_right
from tfgpt2.outputs import ModelOutput

_DEFAULT_NEW_TOKENS = 20  # as in transformers


class TFGenerateOutput(ModelOutput):
    """Results of `model.generate(return_dict_in_generate=True)`.

    Beam search gives `num_return_sequences` rows for each prompt, the best first; `B` counts them.

    Attributes:
        sequences: int32 `[B, P + T]`, prompts and continuations, padded after a row's end.
        token_logprobs: float32 `[B, T]`, nats of each new token under the model's own
            distribution; 0 after a row's end.
        num_tokens: int32 `[B]`, new tokens of each row, an end token included.
        finish_reason: `B` strings: `"length"`, `"eos"` or `"stop"`.
        sequences_scores: float32 `[B]` of beam search, the sum of the (processed)
            log-probabilities divided by the number of new tokens to the power `length_penalty`.
    """

    sequences: Any
    token_logprobs: Any
    num_tokens: Any
    finish_reason: Any
    sequences_scores: Any


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
    config = _config(model, generation_config, options)
    inputs, attention_mask = _unpack(inputs, options.get("input_ids"), attention_mask)
    ids, mask = _check_ids(model, config, inputs, attention_mask)
    rows, columns = ids.shape
    settings = config.row_options() | _lengths(config, columns)
    settings = {name: spread(name, settings[name], rows) for name in ROW_OPTIONS}
    stops, scores = _stops(config, tokenizer, rows), None
    if not rows:  # XLA compiles no program for zero rows
        none = tf.zeros([0], tf.int32)
        result = Result(tf.zeros([0, 0], tf.int32), tf.zeros([0, 0]), none, none, none)
        scores = tf.zeros([0]) if config.beams > 1 else None
    elif config.beams > 1:
        decoder = _decoder(model, None, jit_compile)
        result, scores = _search(model, decoder, ids, mask, settings, config)
        check_numbers(scores.numpy())
        ids = ids.repeat(config.num_return_sequences or 1, axis=0)
    else:
        decoder = _decoder(model, tokenizer if stops else None, jit_compile)
        *prompts, request, room = _lay_out(model, ids, mask, settings, config)
        result = decoder.decode(*prompts, request._replace(stops=stops), room)
    count = result.count.numpy()
    width = int(count.max(initial=0))
    logprobs = result.logprobs[:, :width]
    check_numbers(logprobs.numpy())
    ended = np.arange(width)[None] >= count[:, None]  # [B, T]
    new = np.where(ended, _pad_id(config), result.tokens.numpy()[:, :width])
    sequences = tf.constant(np.concatenate([ids, new], axis=1), tf.int32)  # [B, P + T]
    if not config.return_dict_in_generate:
        return sequences
    reasons = [stopping.FINISH_REASONS[code] for code in result.reason.numpy()]
    return TFGenerateOutput(
        sequences=sequences,
        token_logprobs=logprobs,
        num_tokens=result.count,
        finish_reason=reasons,
        sequences_scores=scores,
    )


def _config(
    model: Any, generation_config: GenerationConfig | None, options: Mapping[str, Any]
) -> GenerationConfig:
    """Joins the configuration and the options of a call."""
    config = model.generation_config if generation_config is None else generation_config
    if not isinstance(config, GenerationConfig):
        raise TypeError(
            explain(
                "`generation_config` must be a tfgpt2.GenerationConfig.",
                fix="Use GenerationConfig.from_dict(values).",
                generation_config=generation_config,
            )
        )
    return config.updated(**{k: v for k, v in options.items() if k != "input_ids"})


def _unpack(inputs: Any, input_ids: Any, attention_mask: Any) -> tuple[Any, Any]:
    """Finds ids and mask among the ways to pass them."""
    if inputs is not None and input_ids is not None:
        raise ValueError(
            explain(
                "Token ids came twice.", fix="Pass `inputs` or `input_ids`.", input_ids=input_ids
            )
        )
    inputs = input_ids if inputs is None else inputs
    if not isinstance(inputs, Mapping):
        return inputs, attention_mask
    named = dict(inputs)  # what the tokenizer returns
    inputs, mask = named.pop("input_ids", None), named.pop("attention_mask", None)
    if named:
        raise TypeError(
            explain(
                f"generate() has no input {min(named)!r}.",
                fix=nearest(min(named), ["input_ids", "attention_mask"]),
                inputs=sorted(named),
            )
        )
    return inputs, mask if attention_mask is None else attention_mask


def _check_ids(
    model: Any, config: GenerationConfig, inputs: Any, attention_mask: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Checks prompts and mask: int32 arrays `[B, P]`."""
    if inputs is None:
        if config.bos_token_id is None:
            raise ValueError(
                explain(
                    "generate() needs token ids to continue, and there is no start token.",
                    fix="Pass input_ids [B, P], for example model.generate(**tokenizer(text)).",
                    input_ids=None,
                    bos_token_id=None,
                )
            )
        inputs = [[config.bos_token_id]]
    if tf.is_tensor(inputs) and tf.is_symbolic_tensor(inputs):
        raise TypeError(
            explain(
                "generate() runs eagerly and cannot be part of a graph.",
                fix="In graphs, use a TextGenerator, which is a Keras model from text to text.",
                input_ids=inputs,
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
    mask = _inferred_mask(config, ids) if attention_mask is None else np.asarray(attention_mask)
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
    _check_prompts(model, ids, mask)
    return ids.astype(np.int32), mask


def _check_prompts(model: Any, ids: np.ndarray, mask: np.ndarray) -> None:
    """Checks that the model can read each row: `[B, P]` both."""
    inside = ids[mask > 0]
    vocabulary, limit = model.config.vocab_size, model.config.n_positions
    if inside.size and not 0 <= inside.min() <= inside.max() < vocabulary:
        raise ValueError(
            explain(
                f"`input_ids` must be in [0, {vocabulary}), the size of the model's vocabulary.",
                fix="Use the tokenizer that belongs to the model.",
                input_ids=[int(inside.min()), int(inside.max())],
            )
        )
    lengths = mask.sum(axis=1)
    if not lengths.all():
        raise ValueError(
            explain(
                "Every prompt needs at least one token.",
                fix="Start an empty prompt with the model's bos_token_id.",
                row=int(np.argmin(lengths)),
            )
        )
    if lengths.max(initial=0) >= limit:
        raise ValueError(
            explain(
                f"A prompt leaves no room in the model's context of {limit} tokens.",
                fix="Truncate it, or use TextGenerator(on_long_prompt='truncate_left').",
                tokens=int(lengths.max()),
            )
        )


def _inferred_mask(config: GenerationConfig, ids: np.ndarray) -> np.ndarray:
    """Where no mask is given, a pad token that cannot be text is padding.

    Source: transformers 4.57, `generation/utils.py::_prepare_attention_mask_for_generation`.
    """
    if config.pad_token_id is None or config.pad_token_id in config.eos_ids:
        return np.ones(ids.shape, np.int32)
    return np.asarray(ids != config.pad_token_id).astype(np.int32)


def _pad_id(config: GenerationConfig) -> int:
    """The id that fills rows after their end: never read back as text, the mask is by count."""
    if config.pad_token_id is not None:
        return config.pad_token_id
    return config.eos_ids[0] if config.eos_ids else 0


def _lengths(config: GenerationConfig, columns: int) -> dict[str, Any]:
    """Turns lengths that include the prompt into numbers of new tokens.

    Source: transformers 4.57, `generation/utils.py::_prepare_generated_length`.
    """
    most, least = config.max_new_tokens, config.min_new_tokens
    if most is None and config.max_length is not None:
        most = config.max_length - columns
        if most <= 0:
            raise ValueError(
                explain(
                    f"`max_length` includes the prompt, which has {columns} tokens already.",
                    fix="Pass max_new_tokens.",
                    max_length=config.max_length,
                )
            )
    if least is None:
        least = max(0, (config.min_length or 0) - columns)
    return {
        "max_new_tokens": _DEFAULT_NEW_TOKENS if most is None else most,
        "min_new_tokens": least,
    }


def _decoder(model: Any, tokenizer: Any, jit_compile: bool) -> Decoder:
    """Returns the model's programs, made once for each way to run them."""
    made = model.__dict__.setdefault("_decoders", weakref.WeakKeyDictionary())
    key = model.transformer if tokenizer is None else tokenizer
    programs = made.setdefault(key, {})
    if jit_compile not in programs:
        vocabulary = None
        if tokenizer is not None:
            size = model.config.vocab_size
            vocabulary = stopping.token_bytes(tokenizer.token_bytes[:size], size)
        programs[jit_compile] = Decoder(model, jit_compile=jit_compile, vocabulary=vocabulary)
    return programs[jit_compile]


def _stops(config: GenerationConfig, tokenizer: Any, rows: int) -> StopStrings | tuple[()]:
    """Lays out stop strings, for which the bytes of the tokens must be known."""
    strings = config.stop_strings
    if strings is None or strings == [] or strings == ():
        return ()
    if not hasattr(tokenizer, "token_bytes"):
        raise ValueError(
            explain(
                "`stop_strings` are matched on text, so generate() must know the tokenizer.",
                fix="Pass tokenizer=TFGPT2Tokenizer.from_pretrained(...).",
                tokenizer=tokenizer,
            )
        )
    return stopping.stop_strings(stopping.stop_rows("stop_strings", strings, rows))


def _search(
    model: Any,
    decoder: Decoder,
    ids: np.ndarray,
    mask: np.ndarray,
    settings: Mapping[str, tf.Tensor],
    config: GenerationConfig,
) -> tuple[Result, tf.Tensor]:
    """Runs beam search: the best texts of each row in turn, and their scores."""
    rows, best = len(ids), config.num_return_sequences or 1
    own = config.beam_options()
    *prompts, request, room = _lay_out(model, ids, mask, settings, config)
    request = BeamRequest(request, **{name: spread(name, own[name], rows) for name in BEAM_OPTIONS})
    found = decoder.search(config.beams)(*prompts, request, room)
    found = tf.nest.map_structure(
        lambda x: tf.reshape(x[:, :best], [rows * best, *x.shape[2:]]), found
    )
    cut = tf.fill([rows * best], -1)
    return Result(found.tokens, found.logprobs, found.count, found.reason, cut), found.score


def _lay_out(
    model: Any,
    ids: np.ndarray,
    mask: np.ndarray,
    settings: Mapping[str, tf.Tensor],
    config: GenerationConfig,
) -> tuple[tf.Tensor, tf.Tensor, Request, tf.Tensor]:
    """Pads to buckets: ids, mask, request and room as the loop takes them."""
    rows, columns = ids.shape
    context = model.config.n_positions
    buckets = default_buckets(context)
    lengths = mask.sum(axis=1)  # [B]
    longest = int(lengths.max())
    extra = int(round_up(tf.constant(longest), buckets)) - longest
    aligned = align_right(tf.constant(ids, tf.int32), tf.constant(mask, tf.int32))
    prompts = [tf.pad(part[:, columns - longest :], [[0, 0], [extra, 0]]) for part in aligned]
    limit = tf.minimum(settings["max_new_tokens"], context - tf.constant(lengths, tf.int32))
    request = Request(
        **(settings | {"max_new_tokens": limit}),
        eos=tf.tile(tf.constant([config.eos_ids or [-1]], tf.int32), [rows, 1]),  # [B, E]
    )
    room = tf.zeros([rows, round_up(tf.reduce_max(limit), buckets)], tf.int32)  # [B, T]
    return *prompts, request, room  # [B, P], [B, P]
