"""The configuration of a model: the checked fields of transformers' GPT-2 `config.json`."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfgpt2.config_fields import (
    ALIASES,
    ATTENTION_IMPLEMENTATIONS,
    FIELDS,
    GENERATION_FIELDS,
    GPT2_FIELDS,
    MAX_LABELS,
    UNREAD_FIELDS,
    is_int,
)
from tfgpt2.errors import explain, nearest, type_error, value_error
from tfgpt2.files import make_directory, read_json_object, replace_files
from tfgpt2.hub import HubOptions, Repository, check_no_upload

CONFIG_NAME = "config.json"


class GPT2Config:
    """The configuration of a GPT-2 model, with the same fields as in transformers.

    Unknown keys of a file or dict are kept, are readable as attributes, and are written again. The
    constructor and attribute assignment refuse unknown names, because there they are misspellings.

    Args:
        vocab_size: Number of token ids.
        n_positions: Maximum sequence length in tokens, prompt and continuation together.
        n_embd: Model width `D`; `n_head` must divide it.
        n_layer: Number of blocks `L`.
        n_head: Number of attention heads `N` per block.
        n_inner: Width `F` of the MLP; None is `4 * n_embd`.
        activation_function: Activation of the MLP, one of transformers' names.
        resid_pdrop: Dropout rate of attention and MLP outputs, in [0, 1).
        embd_pdrop: Dropout rate of the embeddings, in [0, 1).
        attn_pdrop: Dropout rate of the attention weights, in [0, 1).
        layer_norm_epsilon: Number added to the variance in every layer norm.
        initializer_range: Standard deviation of newly initialised weights.
        summary_type: Hidden state that the double-heads model summarises.
        summary_use_proj: Whether the summary is projected.
        summary_activation: Activation after that projection; None for none.
        summary_proj_to_labels: Whether the projection is to `num_labels` (else to `n_embd`).
        summary_first_dropout: Dropout rate before the projection, in [0, 1).
        scale_attn_weights: Whether attention scores are divided by `sqrt(head size)`.
        use_cache: Whether calls return `past_key_values`.
        bos_token_id: Id of the token that begins a text, or None.
        eos_token_id: Id (or ids) of the tokens that end a text, or None.
        scale_attn_by_inverse_layer_idx: Whether scores are also divided by `layer + 1`.
        reorder_and_upcast_attn: Whether attention scores are computed in float32.
        **kwargs: The other fields: `add_cross_attention`, `tie_word_embeddings`, `num_labels`,
            `id2label`, `label2id`, `problem_type`, `pad_token_id`, `output_attentions`,
            `output_hidden_states`, `return_dict`, `attn_implementation`, `architectures`,
            `pruned_heads`, `dtype`, `task_specific_params`; the aliases `hidden_size`,
            `max_position_embeddings`, `num_attention_heads`, `num_hidden_layers`; and those that
            GPT-2 does not read but programs do, such as `is_encoder_decoder` and `finetuning_task`;
            and options of generation, such as `max_length`, which are defaults of `generate`.

    Raises:
        TypeError: A keyword is unknown or given twice, once under an alias.
        ValueError: A value is out of range, or `n_head` does not divide `n_embd`.

    Source: transformers 4.57, `configuration_gpt2.py::GPT2Config`.

    Example:
        >>> config = GPT2Config(n_layer=2, n_embd=64, n_head=4)
        >>> config.num_hidden_layers, config.head_size
        (2, 16)
    """

    model_type = "gpt2"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._assign(self._checked_names(_positional(args, kwargs) | kwargs))

    def _assign(self, values: Mapping[str, Any]) -> None:
        """Sets the fields from values under their proper names, and keeps unknown ones apart."""
        values = copy.deepcopy(dict(values))
        num_labels = values.pop("num_labels", None)
        for name, field in FIELDS.items():
            setattr(self, name, values.pop(name, copy.deepcopy(field.default)))
        # Not as attributes, so that no key of a file can shadow a method.
        self.__dict__["_unknown"] = values
        self._complete_labels(num_labels)
        self.validate()

    def _complete_labels(self, num_labels: int | None) -> None:
        """Makes `id2label` and `label2id` consistent; JSON turns integer keys into strings."""
        names, ids = self.id2label, self.label2id
        if not all(each is None or isinstance(each, Mapping) for each in (names, ids)):
            return  # reported by `validate`
        if names is None and ids is None:
            self.num_labels = 2 if num_labels is None else num_labels
            return
        try:
            pairs = names.items() if names is not None else ((i, name) for name, i in ids.items())
            self.id2label = {int(key): name for key, name in pairs}
        except (TypeError, ValueError) as error:
            raise value_error(
                "`id2label` in a GPT2Config must be a dict whose keys are label numbers.",
                fix="Write {0: 'first label', 1: 'second label'}.",
                id2label=names,
                label2id=ids,
            ) from error
        if num_labels is not None and len(self.id2label) != num_labels:
            self.num_labels = num_labels
        elif ids is None or len(ids) != len(self.id2label):
            self.label2id = {name: key for key, name in self.id2label.items()}

    def validate(self) -> None:
        """Checks every field; a model calls it when it is built.

        Raises:
            ValueError: A value is out of range, or `n_head` does not divide `n_embd`.
        """
        for name, field in FIELDS.items():
            value = getattr(self, name)
            if not field.accepts(value):
                raise value_error(
                    f"`{name}` in a GPT2Config must be {field.expected}.",
                    fix=f"The default is {field.default!r}.",
                    **{name: value},
                )
        if self.is_encoder_decoder:
            raise value_error(
                "GPT-2 has no encoder, so `is_encoder_decoder` in a GPT2Config must be False.",
                fix="For cross-attention to another model, set add_cross_attention=True.",
                is_encoder_decoder=self.is_encoder_decoder,
            )
        if self.n_embd % self.n_head:
            raise value_error(
                "`n_head` must divide `n_embd`, because the heads share it equally.",
                fix="Choose n_embd as a multiple of n_head.",
                n_embd=self.n_embd,
                n_head=self.n_head,
            )

    # Aliases and derived values ---------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name in ALIASES:
            return getattr(self, ALIASES[name])
        unknown = self.__dict__.get("_unknown", {})
        if name in unknown:
            return unknown[name]
        if name in UNREAD_FIELDS:
            return UNREAD_FIELDS[name]
        raise AttributeError(f"'GPT2Config' object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        name = ALIASES.get(name, name)
        kept = (*UNREAD_FIELDS, *GENERATION_FIELDS)
        if name in kept or name in self.__dict__.get("_unknown", {}):
            self._unknown[name] = value
        elif name in FIELDS or name == "num_labels":
            super().__setattr__(name, value)
        else:
            raise AttributeError(_unknown_field(name, value))

    def kept_heads(self, block: int) -> list[int]:
        """Returns the numbers of the attention heads of a block that are not pruned.

        Args:
            block: Number of the block, from 0.
        """
        # JSON turns the numbers of the blocks into strings.
        pruned = {int(key): heads for key, heads in self.pruned_heads.items()}.get(block, [])
        return [head for head in range(self.n_head) if head not in pruned]

    @property
    def generation_options(self) -> dict[str, Any]:
        """The options of generation among the fields; files hold them before transformers 4.26."""
        return {n: v for n, v in self._unknown.items() if n in GENERATION_FIELDS and v is not None}

    @property
    def head_size(self) -> int:
        """Width `H` of one attention head."""
        return self.n_embd // self.n_head

    @property
    def inner_size(self) -> int:
        """Width `F` of the MLP."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @property
    def use_return_dict(self) -> bool:
        """Whether calls return a `ModelOutput` instead of a tuple."""
        return self.return_dict

    @property
    def num_labels(self) -> int:
        """Number of labels of the classification heads; setting it resets their names."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        if not is_int(count) or not 1 <= count <= MAX_LABELS:
            raise value_error(
                f"`num_labels` in a GPT2Config must be an integer from 1 to {MAX_LABELS}.",
                fix="Use 1 for regression.",
                num_labels=count,
            )
        self.id2label = {i: f"LABEL_{i}" for i in range(count)}
        self.label2id = {label: i for i, label in self.id2label.items()}

    # Dicts and files --------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields and unknown keys as plain Python values."""
        fields = {name: self.__dict__[name] for name in FIELDS}
        return copy.deepcopy(self._unknown | fields) | {"model_type": self.model_type}

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **overrides: Any
    ) -> Any:
        """Builds a configuration from a dict such as a parsed `config.json`.

        Args:
            config_dict: Fields by name. Unknown keys are kept.
            return_unused_kwargs: Return the configuration and a dict of the overrides that are not
                its fields, which would raise otherwise.
            **overrides: Fields that replace those in `config_dict`.

        Raises:
            TypeError: `config_dict` is not a dict, or an override is unknown.
            ValueError: A value is out of range, or `model_type` is not `"gpt2"`.

        Example:
            >>> GPT2Config.from_dict({"n_layer": 2, "made_by": "me"}).made_by
            'me'
        """
        if not isinstance(config_dict, Mapping):
            raise type_error(
                "A configuration must be a dict of fields.",
                fix="Pass the parsed config.json.",
                config_dict=config_dict,
            )
        if return_unused_kwargs:
            own = {n: v for n, v in overrides.items() if _is_field(n)}
            unused = {n: v for n, v in overrides.items() if n not in own}
            return cls.from_dict(config_dict, **own), unused
        values = dict(config_dict)
        model_type = values.pop("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise value_error(
                "The checkpoint holds another architecture; this package loads GPT-2.",
                fix="Point to a model whose config.json says model_type 'gpt2'.",
                model_type=model_type,
            )
        config = cls.__new__(cls)
        config._assign(_modern_names(values) | cls._checked_names(overrides))
        return config

    @staticmethod
    def _checked_names(values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values under their proper names; unknown names raise TypeError."""
        proper: dict[str, Any] = {}
        for name, value in values.items():
            field = ALIASES.get(name, name)
            if not _is_field(name):
                raise TypeError(_unknown_field(name, value))
            if field in proper:
                raise type_error(
                    f"`{field}` was given twice, under two of its names.",
                    fix="Leave one of them out.",
                    names=[n for n in values if ALIASES.get(n, n) == field],
                )
            proper[field] = value
        return proper

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str], **overrides: Any) -> Any:
        """Reads a `config.json`.

        Args:
            json_file: The file.
            **overrides: Those of `from_dict`.

        Raises:
            TypeError: An override is unknown.
            ValueError: The file is not a JSON object, or a field in it has a wrong value.
        """
        values = read_json_object(Path(json_file), "configuration")
        try:
            return cls.from_dict(values, **overrides)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} (read from {json_file})") from error

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
    ) -> Any:
        """Reads the configuration of a model by directory, bundled name, hub name or file.

        Args:
            pretrained_model_name_or_path: Directory, bundled name, hub name, or a JSON file.
            **options: Options of `tfgpt2.hub.HubOptions`, and those of `from_dict`.

        Raises:
            FileNotFoundError: There is no such model, or it has no `config.json`.
            TypeError: An option is unknown.
            ValueError: The file is damaged.

        Example:
            >>> GPT2Config.from_pretrained("shakespeare-tiny").model_type
            'gpt2'
        """
        hub_options, overrides = HubOptions.split(options)
        name = pretrained_model_name_or_path
        if Path(name).expanduser().is_file():
            return cls.from_json_file(Path(name).expanduser(), **overrides)
        return cls.from_json_file(Repository(name, hub_options).require(CONFIG_NAME), **overrides)

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Sets several fields at once.

        Args:
            config_dict: Fields by name.

        Raises:
            AttributeError: There is no such field.
            ValueError: A value is out of range; nothing is changed.
        """
        changed = copy.deepcopy(self)
        for name, value in config_dict.items():
            setattr(changed, name, value)
        changed.validate()
        self.__dict__.update(changed.__dict__)

    def to_diff_dict(self) -> dict[str, Any]:
        """Returns the fields that differ from their defaults, unknown keys and `model_type`."""
        values, default = self.to_dict(), type(self)().to_dict()
        kept = {n: v for n, v in values.items() if n not in default or v != default[n]}
        return kept | {"model_type": self.model_type}

    def to_json_string(self, use_diff: bool = False) -> str:
        """Returns the text of a `config.json`, without fields that are None by default.

        Args:
            use_diff: Leave out all fields that have their defaults.
        """
        kept = {
            name: value
            for name, value in (self.to_diff_dict() if use_diff else self.to_dict()).items()
            if value is not None or name not in FIELDS or FIELDS[name].default is not None
        }
        return json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = False) -> None:
        """Writes the text of `to_json_string` to a file."""
        with replace_files([Path(json_file_path)]) as (temporary,):
            temporary.write_text(self.to_json_string(use_diff), encoding="utf-8")

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, push_to_hub: bool = False
    ) -> None:
        """Writes `config.json` into a directory, which is created if necessary.

        Args:
            save_directory: The directory.
            push_to_hub: False, as uploading is a step of its own.

        Raises:
            NotADirectoryError: `save_directory` is a file.
            ValueError: `push_to_hub` is set.
        """
        check_no_upload(push_to_hub)
        directory = make_directory(save_directory, "A configuration")
        with replace_files([directory / CONFIG_NAME]) as (temporary,):
            temporary.write_text(self.to_json_string(), encoding="utf-8")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GPT2Config) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"GPT2Config {self.to_json_string().rstrip()}"


