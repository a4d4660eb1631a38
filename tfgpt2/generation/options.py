"""The settings that each row has for itself: names, types, ranges, and the checks at the border."""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain


class RowOption(NamedTuple):
    """A setting with one value per row.

    Attributes:
        dtype: Type of its tensor.
        off: The value that does nothing.
        low: Smallest value.
        high: Largest value.
        expected: The range in words.
    """

    dtype: str
    off: float
    low: float
    high: float
    expected: str


_MOST_TOKENS = 2**30
ROW_OPTIONS: dict[str, RowOption] = {
    "max_new_tokens": RowOption("int32", 64, 0, _MOST_TOKENS, "an integer of 0 or more"),
    "min_new_tokens": RowOption("int32", 0, 0, _MOST_TOKENS, "an integer of 0 or more"),
    "temperature": RowOption("float32", 0.0, 0, 1e6, "a number of 0 (greedy) or more"),
    "top_k": RowOption("int32", 0, 0, _MOST_TOKENS, "an integer of 0 (off) or more"),
    "top_p": RowOption("float32", 1.0, 0, 1, "a number in [0, 1]; 1 is off"),
    "min_p": RowOption("float32", 0.0, 0, 1, "a number in [0, 1]; 0 is off"),
    "repetition_penalty": RowOption("float32", 1.0, 1e-3, 1e3, "a number in [0.001, 1000]"),
    "seed": RowOption(
        "int64", -1, -1, 2**63 - 1, "an integer of 0 or more; -1 is a fresh one each time"
    ),
}
# Those that a program has only when a request asks for them.
EXTRA_OPTIONS: dict[str, RowOption] = {
    "typical_p": RowOption("float32", 1.0, 1e-6, 1, "a number in (0, 1]; 1 is off"),
    "epsilon_cutoff": RowOption("float32", 0.0, 0, 1, "a number in [0, 1]; 0 is off"),
    "eta_cutoff": RowOption("float32", 0.0, 0, 1, "a number in [0, 1]; 0 is off"),
    "presence_penalty": RowOption("float32", 0.0, -100, 100, "a number in [-100, 100]"),
    "frequency_penalty": RowOption("float32", 0.0, -100, 100, "a number in [-100, 100]"),
    "encoder_repetition_penalty": RowOption(
        "float32", 1.0, 1e-3, 1e3, "a number in [0.001, 1000]; 1 is off"
    ),
    "no_repeat_ngram_size": RowOption("int32", 0, 0, _MOST_TOKENS, "an integer of 0 (off) or more"),
    "encoder_no_repeat_ngram_size": RowOption(
        "int32", 0, 0, _MOST_TOKENS, "an integer of 0 (off) or more"
    ),
    "guidance_scale": RowOption("float32", 1.0, -100, 100, "a number in [-100, 100]; 1 is off"),
    "remove_invalid_values": RowOption("bool", False, 0, 1, "True or False"),
    "renormalize_logits": RowOption("bool", False, 0, 1, "True or False"),
    "penalty_alpha": RowOption("float32", 0.0, 0, 1, "a number in [0, 1]; 0 is off"),
    "diversity_penalty": RowOption("float32", 0.0, 0, 1e6, "a number of 0 or more"),
}
# What beam search asks beside those.
BEAM_OPTIONS: dict[str, RowOption] = {
    "length_penalty": RowOption("float32", 1.0, -10, 10, "a number in [-10, 10]"),
    "early_stopping": RowOption("int32", 0, 0, 2, "True, False or 'never'"),
}
OPTIONS = ROW_OPTIONS | EXTRA_OPTIONS | BEAM_OPTIONS
_EARLY_STOPPING = {
    False: 0,
    True: 1,
    "never": 2,
}  # the codes of `tfgpt2.generation.strategies.beam_search`


def early_stopping_codes(value: Any) -> Any:
    """Turns one value of `early_stopping`, or a list with one per row, into codes.

    Raises:
        ValueError: It is none of True, False and "never".

    Example:
        >>> early_stopping_codes([True, "never"])
        [1, 2]
    """
    if isinstance(value, (list, tuple, np.ndarray)):
        return [early_stopping_codes(one) for one in value]
    if value is None:
        return _EARLY_STOPPING[False]
    if not isinstance(value, (bool, np.bool_)) and value != "never":
        raise ValueError(
            explain(
                f"`early_stopping` must be {BEAM_OPTIONS['early_stopping'].expected}.",
                fix="True stops with num_beams ended texts; 'never' when none can improve.",
                early_stopping=value,
            )
        )
    return _EARLY_STOPPING[value if value == "never" else bool(value)]


def check_row_option(name: str, value: Any) -> np.ndarray:
    """Checks one setting's value or values.

    Args:
        name: A name of `OPTIONS`.
        value: A number, or one number per row.

    Returns:
        The value as an array `[]` or `[B]` of the option's dtype.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of range, or of rank 2 or more.
    """
    option = OPTIONS[name]
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.size == 0:  # an empty list has no type of its own
        array = array.astype(option.dtype)
    wants_integer = option.dtype.startswith("int")
    kinds = "b" if option.dtype == "bool" else "iu" if wants_integer else "iuf"
    if array.dtype.kind not in kinds:
        raise TypeError(
            explain(
                f"`{name}` must be {option.expected}.",
                fix="Pass a number, or a list with one number per row.",
                **{name: value},
            )
        )
    if array.ndim > 1 or not np.all((array >= option.low) & (array <= option.high)):
        raise ValueError(
            explain(
                f"`{name}` must be {option.expected}.",
                fix="Pass one value, or one value per row, in that range.",
                **{name: value},
            )
        )
    return array.astype(option.dtype)


def spread(name: str, value: Any, rows: int) -> tf.Tensor:
    """Checks a setting and gives each row its value.

    Args:
        name: A name of `OPTIONS`.
        value: A number, or one number per row.
        rows: How many rows there are.

    Returns:
        Tensor `[B]`. One seed gives row `i` the seed `seed + i`, so that equal prompts in one
        call differ; each seed of -1 becomes one that nobody can foresee.

    Raises:
        TypeError: The value is no number.
        ValueError: It is out of range, or there is not one value per row.
    """
    array = check_row_option(name, value)
    if array.ndim == 1 and len(array) not in (1, rows):
        raise ValueError(
            explain(
                f"`{name}` must be one value or {rows} values, one for each row.",
                fix="Give a single number to use it for every row.",
                **{name: value},
            )
        )
    if name == "seed":
        array = _row_seeds(array, rows)
    return tf.constant(np.broadcast_to(array, [rows]))  # [B]


def _row_seeds(seeds: np.ndarray, rows: int) -> np.ndarray:
    """Gives each row its seed: int64 `[]`, `[1]` or `[B]` -> `[B]`."""
    if seeds.ndim == 0 and seeds >= 0:
        numbers = [(int(seeds) + row) % 2**63 for row in range(rows)]
    else:
        numbers = np.broadcast_to(seeds, [rows]).tolist()
    fresh = [secrets.randbits(62) if number < 0 else number for number in numbers]
    return np.array(fresh, np.int64)  # [B]


def clamp(name: str, value: tf.Tensor) -> tf.Tensor:
    """Moves a setting that only a tensor knows into its range; no number (NaN) means "off"."""
    option = OPTIONS[name]
    value = tf.cast(value, option.dtype)
    if value.dtype == tf.bool:
        return value
    if value.dtype.is_floating:
        value = tf.where(tf.math.is_nan(value), tf.cast(option.off, value.dtype), value)
    return tf.clip_by_value(
        value, tf.cast(option.low, value.dtype), tf.cast(option.high, value.dtype)
    )
