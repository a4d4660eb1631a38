"""`GenerationConfig`: the options of generation, under transformers' names."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfgpt2.config import GPT2Config
from tfgpt2.errors import explain, nearest, type_error, value_error
from tfgpt2.files import parse_json
from tfgpt2.generation.modes import GenerationMode, mode_of
from tfgpt2.generation.option_table import DEFAULTS, OPTIONS, ROW_OPTIONS, SAMPLING_OPTIONS
from tfgpt2.generation.option_values import (
    TOKEN_IDS,
    check_option,
    is_one_of,
    json_value,
    without_negative_ids,
)
from tfgpt2.generation.options import (
    CONSTRAINTS,
    COUNTS,
    FLAGS,
    MOST_SECONDS,
    REQUEST_OPTIONS,
    UNSUPPORTED,
    Option,
)
from tfgpt2.generation.strategies.base import Strategy
from tfgpt2.generation.strategies.beam_search import early_stopping_codes
from tfgpt2.generation.strategies.registry import strategy_of
from tfgpt2.generation.validation import check_asked, check_together
from tfgpt2.hub import HubOptions, Repository, check_no_upload

CONFIG_NAME = "generation_config.json"
_OLD_MAX_LENGTH = 20  # transformers' default, which it once wrote to every `config.json`


class GenerationConfig:
    """Options of generation, under transformers' names.

    A value may be a number or one number per row. Keys of a `generation_config.json` that this
    package does not know survive a round trip.

    Args:
        **options: See `docs/generation.md` for the table of all. Length: `max_length` (prompt and
            continuation; with neither this nor `max_new_tokens` there are 20 new tokens),
            `max_new_tokens`, `min_length`, `min_new_tokens`, `max_time` (seconds),
            `stop_strings`. Strategy: `do_sample` (default False: greedy), `num_beams`,
            `num_beam_groups`, `penalty_alpha` (contrastive search), `prompt_lookup_num_tokens`,
            `num_assistant_tokens`. Sampling: `temperature` (0 or more), `top_k` (default 50; 0
            is off), `top_p`, `min_p`, `typical_p`, `epsilon_cutoff`, `eta_cutoff`, `seed`.
            Scores: `repetition_penalty`, `presence_penalty`, `frequency_penalty`,
            `no_repeat_ngram_size`, `bad_words_ids`, `sequence_bias`, `suppress_tokens`,
            `guidance_scale` and more. Output that always matches: `choices`, `regex`,
            `json_schema`. Results: `num_return_sequences`, `best_of`, `top_logprobs`,
            `return_dict_in_generate`, `output_scores` and more.

    Raises:
        TypeError: There is no such option.
        ValueError: A value is out of range, or contradicts another one.

    Source: transformers 4.57, `generation/configuration_utils.py::GenerationConfig`.

    Example:
        >>> GenerationConfig(do_sample=True, top_p=0.9).top_p
        0.9
    """

    def __init__(self, **options: Any) -> None:
        _check_names(options)
        self._assign(options)
        self.validate()

    def _assign(self, values: Mapping[str, Any]) -> None:
        """Takes known options as attributes and keeps foreign ones apart."""
        known = {n: v for n, v in values.items() if n in DEFAULTS or n in UNSUPPORTED}
        self.__dict__.update(copy.deepcopy(DEFAULTS) | known)
        self.__dict__["_foreign"] = {n: v for n, v in values.items() if n not in known}

    def __getattr__(self, name: str) -> Any:
        foreign = self.__dict__.get("_foreign", {})
        if name in foreign:
            return foreign[name]
        raise AttributeError(f"'GenerationConfig' object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_foreign", {}):
            self._foreign[name] = value
        elif name in DEFAULTS or name in UNSUPPORTED:
            self.__dict__[name] = value
        else:
            raise AttributeError(_unknown(name, value))

    def validate(self) -> None:
        """Checks every option.

        Raises:
            TypeError: A value has the wrong type.
            ValueError: A value is out of range, or contradicts another one.
        """
        self._check_values()
        for name, (neutral, fix) in UNSUPPORTED.items():
            if not is_one_of(self.__dict__.get(name), neutral):
                raise value_error(
                    f"The option `{name}` of transformers does nothing here.",
                    fix=fix,
                    **{name: getattr(self, name)},
                )
        check_together(self)

    def _check_values(self) -> None:
        """Checks types and ranges."""
        for name, option in ROW_OPTIONS.items():
            if name != "early_stopping" and getattr(self, name) is not None:
                check_option(option, getattr(self, name))
        for option in COUNTS:
            _check_count(option.name, getattr(self, option.name), option)
        for name in ("eos_token_id", "forced_bos_token_id", "forced_eos_token_id"):
            ids = getattr(self, name)
            for one in ids if isinstance(ids, (list, tuple)) else [ids]:
                _check_count(name, one)
        early_stopping_codes(self.early_stopping)
        for name in (option.name for option in FLAGS):
            if not isinstance(getattr(self, name), (bool, type(None))):
                raise type_error(
                    f"`{name}` must be True or False.",
                    fix="Pass a bool.",
                    **{name: getattr(self, name)},
                )
        seconds = self.max_time
        if seconds is not None and not (
            isinstance(seconds, (int, float))
            and not isinstance(seconds, bool)
            and 0 < seconds <= MOST_SECONDS
        ):
            raise value_error(
                f"`max_time` must be seconds above 0, at most {MOST_SECONDS}.",
                fix="For example max_time=2.5; None is no limit.",
                max_time=seconds,
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns every option and unknown key."""
        options = {name: value for name, value in self.__dict__.items() if name != "_foreign"}
        return copy.deepcopy(self._foreign | options)

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **overrides: Any
    ) -> Any:
        """Makes a configuration from a parsed file; unknown keys are kept.

        Args:
            config_dict: Options by name.
            return_unused_kwargs: Return the configuration and a dict of the overrides that are not
                options, which would raise otherwise.
            **overrides: Options that replace those; unknown names raise.

        Raises:
            TypeError: `config_dict` is not a dict, a value has the wrong type, or an override is
                unknown.
            ValueError: A value is out of range.
        """
        if not isinstance(config_dict, Mapping):
            raise type_error(
                "A generation configuration is made from a dict.",
                fix="Pass the parsed generation_config.json.",
                config_dict=config_dict,
            )
        if return_unused_kwargs:
            own = {n: v for n, v in overrides.items() if _is_option(n)}
            unused = {n: v for n, v in overrides.items() if n not in own}
            return cls.from_dict(config_dict, **own), unused
        _check_names(overrides)
        config = cls.__new__(cls)
        config._assign(dict(config_dict) | overrides)
        config._check_values()
        return config

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | os.PathLike[str],
        config_file_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Reads a model's `generation_config.json`.

        Args:
            pretrained_model_name: Directory, bundled name or hub name.
            config_file_name: Name of the file, if it is another one.
            **options: Where to look (see `tfgpt2.hub.HubOptions`), and those of `from_dict`.

        Raises:
            FileNotFoundError: The model has no such file.
            TypeError: An option is unknown.
            ValueError: The file is broken, or a value is out of range.

        Example:
            >>> GenerationConfig.from_pretrained("shakespeare-tiny").do_sample
            True
        """
        hub_options, overrides = HubOptions.split(options)
        files = Repository(pretrained_model_name, hub_options)
        config = cls.from_json_file(files.require(config_file_name or CONFIG_NAME))
        return cls.from_dict(config.to_dict(), **overrides) if overrides else config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> GenerationConfig:
        """Reads a `generation_config.json`.

        Raises:
            ValueError: The file is not a JSON object.
        """
        try:
            values = parse_json(Path(json_file).read_text(encoding="utf-8"))
            return cls.from_dict(without_negative_ids(values))
        except (TypeError, ValueError) as error:
            raise value_error(
                f"The file is not a readable generation configuration ({error}).",
                fix="Save it again, or delete it to use the defaults.",
                path=str(json_file),
            ) from error

    @classmethod
    def from_model_config(cls, model_config: GPT2Config) -> GenerationConfig:
        """Makes the configuration of a model without a `generation_config.json`.

        Args:
            model_config: The model's configuration, whose `bos_token_id`, `eos_token_id` and
                `pad_token_id` are taken, a negative id is no token; and the options of generation
                that it holds, except for the `max_length` of 20 that old files have for none.

        Raises:
            TypeError: An option of it has the wrong type.
            ValueError: An option of it is out of range.

        Example:
            >>> from tfgpt2 import GPT2Config
            >>> GenerationConfig.from_model_config(GPT2Config(eos_token_id=-1)).eos_ids
            []
        """
        ids = {name: getattr(model_config, name) for name in TOKEN_IDS}
        options = model_config.generation_options
        if options.get("max_length") == _OLD_MAX_LENGTH:
            del options["max_length"]
        return cls.from_dict(options | without_negative_ids(ids))

    def update(self, **options: Any) -> dict[str, Any]:
        """Sets several options at once, as far as there are such options.

        Args:
            **options: Values by name.

        Returns:
            Those that are no options.

        Raises:
            TypeError: A value has the wrong type.
            ValueError: A value is out of range, or contradicts another; nothing is changed.
        """
        own = {n: v for n, v in options.items() if _is_option(n) or n in self._foreign}
        changed = copy.deepcopy(self)
        for name, value in own.items():
            setattr(changed, name, value)
        changed.validate()
        self.__dict__.update(changed.__dict__)
        return {n: v for n, v in options.items() if n not in own}

    def to_diff_dict(self) -> dict[str, Any]:
        """Returns the options that differ from their defaults, and unknown keys."""
        return {
            name: value
            for name, value in self.to_dict().items()
            if name not in DEFAULTS or not is_one_of(value, (DEFAULTS[name],))
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """Returns the text of a `generation_config.json`.

        Args:
            use_diff: Leave out options that have their default.
        """
        values = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(json_value(values), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Writes the text of `to_json_string` to a file."""
        Path(json_file_path).write_text(self.to_json_string(use_diff), encoding="utf-8")

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        config_file_name: str | None = None,
        *,
        push_to_hub: bool = False,
    ) -> None:
        """Writes `generation_config.json`, without options that have their default.

        Args:
            save_directory: The directory, created if necessary.
            config_file_name: Another name for the file.
            push_to_hub: False, as uploading is a step of its own.

        Raises:
            ValueError: `push_to_hub` is set.
        """
        check_no_upload(push_to_hub)
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.to_json_file(directory / (config_file_name or CONFIG_NAME))

    def get_generation_mode(self, assistant_model: Any = None) -> GenerationMode:
        """The decoding method that the options choose, by transformers' names.

        Args:
            assistant_model: The draft model that would be passed to `generate`.
        """
        drafts = assistant_model is not None or bool(self.prompt_lookup_num_tokens)
        return mode_of(self, assisted=drafts)

    def updated(self, **options: Any) -> GenerationConfig:
        """Returns a copy with some options replaced; contradictions raise.

        Raises:
            TypeError: There is no such option.
            ValueError: A value is out of range, or an option acts on another strategy only.
        """
        config = type(self).from_dict(self.to_dict(), **options)
        config.validate()
        check_asked(config, options)
        return config

    def request_values(self) -> dict[str, Any]:
        """Returns the values of `REQUEST_OPTIONS`: greedy decoding is temperature 0."""
        values = {
            name: option.off if getattr(self, name) is None else getattr(self, name)
            for name, option in REQUEST_OPTIONS.items()
        }
        if self.temperature is None:
            values["temperature"] = 1.0  # no temperature, while 0 is greedy
        if not self.do_sample:
            for name in {*SAMPLING_OPTIONS} & values.keys() - {*self.strategy.sampling_options}:
                values[name] = REQUEST_OPTIONS[name].off
        return values

    def asks(self, name: str) -> bool:
        """Whether an option with one value per row has another value than "off"."""
        value = getattr(self, name)
        return value is not None and not np.all(np.asarray(value) == OPTIONS[name].off)

    @property
    def beams(self) -> int:
        """The number of hypotheses that are followed at a time."""
        return self.num_beams or 1

    @property
    def strategy(self) -> type[Strategy]:
        """The decoding strategy."""
        return strategy_of(self)

    @property
    def constraint(self) -> str | None:
        """The name of the constraint that is given: `choices`, `regex`, `json_schema` or None."""
        return next((name for name in CONSTRAINTS if getattr(self, name) is not None), None)

    @property
    def padding_id(self) -> int:
        """The id that fills rows after their end; 0 where there is neither pad nor end token."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return self.eos_ids[0] if self.eos_ids else 0

    @property
    def eos_ids(self) -> list[int]:
        """The ids that end a sequence."""
        ids = self.eos_token_id
        ids = ids if isinstance(ids, (list, tuple)) else [ids]
        return [int(one) for one in ids if one is not None]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"GenerationConfig {json.dumps(self.to_dict(), indent=2, default=str)}"


def _check_names(options: Mapping[str, Any]) -> None:
    """Checks that there are such options."""
    for name in options:
        if not _is_option(name):
            raise TypeError(_unknown(name, options[name]))


def _is_option(name: str) -> bool:
    """Whether there is such an option, here or in transformers."""
    return name in DEFAULTS or name in UNSUPPORTED


def _unknown(name: str, value: Any) -> str:
    """The message for an unknown option."""
    fix = nearest(name, DEFAULTS)
    return explain(f"There is no generation option {name!r}.", fix=fix, **{name: value})


def _check_count(name: str, value: Any, option: Option = OPTIONS["bos_token_id"]) -> None:
    """Checks a value that is one integer in an option's range, by default an id, or None."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if value is not None and not (is_integer and option.low <= value <= option.high):
        raise value_error(
            f"`{name}` must be {option.expected}.",
            fix="Leave it out, or pass None, for the default.",
            **{name: value},
        )
