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
    OPTIONS,
    ROW_OPTIONS,
    check_row_option,
    early_stopping_codes,
)

CONFIG_NAME = "generation_config.json"


# transformers' names and defaults of everything `model.generate` understands, and a few names of
# our own at the end of each group.
_DEFAULTS: dict[str, Any] = {
    "max_length": None,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": None,
    "max_time": None,
    "stop_strings": None,
    "do_sample": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "prompt_lookup_num_tokens": None,
    "max_matching_ngram_size": 3,
    "num_assistant_tokens": 5,
    "use_cache": True,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "seed": None,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "choices": None,
    "regex": None,
    "json_schema": None,
    "length_penalty": 1.0,
    "early_stopping": False,
    "diversity_penalty": 0.0,
    "num_return_sequences": 1,
    "best_of": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "return_dict_in_generate": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "top_logprobs": 0,
}
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_BEAMS_ONLY = (*BEAM_OPTIONS, "num_beam_groups")
_FLAGS = ("do_sample", "use_cache", "return_dict_in_generate", "output_scores", "output_logits",
          "output_attentions", "output_hidden_states")  # fmt: skip
# Counts: the least value of each.
_COUNTS = {
    "max_length": 0, "min_length": 0, "bos_token_id": 0, "pad_token_id": 0, "num_beams": 1,
    "num_beam_groups": 1, "num_return_sequences": 1, "best_of": 1, "prompt_lookup_num_tokens": 1,
    "max_matching_ngram_size": 1, "num_assistant_tokens": 1, "top_logprobs": 0,
}  # fmt: skip

# Options of transformers that ask for something else here: what to do instead. The values that
# ask for nothing are accepted, in files any value is kept.
ELSEWHERE: dict[str, tuple[tuple[Any, ...], str]] = {
    "force_words_ids": ((None,), "Use regex=..., choices=... or json_schema=..."),
    "constraints": ((None,), "Use regex=..., choices=... or json_schema=..."),
    "prefix_allowed_tokens_fn": ((None,), "Use regex=..., choices=... or a logits_processor."),
    "token_healing": ((False, None), "End the prompt at a token's boundary: without a space."),
    "watermarking_config": ((None,), "Pass a logits_processor that adds the watermark's bias."),
    "dola_layers": ((None,), "There is no such decoding here; try guidance_scale=..."),
    "assistant_early_exit": ((None,), "Pass assistant_model=..., a smaller model."),
    "assistant_confidence_threshold": ((None, 0.4), "Set num_assistant_tokens."),
    "num_assistant_tokens_schedule": (("constant", None), "The number stays the same here."),
    "assistant_lookbehind": ((None, 10), "The assistant has the same vocabulary here."),
    "target_lookbehind": ((None, 10), "The assistant has the same vocabulary here."),
    "is_assistant": ((False, None), "Pass the model as assistant_model=..."),
    "decoder_start_token_id": ((None,), "GPT-2 has no decoder of its own; use bos_token_id."),
    "cache_implementation": ((None, "static"), "The cache is always static here."),
    "cache_config": ((None,), "The cache is always static here."),
    "return_legacy_cache": ((True, None), "Pass prefix=model.prefix(ids) to go on from a text."),
    "prefill_chunk_size": ((None,), "The prompt is always read at once."),
    "low_memory": ((False, None), "Use fewer beams, or smaller batches."),
    "compile_config": ((None,), "Use jit_compile=False to run without XLA."),
    "disable_compile": ((False, None), "Use jit_compile=False to run without XLA."),
    "synced_gpus": ((False, None), "Rows of a batch never wait for another process here."),
    "use_model_defaults": ((True, None), "Pass a generation_config=... of your own."),
    "custom_generate": ((None,), "No code is loaded from a hub; write a logits_processor."),
    "trust_remote_code": ((False, None), "No code is loaded from a hub."),
}


