"""What may be asked of generation: names, ranges and defaults, and the checks at the border."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain, nearest

CONFIG_NAME = "generation_config.json"


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

# transformers' names and defaults of everything `model.generate` understands.
_DEFAULTS: dict[str, Any] = {
    "max_length": 20,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": None,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "stop_strings": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "seed": None,
    "return_dict_in_generate": False,
}
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")

# Options of transformers that are not here yet, with the values that ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1, None),
    "num_beam_groups": (1, None),
    "num_return_sequences": (1, None),
    "penalty_alpha": (0, None),
    "diversity_penalty": (0, None),
    "length_penalty": (1, None),
    "early_stopping": (False, None),
    "typical_p": (1, None),
    "epsilon_cutoff": (0, None),
    "eta_cutoff": (0, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "bad_words_ids": (None,),
    "force_words_ids": (None,),
    "constraints": (None,),
    "sequence_bias": (None,),
    "suppress_tokens": (None,),
    "begin_suppress_tokens": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (1, None),
    "renormalize_logits": (False, None),
    "remove_invalid_values": (False, None),
    "token_healing": (False, None),
    "max_time": (None,),
    "use_cache": (True, None),
    "output_scores": (False, None),
    "output_logits": (False, None),
    "output_attentions": (False, None),
    "output_hidden_states": (False, None),
    "prompt_lookup_num_tokens": (None,),
    "assistant_model": (None,),
    "streamer": (None,),
    "logits_processor": (None,),
    "stopping_criteria": (None,),
}


class GenerationConfig:
    """How to continue a text, under transformers' names.

    A value may be a number or one number per row. Keys of a `generation_config.json` that this
    package does not know survive a round trip.

    Args:
        **options: `max_length` (prompt and continuation, default 20), `max_new_tokens`,
            `min_length`, `min_new_tokens`, `do_sample` (default False: greedy), `temperature`
            (0 or more), `top_k` (default 50; 0 is off), `top_p` in [0, 1], `min_p` in [0, 1],
            `repetition_penalty` (1 is off), `stop_strings`, `bos_token_id`, `eos_token_id` (one
            or a list), `pad_token_id`, `seed`, `return_dict_in_generate`.

    Raises:
        TypeError: There is no such option.
        ValueError: A value is out of range, or asks for what is not supported yet.

    Source: transformers 4.57, `generation/configuration_utils.py::GenerationConfig`.

    Example:
        >>> GenerationConfig(do_sample=True, top_p=0.9).top_p
        0.9
    """

    def __init__(self, **options: Any) -> None:
        for name in options:
            if name not in _DEFAULTS and name not in _UNSUPPORTED:
                raise TypeError(
                    explain(
                        f"There is no generation option {name!r}.",
                        fix=nearest(name, _DEFAULTS),
                        **{name: options[name]},
                    )
                )
        self._assign(options)
        self.validate()

    def _assign(self, options: Mapping[str, Any]) -> None:
        for name, value in (copy.deepcopy(_DEFAULTS) | dict(options)).items():
            setattr(self, name, value)

    def validate(self) -> None:
        """Checks every option.

        Raises:
            ValueError: A value is out of range, or asks for what is not supported yet.
        """
        for name, neutral in _UNSUPPORTED.items():
            if getattr(self, name, neutral[0]) not in neutral:
                raise ValueError(
                    explain(
                        f"The generation option `{name}` is not supported yet.",
                        fix=f"Leave it out, or use its neutral value {neutral[0]!r}.",
                        **{name: getattr(self, name)},
                    )
                )
        for name in ROW_OPTIONS.keys() & self.__dict__.keys():
            if getattr(self, name) is not None:
                check_row_option(name, getattr(self, name))
        for name in ("max_length", "min_length"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (int, np.integer)) or value < 0):
                raise ValueError(
                    explain(
                        f"`{name}` must be an integer of 0 or more.",
                        fix="Or use `max_new_tokens` / `min_new_tokens`, which leave the prompt"
                        " out.",
                        **{name: value},
                    )
                )

    def to_dict(self) -> dict[str, Any]:
        """Returns every option and unknown key."""
        return copy.deepcopy(self.__dict__)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> GenerationConfig:
        """Makes a configuration from a parsed file; unknown keys are kept.

        Args:
            values: Options by name.
            **overrides: Options that replace those; unknown names raise.
        """
        checked = {name: getattr(cls(**overrides), name) for name in overrides}
        config = cls.__new__(cls)
        config._assign(dict(values) | checked)
        return config

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> GenerationConfig:
        """Reads a model's `generation_config.json`.

        Args:
            name: Directory, bundled name or hub name.
            **options: Where to look (see `tfgpt2.checkpoints.hub.Repository`).

        Raises:
            FileNotFoundError: The model has no such file.
            ValueError: The file is broken.

        Example:
            >>> GenerationConfig.from_pretrained("shakespeare-tiny").do_sample
            True
        """
        from tfgpt2.checkpoints.hub import Repository

        return cls.from_json_file(Repository(name, **options).require(CONFIG_NAME))

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str]) -> GenerationConfig:
        """Reads a `generation_config.json`.

        Raises:
            ValueError: The file is no JSON object.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (UnicodeDecodeError, json.JSONDecodeError, TypeError, ValueError) as error:
            raise ValueError(
                explain(
                    f"The file is not a readable generation configuration ({error}).",
                    fix="Save it again, or delete it to use the defaults.",
                    path=str(path),
                )
            ) from error

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes `generation_config.json`, without options that have their default."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        kept = {
            name: value
            for name, value in self.to_dict().items()
            if name not in _DEFAULTS or value != _DEFAULTS[name]
        }
        text = json.dumps(kept, indent=2, sort_keys=True) + "\n"
        (directory / CONFIG_NAME).write_text(text, encoding="utf-8")

    def updated(self, **options: Any) -> GenerationConfig:
        """Returns a copy with some options replaced; contradictions raise.

        Raises:
            TypeError: There is no such option.
            ValueError: A value is out of range, or a sampling option meets greedy decoding.
        """
        config = type(self).from_dict(self.to_dict(), **options)
        config.validate()
        asked = [name for name in _SAMPLING if options.get(name) is not None]
        neutral = [name for name in asked if options[name] == _DEFAULTS[name]]
        if asked != neutral and not config.do_sample:
            raise ValueError(
                explain(
                    f"`{asked[0]}` acts on sampling only, and decoding is greedy.",
                    fix="Add do_sample=True.",
                    **{name: options[name] for name in asked},
                )
            )
        return config

    def row_options(self) -> dict[str, Any]:
        """Returns the settings of the decode loop: greedy decoding is temperature 0."""
        options = {
            name: option.off if getattr(self, name, None) is None else getattr(self, name)
            for name, option in ROW_OPTIONS.items()
        }
        if not self.do_sample:
            for name in _SAMPLING:
                options[name] = ROW_OPTIONS[name].off
        return options

    @property
    def eos_ids(self) -> list[int]:
        """The ids that end a text."""
        ids = self.eos_token_id
        return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"GenerationConfig {json.dumps(self.to_dict(), indent=2, default=str)}"


