"""`GenerationConfig`: what may be asked of generation, under transformers' names."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfgpt2.errors import explain, nearest
from tfgpt2.generation.options import (
    BEAM_OPTIONS,
    ROW_OPTIONS,
    check_row_option,
    early_stopping_codes,
)

CONFIG_NAME = "generation_config.json"


# transformers' names and defaults of everything `model.generate` understands.
_DEFAULTS: dict[str, Any] = {
    "max_length": None,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": None,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
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
    "num_beam_groups": (1, None),
    "penalty_alpha": (0, None),
    "diversity_penalty": (0, None),
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
        **options: `max_length` (prompt and continuation; with neither this nor `max_new_tokens`
            there are 20 new tokens), `max_new_tokens`, `min_length`, `min_new_tokens`,
            `do_sample` (default False: greedy), `temperature` (0 or more), `top_k` (default 50; 0
            is off), `top_p` in [0, 1], `min_p` in [0, 1], `repetition_penalty` (1 is off),
            `num_beams` (more than 1 is beam search, with `do_sample` beam sampling),
            `num_return_sequences` (up to `num_beams`), `length_penalty` (a text's score is divided
            by its new tokens to this power), `early_stopping` (True, False, `"never"`),
            `stop_strings`, `bos_token_id`, `eos_token_id` (one or a list), `pad_token_id`, `seed`,
            `return_dict_in_generate`.

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
                raise TypeError(_unknown(name, options[name]))
        self._assign(options)
        self.validate()

    def _assign(self, values: Mapping[str, Any]) -> None:
        """Takes known options as attributes and keeps foreign ones apart."""
        known = {n: v for n, v in values.items() if n in _DEFAULTS or n in _UNSUPPORTED}
        self.__dict__.update(copy.deepcopy(_DEFAULTS) | known)
        self.__dict__["_foreign"] = {n: v for n, v in values.items() if n not in known}

    def __getattr__(self, name: str) -> Any:
        foreign = self.__dict__.get("_foreign", {})
        if name in foreign:
            return foreign[name]
        raise AttributeError(f"'GenerationConfig' object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_foreign", {}):
            self._foreign[name] = value
        elif name in _DEFAULTS or name in _UNSUPPORTED:
            self.__dict__[name] = value
        else:
            raise AttributeError(_unknown(name, value))

    def validate(self) -> None:
        """Checks every option.

        Raises:
            TypeError: A value has the wrong type.
            ValueError: A value is out of range, or asks for what is not supported yet.
        """
        self._check_values()
        self._check_beams()
        for name, neutral in _UNSUPPORTED.items():
            if not _is_one_of(self.__dict__.get(name), neutral):
                raise ValueError(
                    explain(
                        f"The generation option `{name}` is not supported yet.",
                        fix=f"Leave it out, or use its neutral value {neutral[0]!r}.",
                        **{name: getattr(self, name)},
                    )
                )

    def _check_values(self) -> None:
        """Checks types and ranges."""
        for name in ROW_OPTIONS:
            if getattr(self, name) is not None:
                check_row_option(name, getattr(self, name))
        for name in ("max_length", "min_length", "bos_token_id", "pad_token_id"):
            _check_count(name, getattr(self, name))
        ids = self.eos_token_id
        for one in ids if isinstance(ids, (list, tuple)) else [ids]:
            _check_count("eos_token_id", one)
        for name in ("num_beams", "num_return_sequences"):
            _check_count(name, getattr(self, name), least=1)
        if self.length_penalty is not None:
            check_row_option("length_penalty", self.length_penalty)
        early_stopping_codes(self.early_stopping)
        for name in ("do_sample", "return_dict_in_generate"):
            if not isinstance(getattr(self, name), (bool, type(None))):
                raise TypeError(
                    explain(
                        f"`{name}` must be True or False.",
                        fix="Pass a bool.",
                        **{name: getattr(self, name)},
                    )
                )

    def _check_beams(self) -> None:
        """Checks that the options of beam search go together."""
        if (self.num_return_sequences or 1) > self.beams:
            raise ValueError(
                explain(
                    "`num_return_sequences` must not be larger than `num_beams`.",
                    fix="Use as many beams, or repeat the prompt for several samples.",
                    num_return_sequences=self.num_return_sequences,
                    num_beams=self.num_beams,
                )
            )
        if self.beams > 1 and np.size(self.stop_strings or []) > 0:
            raise ValueError(
                explain(
                    "`stop_strings` are not supported yet in beam search.",
                    fix="Leave them out, or use num_beams=1.",
                    stop_strings=self.stop_strings,
                    num_beams=self.num_beams,
                )
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns every option and unknown key."""
        options = {name: value for name, value in self.__dict__.items() if name != "_foreign"}
        return copy.deepcopy(self._foreign | options)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> GenerationConfig:
        """Makes a configuration from a parsed file; unknown keys are kept.

        Args:
            values: Options by name.
            **overrides: Options that replace those; unknown names raise.

        Raises:
            TypeError: `values` is no dict, a value has the wrong type, or an override is unknown.
            ValueError: A value is out of range.
        """
        if not isinstance(values, Mapping):
            raise TypeError(
                explain(
                    "A generation configuration is made from a dict.",
                    fix="Pass the parsed generation_config.json.",
                    values=values,
                )
            )
        if overrides:
            cls(**overrides)
        config = cls.__new__(cls)
        config._assign(dict(values) | overrides)
        config._check_values()
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
            if name not in _DEFAULTS or not _is_one_of(value, (_DEFAULTS[name],))
        }
        text = json.dumps(kept, indent=2, sort_keys=True, default=np.ndarray.tolist) + "\n"
        (directory / CONFIG_NAME).write_text(text, encoding="utf-8")

    def updated(self, **options: Any) -> GenerationConfig:
        """Returns a copy with some options replaced; contradictions raise.

        Raises:
            TypeError: There is no such option.
            ValueError: A value is out of range, or an option acts on another strategy only.
        """
        config = type(self).from_dict(self.to_dict(), **options)
        config.validate()
        asked = {
            name: options[name]
            for name in _SAMPLING
            if not _is_one_of(options.get(name), (None, _DEFAULTS[name], ROW_OPTIONS[name].off))
        }
        if asked and not config.do_sample:
            raise ValueError(
                explain(
                    f"`{next(iter(asked))}` acts on sampling only, and decoding is greedy.",
                    fix="Add do_sample=True.",
                    **asked,
                )
            )
        asked = {
            name: options[name]
            for name in BEAM_OPTIONS
            if not _is_one_of(options.get(name), (None, _DEFAULTS[name]))
        }
        if asked and config.beams == 1:
            raise ValueError(
                explain(
                    f"`{next(iter(asked))}` acts on beam search only, and there is one beam.",
                    fix="Add num_beams=4.",
                    **asked,
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

    def beam_options(self) -> dict[str, Any]:
        """Returns the settings that only beam search knows, numbers for all."""
        penalty = self.length_penalty
        return {
            "length_penalty": _DEFAULTS["length_penalty"] if penalty is None else penalty,
            "early_stopping": early_stopping_codes(self.early_stopping),
        }

    @property
    def beams(self) -> int:
        """How many texts are followed at a time."""
        return self.num_beams or 1

    @property
    def eos_ids(self) -> list[int]:
        """The ids that end a text."""
        ids = self.eos_token_id
        ids = ids if isinstance(ids, (list, tuple)) else [ids]
        return [int(one) for one in ids if one is not None]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"GenerationConfig {json.dumps(self.to_dict(), indent=2, default=str)}"


def _unknown(name: str, value: Any) -> str:
    """Says that there is no such option."""
    fix = nearest(name, _DEFAULTS)
    return explain(f"There is no generation option {name!r}.", fix=fix, **{name: value})


def _is_one_of(value: Any, choices: tuple[Any, ...]) -> bool:
    """Whether a value, which may be an array, is one of some plain ones."""
    return any(value is one for one in choices) or (np.ndim(value) == 0 and value in choices)


def _check_count(name: str, value: Any, *, least: int = 0) -> None:
    """Checks an option that is one integer of `least` or more, or None."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if value is not None and not (is_integer and value >= least):
        raise ValueError(
            explain(
                f"`{name}` must be an integer of {least} or more.",
                fix="Leave it out, or pass None, for the default.",
                **{name: value},
            )
        )