class GenerationConfig:
    """How to continue a text, under transformers' names.

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
        known = {n: v for n, v in values.items() if n in _DEFAULTS or n in ELSEWHERE}
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
        elif name in _DEFAULTS or name in ELSEWHERE:
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
        for name, (neutral, fix) in ELSEWHERE.items():
            if not _is_one_of(self.__dict__.get(name), neutral):
                raise ValueError(
                    explain(
                        f"The option `{name}` of transformers does nothing here.",
                        fix=fix,
                        **{name: getattr(self, name)},
                    )
                )
        check_together(self)

    def _check_values(self) -> None:
        """Checks types and ranges."""
        for name in OPTIONS:
            if name != "early_stopping" and getattr(self, name) is not None:
                check_row_option(name, getattr(self, name))
        for name, least in _COUNTS.items():
            _check_count(name, getattr(self, name), least=least)
        for name in ("eos_token_id", "forced_bos_token_id", "forced_eos_token_id"):
            ids = getattr(self, name)
            for one in ids if isinstance(ids, (list, tuple)) else [ids]:
                _check_count(name, one)
        early_stopping_codes(self.early_stopping)
        for name in _FLAGS:
            if not isinstance(getattr(self, name), (bool, type(None))):
                raise TypeError(
                    explain(
                        f"`{name}` must be True or False.",
                        fix="Pass a bool.",
                        **{name: getattr(self, name)},
                    )
                )
        seconds = self.max_time
        if seconds is not None and not (
            isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds > 0
        ):
            raise ValueError(
                explain("`max_time` must be seconds above 0.", fix="For example max_time=2.5.",
                        max_time=seconds)
            )  # fmt: skip

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
        _check_names(overrides)
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
        check_asked(config, options)
        return config

    def row_options(self) -> dict[str, Any]:
        """Returns the settings of the decode loop: greedy decoding is temperature 0."""
        options = {
            name: option.off if getattr(self, name, None) is None else getattr(self, name)
            for name, option in ROW_OPTIONS.items()
        }
        if not self.do_sample:
            kept = ("top_k",) if self.strategy == "contrastive" else ()
            for name in SAMPLING:
                if name in options and name not in kept:
                    options[name] = ROW_OPTIONS[name].off
        return options

    def asks(self, name: str) -> bool:
        """Whether an option of `OPTIONS` has another value than the one that does nothing."""
        value = getattr(self, name)
        return value is not None and not np.all(np.asarray(value) == OPTIONS[name].off)

    @property
    def beams(self) -> int:
        """How many texts are followed at a time."""
        return self.num_beams or 1

    @property
    def strategy(self) -> str:
        """How texts are chosen: `"greedy"`, `"sample"`, `"beams"` or `"contrastive"`."""
        if self.beams > 1:
            return "beams"
        if self.asks("penalty_alpha"):
            return "contrastive"
        return "sample" if self.do_sample else "greedy"

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


def check_together(config: GenerationConfig) -> None:
    """Checks that the options of a configuration go together.

    Raises:
        ValueError: Two of them contradict each other.
    """
    strategy, returns = config.strategy, config.num_return_sequences or 1
    groups, lookup = config.num_beam_groups or 1, config.prompt_lookup_num_tokens
    most = {"beams": config.beams, "sample": returns}.get(strategy, 1)
    best_of = config.best_of or 0
    given = [n for n in ("choices", "regex", "json_schema") if getattr(config, n) is not None]
    wrong = [
        (strategy in ("greedy", "contrastive") and returns > 1,
         "`num_return_sequences` above 1 needs sampling or beams: all texts would be equal.",
         "Add do_sample=True or num_beams.", ("num_return_sequences", "do_sample")),
        (returns > most, "`num_return_sequences` must not be larger than `num_beams`.",
         "Use as many beams.", ("num_return_sequences", "num_beams")),
        (best_of and strategy != "sample", "`best_of` chooses among samples.",
         "Add do_sample=True.", ("best_of", "do_sample", "num_beams")),
        (best_of and best_of < returns, "`best_of` must not be smaller than"
         " `num_return_sequences`.", "Sample more texts.", ("best_of", "num_return_sequences")),
        (config.beams % groups, "`num_beams` must be a multiple of `num_beam_groups`.",
         "Give every group as many beams.", ("num_beams", "num_beam_groups")),
        (groups > 1 and config.do_sample, "Groups of beams do not sample.",
         "Leave do_sample out.", ("num_beam_groups", "do_sample")),
        (config.asks("penalty_alpha") and config.do_sample, "Contrastive search does not sample.",
         "Leave out do_sample or penalty_alpha.", ("penalty_alpha", "do_sample")),
        (config.asks("penalty_alpha") and config.beams > 1, "Contrastive search has no beams.",
         "Leave out num_beams or penalty_alpha.", ("penalty_alpha", "num_beams")),
        (strategy == "contrastive" and not np.all(np.asarray(config.top_k or 0) > 1),
         "Contrastive search compares the `top_k` likeliest tokens, two or more.",
         "Pass top_k=4.", ("penalty_alpha", "top_k")),
        (strategy == "contrastive" and config.use_cache is False,
         "Contrastive search needs the cache.", "Leave use_cache out.",
         ("penalty_alpha", "use_cache")),
        (lookup and strategy in ("beams", "contrastive"), "Lookup decoding is for greedy"
         " decoding and sampling.", "Leave out prompt_lookup_num_tokens.",
         ("prompt_lookup_num_tokens", "num_beams", "penalty_alpha")),
        (len(given) > 1, "Only one of choices, regex and json_schema can hold.",
         "Write one regex.", tuple(given)),
        (config.max_time is not None and strategy in ("beams", "contrastive"), "`max_time` can end"
         " greedy decoding and sampling, not a search.", "Use max_new_tokens.",
         ("max_time", "num_beams", "penalty_alpha")),
        (strategy in ("beams", "contrastive") and (config.output_scores or config.output_logits
         or config.top_logprobs), "Searches report the scores of the tokens they chose, not those"
         " of the whole vocabulary.", "Use token_logprobs and sequences_scores.",
         ("output_scores", "output_logits", "top_logprobs", "num_beams", "penalty_alpha")),
        (given and strategy == "contrastive", "Contrastive search cannot be constrained.",
         "Use sampling or beams.", ("penalty_alpha", *given)),
        (given and strategy == "beams" and not config.eos_ids,
         "Constrained beams need an end token.", "Set eos_token_id.",
         ("eos_token_id", "num_beams", *given)),
    ]  # fmt: skip
    for contradiction, what, fix, names in wrong:
        if contradiction:
            raise ValueError(explain(what, fix=fix, **{n: getattr(config, n) for n in names}))


def check_asked(config: GenerationConfig, options: Mapping[str, Any]) -> None:
    """Checks that what a call asks for acts on the strategy that it uses.

    Raises:
        ValueError: An option acts on another strategy only.
    """
    sampling = {*SAMPLING} - ({"top_k"} if config.strategy == "contrastive" else set())
    asked = {
        name: options[name]
        for name in SAMPLING
        if name in sampling
        and not _all_of(options.get(name), (None, _DEFAULTS[name], OPTIONS[name].off))
    }
    if asked and not config.do_sample:
        raise ValueError(
            explain(
                f"`{next(iter(asked))}` acts on sampling only, and decoding is"
                f" {'greedy' if config.strategy == 'greedy' else 'a search'}.",
                fix="Add do_sample=True.",
                **asked,
            )
        )
    asked = {
        name: options[name]
        for name in _BEAMS_ONLY
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
    if config.asks("diversity_penalty") != ((config.num_beam_groups or 1) > 1):
        raise ValueError(
            explain(
                "`diversity_penalty` and `num_beam_groups` go together.",
                fix="For example num_beams=4, num_beam_groups=2, diversity_penalty=0.5.",
                diversity_penalty=config.diversity_penalty,
                num_beam_groups=config.num_beam_groups,
            )
        )


def _check_names(options: Mapping[str, Any]) -> None:
    """Checks that there are such options."""
    for name in options:
        if name not in _DEFAULTS and name not in ELSEWHERE:
            raise TypeError(_unknown(name, options[name]))


def _unknown(name: str, value: Any) -> str:
    """Says that there is no such option."""
    fix = nearest(name, _DEFAULTS)
    return explain(f"There is no generation option {name!r}.", fix=fix, **{name: value})


def _is_one_of(value: Any, choices: tuple[Any, ...]) -> bool:
    """Whether a value, which may be an array, is one of some plain ones."""
    return any(value is one for one in choices) or (np.ndim(value) == 0 and value in choices)


def _all_of(value: Any, choices: tuple[Any, ...]) -> bool:
    """Whether a value, or every entry of a list or an array, is one of some plain ones."""
    if np.ndim(value) == 0:
        return _is_one_of(value, choices)
    return all(_is_one_of(one, choices) for one in np.asarray(value).reshape(-1).tolist())


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