def _positional(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns positional arguments by name, in the order of transformers' signature."""
    named = dict(zip(GPT2_FIELDS, args, strict=False))
    if len(args) > len(GPT2_FIELDS) or named.keys() & kwargs.keys():
        raise type_error(
            "GPT2Config received too many positional arguments or one field twice.",
            fix="Pass fields by keyword.",
            positional=args,
            keywords=sorted(kwargs),
        )
    return named


def _is_field(name: str) -> bool:
    """Whether there is a field of this name, or under this alias."""
    field = ALIASES.get(name, name)
    return field in (*FIELDS, *UNREAD_FIELDS, *GENERATION_FIELDS, "num_labels")


def _unknown_field(name: str, value: Any) -> str:
    """Returns the error message for a field that does not exist."""
    fix = f"{nearest(name, [*FIELDS, *ALIASES, 'num_labels'])} Other keys are for from_dict."
    return explain(f"GPT2Config has no field {name!r}.", fix=fix, **{name: value})


def _modern_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a file under the constructor's names."""
    values = {"attn_implementation": values.get("_attn_implementation"), **values}
    values.pop("_attn_implementation", None)
    if values["attn_implementation"] not in ATTENTION_IMPLEMENTATIONS:
        # A file names its author's implementation ("sdpa", ...), which is not part of the model.
        del values["attn_implementation"]
    for alias, name in ALIASES.items():
        if alias in values:  # as in transformers, the proper name takes precedence
            values.setdefault(name, values.pop(alias))
    return values