def check_row_option(name: str, value: Any) -> np.ndarray:
    """Checks one setting's value or values.

    Args:
        name: A name of `ROW_OPTIONS`.
        value: A number, or one number per row.

    Returns:
        The value as an array `[]` or `[B]` of the option's dtype.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of range, or of rank 2 or more.
    """
    option = ROW_OPTIONS[name]
    array = np.asarray(value)
    wants_integer = option.dtype.startswith("int")
    kinds = "iu" if wants_integer else "iuf"
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
        name: A name of `ROW_OPTIONS`.
        value: A number, or one number per row.
        rows: How many rows there are.

    Returns:
        Tensor `[B]`. One seed gives row `i` the seed `seed + i`, so that equal prompts in one
        call differ.

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
    if name == "seed" and array.ndim == 0 and array >= 0:
        array = (array + np.arange(rows, dtype=np.uint64)).astype(np.int64) & (2**63 - 1)  # [B]
    return tf.constant(np.broadcast_to(array.reshape(-1) if array.ndim else array, [rows]))  # [B]


def clamp(name: str, value: tf.Tensor) -> tf.Tensor:
    """Moves a setting that only a tensor knows into its range; no number (NaN) means "off"."""
    option = ROW_OPTIONS[name]
    value = tf.cast(value, option.dtype)
    if value.dtype.is_floating:
        value = tf.where(tf.math.is_nan(value), tf.cast(option.off, value.dtype), value)
    return tf.clip_by_value(
        value, tf.cast(option.low, value.dtype), tf.cast(option.high, value.dtype)
    )
