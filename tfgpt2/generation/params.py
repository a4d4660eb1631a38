"""From a configuration to what the loop takes: a `Program`, and the fields of a `Request`.

What a configuration says of all rows becomes tensors with one row; `spread_rows` gives them as
many as a batch has, in Python or in a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.constraints import masking as automaton
from tfgpt2.generation.constraints.compile import compile_constraint
from tfgpt2.generation.constraints.token_dfa import fewest_tokens
from tfgpt2.generation.logits.history import SequenceBias, bad_words, lay_out_biases
from tfgpt2.generation.options import (
    BEAM_OPTIONS,
    EXTRA_OPTIONS,
    early_stopping_codes,
    spread,
)
from tfgpt2.generation.request import Decay, Program

_ID_LISTS = ("suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id",
             "forced_eos_token_id")  # fmt: skip


def program_of(
    config: GenerationConfig,
    vocab_size: int,
    *,
    assisted: bool = False,
    processors: Any = None,
    criteria: Any = None,
) -> Program:
    """Returns what a program must be compiled for to do what a configuration asks.

    Args:
        config: The configuration.
        vocab_size: `V`.
        assisted: Whether a smaller model guesses ahead.
        processors: A user's function on scores, or several.
        criteria: A user's stopping function, or several.

    Raises:
        TypeError: `processors` or `criteria` are no functions.
    """
    candidates = 0
    if config.strategy == "contrastive":
        most = int(np.max(np.asarray(config.top_k)))
        candidates = min(1 << max(2, (most - 1).bit_length()), vocab_size)
    return Program(
        returns=config.num_return_sequences or 1,
        best_of=config.best_of or 0,
        beams=config.beams,
        groups=config.num_beam_groups or 1,
        candidates=candidates,
        lookahead=config.num_assistant_tokens if assisted else config.prompt_lookup_num_tokens or 0,
        longest_match=config.max_matching_ngram_size,
        top_logprobs=config.top_logprobs or 0,
        scores=bool(config.output_scores),
        logits=bool(config.output_logits),
        use_cache=config.use_cache is not False,
        processors=_functions("logits_processor", processors),
        criteria=_functions("stopping_criteria", criteria),
    )


def extra_fields(
    config: GenerationConfig, rows: int, vocab_size: int, tokens: Sequence[bytes] | None
) -> dict[str, Any]:
    """Returns the fields of a `Request` that a program has only when they are asked for.

    Args:
        config: The configuration.
        rows: `B`, for options that are lists with one value per prompt; 1 for defaults.
        vocab_size: `V`.
        tokens: The bytes of every token, for constraints; None where they are unknown.

    Returns:
        Fields by name; their tensors have 1 or `B` rows.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A value is out of range, or a constraint needs the tokenizer.
    """
    found: dict[str, Any] = {
        name: spread(name, getattr(config, name), rows)
        for name in EXTRA_OPTIONS
        if config.asks(name)
    }
    if (config.num_beam_groups or 1) > 1:
        pad = config.pad_token_id if config.pad_token_id is not None else (*config.eos_ids, -1)[0]
        found["pad"] = tf.constant([pad], tf.int32)
    if config.beams > 1:
        penalty = config.length_penalty
        values = {"length_penalty": 1.0 if penalty is None else penalty,
                  "early_stopping": early_stopping_codes(config.early_stopping)}  # fmt: skip
        found |= {name: spread(name, values[name], rows) for name in BEAM_OPTIONS}
    for name in _ID_LISTS:
        value = getattr(config, name)
        if value is not None and not _empty(value):
            value = [value] if isinstance(value, (int, np.integer)) else value
            found[name] = _id_rows(name, value, rows, vocab_size)
    if config.exponential_decay_length_penalty is not None:
        found["decay"] = _decay(config.exponential_decay_length_penalty, rows)
    if config.bad_words_ids:
        found["bad_words"] = _bad_words(config, rows, vocab_size)
    if config.sequence_bias:
        found["sequence_bias"] = _biases(config.sequence_bias, rows, vocab_size)
    constraint = _constraint(config, rows, vocab_size, tokens)
    return found | ({} if constraint is None else {"constraint": constraint})


def eos_rows(config: GenerationConfig) -> tf.Tensor:
    """The ids that end a text: int32 `[1, E]`, -1 for none."""
    return tf.constant([config.eos_ids or [-1]], tf.int32)


def spread_rows(tree: Any, rows: tf.Tensor | int, texts: int = 1) -> Any:
    """Gives tensors with 1 or `B` rows `B * texts` rows, those of a prompt side by side."""

    def wide(x: tf.Tensor) -> tf.Tensor:
        if isinstance(rows, int) and x.shape[0] == rows:
            return x
        return tf.broadcast_to(x, tf.concat([[rows], tf.shape(x)[1:]], axis=0))

    tree = _each(tree, wide)
    return repeat_rows(tree, texts) if texts > 1 else tree


def repeat_rows(tree: Any, texts: tf.Tensor | int) -> Any:
    """`[B, ...]` -> `[B * texts, ...]`, the rows of a prompt side by side."""
    return _each(tree, lambda x: tf.repeat(x, texts, axis=0))


def _each(tree: Any, give: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    """Changes every tensor that has rows; the automata of a constraint are for all of them."""
    if isinstance(tree, automaton.Constraint):
        return tree._replace(start=give(tree.start))
    if isinstance(tree, tuple):  # a NamedTuple, or nothing
        return type(tree)(*(_each(one, give) for one in tree)) if tree else tree
    return give(tree)


def spread_seeds(seed: tf.Tensor, texts: int) -> tf.Tensor:
    """Gives each text of a prompt a seed of its own: int64 `[B]` -> `[B * texts]`.

    The first has the prompt's; the others are far from those of neighbouring prompts.

    Example:
        >>> spread_seeds(tf.constant([5, 6], tf.int64), 2).numpy().tolist()
        [5, 1099511627781, 6, 1099511627782]
    """
    further = tf.range(texts, dtype=tf.int64) * 2**40
    seeds = tf.bitwise.bitwise_and(seed[:, None] + further, tf.int64.max)  # [B, texts]
    return tf.reshape(seeds, [-1])


def _functions(name: str, value: Any) -> tuple[Any, ...]:
    """A function, several, or none, as a tuple."""
    functions = () if value is None else (value,) if callable(value) else tuple(value)
    if not all(map(callable, functions)):
        raise TypeError(
            explain(
                f"`{name}` must be a function of tensors, or a list of such functions.",
                fix="It becomes part of the compiled program; see TFGPT2LMHeadModel.generate.",
                **{name: value},
            )
        )
    return functions


def _empty(value: Any) -> bool:
    """Whether there is no id in lists, which may have different lengths."""
    if isinstance(value, (list, tuple)):
        return all(map(_empty, value))
    return np.size(value) == 0


def _depth(value: Any) -> int:
    """How deep lists are nested in each other."""
    if isinstance(value, (list, tuple, np.ndarray)) or tf.is_tensor(value):
        return 1 + max([0, *(_depth(one) for one in value)])
    return 0


def _for_rows(name: str, value: Any, rows: int, depth: int) -> list[Any]:
    """A value for all rows, or one for each, as a list: its entries are nested `depth` deep."""
    if _depth(value) <= depth:
        return [value]
    if len(value) not in (1, rows):
        raise ValueError(
            explain(
                f"`{name}` must be one value or {rows} values, one for each prompt.",
                fix="Give a single one to use it for every prompt.",
                **{name: value},
            )
        )
    return list(value)


def _check_id(name: str, one: Any, vocab_size: int, value: Any) -> int:
    is_integer = isinstance(one, (int, np.integer)) and not isinstance(one, bool)
    if not is_integer or not 0 <= one < vocab_size:
        raise ValueError(
            explain(
                f"`{name}` must hold ids in [0, {vocab_size}), the model's vocabulary.",
                fix="Tokenize words with the model's own tokenizer.",
                **{name: value},
            )
        )
    return int(one)


def _id_rows(name: str, value: Any, rows: int, vocab_size: int) -> tf.Tensor:
    """Lists of ids as int32 `[1 or B, U]`, padded with -1."""
    lists = _for_rows(name, np.asarray(value).tolist() if tf.is_tensor(value) else value, rows, 1)
    lists = [[_check_id(name, one, vocab_size, value) for one in row] for row in lists]
    width = max([1, *map(len, lists)])
    return tf.constant([row + [-1] * (width - len(row)) for row in lists], tf.int32)


def _decay(value: Any, rows: int) -> Decay:
    """`(start, factor)`, or one such pair per row."""
    pairs = _for_rows("exponential_decay_length_penalty", value, rows, 1)
    try:
        starts, factors = zip(*[(int(start), float(factor)) for start, factor in pairs],
                              strict=True)  # fmt: skip
    except (TypeError, ValueError):
        starts, factors = (-1,), (0.0,)
    if min(starts) < 0 or min(factors) <= 0:
        raise ValueError(
            explain(
                "`exponential_decay_length_penalty` must be (start, factor).",
                fix="For example (20, 1.05): from the 21st new token on, ends become likelier.",
                exponential_decay_length_penalty=value,
            )
        )
    return Decay(tf.constant(starts, tf.int32), tf.constant(factors, tf.float32))


def _bad_words(config: GenerationConfig, rows: int, vocab_size: int) -> SequenceBias:
    """Words that must not come, where an end token alone is none."""
    name, value = "bad_words_ids", config.bad_words_ids
    lists = _for_rows(name, value, rows, 2)
    checked = [[_check_ids(name, word, vocab_size, value) for word in words] for words in lists]
    return lay_out_biases([bad_words(words, config.eos_ids) for words in checked])


def _biases(value: Any, rows: int, vocab_size: int) -> SequenceBias:
    """`{(id, ...): bias}` or `[[[id, ...], bias], ...]`, or one such thing per row."""
    if isinstance(value, Mapping):
        lists = [value]
    elif all(isinstance(one, Mapping) or (_depth(one) and _depth(one[0]) != 1) for one in value):
        lists = _for_rows("sequence_bias", value, rows, -1)
    else:
        lists = [value]
    pairs = [list(one.items()) if isinstance(one, Mapping) else list(one) for one in lists]
    made: list[dict[tuple[int, ...], float]] = []
    for row in pairs:
        made.append({})
        for pair in row:
            try:
                sequence, bias = pair
                bias = float(bias)
            except (TypeError, ValueError):
                sequence, bias = (), float("nan")
            if np.isnan(bias):
                raise ValueError(
                    explain(
                        "`sequence_bias` must pair sequences of ids with numbers.",
                        fix="For example {(262,): -2.0, (11, 290): 1.5}.",
                        sequence_bias=value,
                    )
                )
            made[-1][_check_ids("sequence_bias", sequence, vocab_size, value)] = bias
    return lay_out_biases(made)


def _check_ids(name: str, sequence: Any, vocab_size: int, value: Any) -> tuple[int, ...]:
    """A sequence of ids, or one id, as a tuple."""
    ids = sequence if isinstance(sequence, (list, tuple, np.ndarray)) else (sequence,)
    return tuple(_check_id(name, one, vocab_size, value) for one in ids)


def _constraint(
    config: GenerationConfig, rows: int, vocab_size: int, tokens: Sequence[bytes] | None
) -> automaton.Constraint | None:
    """Compiles what the texts must match, for all rows or for each."""
    depths = {"choices": 1, "regex": 0, "json_schema": 0}
    name = next((name for name in depths if getattr(config, name) is not None), None)
    if name is None:
        return None
    if tokens is None:
        raise ValueError(
            explain(
                f"`{name}` is matched on text, so generate() must know the tokenizer.",
                fix="Pass tokenizer=TFGPT2Tokenizer.from_pretrained(...).",
                tokenizer=None,
            )
        )
    values = _for_rows(name, getattr(config, name), rows, depths[name])
    ends = config.eos_ids
    automata = [
        None if value is None else compile_constraint(tokens, **{name: value}, end_ids=ends)
        for value in values
    ]
    _check_room(config, name, [one for one in automata if one is not None])
    return automaton.join(automata, vocab_size)


def _check_room(config: GenerationConfig, name: str, automata: list[Any]) -> None:
    """Checks that what must match can be written in as many tokens as there may be."""
    least = max(map(fewest_tokens, automata), default=0)
    most = config.max_new_tokens
    if most is not None and np.min(np.asarray(most)) < least:
        raise ValueError(
            explain(
                f"The shortest text that fits `{name}` takes {least} tokens of this vocabulary.",
                fix=f"Pass max_new_tokens={least} or more.",
                max_new_tokens=most,
            )
        )
