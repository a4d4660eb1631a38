"""The fields of transformers' GPT-2 `config.json`: defaults and accepted values."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# A block takes some milliseconds to make and a label has a name, however small they are. Far more
# than any model has; a file that asks for billions must not take days or all memory.
MAX_LAYERS = 10_000
MAX_LABELS = 1_000_000


class Field(NamedTuple):
    """One configuration field: its default, a check of values, and the accepted values in words."""

    default: Any
    accepts: Callable[[Any], bool]
    expected: str


def is_int(value: Any) -> bool:
    """Whether a value is an integer other than True and False."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    # `math.isfinite` would overflow on the huge integers that JSON can hold.
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


def _is_size(value: Any) -> bool:
    return is_int(value) and 0 < value < 2**31  # TensorFlow stores sizes as int32


def _size(default: int) -> Field:
    return Field(default, _is_size, "a positive integer below 2**31")


def _is_depth(value: Any) -> bool:
    return is_int(value) and 0 < value <= MAX_LAYERS


def _rate(default: float) -> Field:
    return Field(default, lambda v: _is_real(v) and 0 <= v < 1, "a number in [0, 1)")


def _flag(default: bool) -> Field:
    return Field(default, lambda v: isinstance(v, bool), "True or False")


def _optional(kind: type | tuple[type, ...], name: str, default: Any = None) -> Field:
    return Field(default, lambda v: v is None or isinstance(v, kind), f"{name} or None")


def _token(default: int | None = None) -> Field:
    # As in transformers, -1 and ids above the vocabulary are tokens that never occur.
    return Field(default, lambda v: v is None or is_int(v), "a token id or None")


def _is_eos(value: Any) -> bool:
    ids = value if isinstance(value, (list, tuple)) else [value]
    return value is None or (len(ids) > 0 and all(map(is_int, ids)))


def _is_pruning(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        str(block).isdigit() and isinstance(heads, (list, tuple)) and all(map(is_int, heads))
        for block, heads in value.items()
    )


_SUMMARY_TYPES = ("last", "first", "mean", "cls_index", "attn")
_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
ATTENTION_IMPLEMENTATIONS = ("eager", "blockwise")

# In the order of transformers' signature, for positional arguments.
GPT2_FIELDS: dict[str, Field] = {
    "vocab_size": _size(50257),
    "n_positions": _size(1024),
    "n_embd": _size(768),
    "n_layer": Field(12, _is_depth, f"a positive integer of at most {MAX_LAYERS}"),
    "n_head": _size(12),
    "n_inner": Field(
        None, lambda v: v is None or _is_size(v), "a positive integer below 2**31 or None"
    ),
    "activation_function": Field("gelu_new", lambda v: isinstance(v, str), "an activation's name"),
    "resid_pdrop": _rate(0.1),
    "embd_pdrop": _rate(0.1),
    "attn_pdrop": _rate(0.1),
    "layer_norm_epsilon": Field(1e-5, lambda v: _is_real(v) and v > 0, "a number above 0"),
    "initializer_range": Field(0.02, lambda v: _is_real(v) and v >= 0, "a number of 0 or more"),
    "summary_type": Field(
        "cls_index", lambda v: v in _SUMMARY_TYPES, f"one of {', '.join(_SUMMARY_TYPES)}"
    ),
    "summary_use_proj": _flag(True),
    "summary_activation": _optional(str, "an activation's name"),
    "summary_proj_to_labels": _flag(True),
    "summary_first_dropout": _rate(0.1),
    "scale_attn_weights": _flag(True),
    "use_cache": _flag(True),
    "bos_token_id": _token(50256),
    "eos_token_id": Field(50256, _is_eos, "a token id, a list of token ids, or None"),
    "scale_attn_by_inverse_layer_idx": _flag(False),
    "reorder_and_upcast_attn": _flag(False),
}
_COMMON_FIELDS: dict[str, Field] = {
    "output_hidden_states": _flag(False),
    "output_attentions": _flag(False),
    "return_dict": _flag(True),
    "add_cross_attention": _flag(False),
    "tie_word_embeddings": _flag(True),
    "attn_implementation": Field(
        "eager",
        lambda v: v in ATTENTION_IMPLEMENTATIONS,
        f"one of {', '.join(ATTENTION_IMPLEMENTATIONS)}",
    ),
    "architectures": _optional((list, tuple), "a list of class names"),
    "pruned_heads": Field({}, _is_pruning, "a dict of block -> pruned heads"),
    "id2label": _optional(Mapping, "a dict of id -> label"),
    "label2id": _optional(Mapping, "a dict of label -> id"),
    "problem_type": Field(
        None, lambda v: v is None or v in _PROBLEM_TYPES, f"None or one of {_PROBLEM_TYPES}"
    ),
    "pad_token_id": _token(),
    "dtype": _optional(str, "a dtype's name"),
    "task_specific_params": _optional(Mapping, "a dict"),
}
FIELDS = GPT2_FIELDS | _COMMON_FIELDS
# Fields that all configurations of transformers have and GPT-2 does not read, with their defaults.
# Those that are set are kept, as keys of a file that nobody knows.
UNREAD_FIELDS: dict[str, Any] = {
    "is_encoder_decoder": False,
    "is_decoder": False,
    "tie_encoder_decoder": False,
    "cross_attention_hidden_size": None,
    "chunk_size_feed_forward": 0,
    "torchscript": False,
    "finetuning_task": None,
    "tokenizer_class": None,
    "prefix": None,
    "sep_token_id": None,
    "decoder_start_token_id": None,
}
# Options of generation that a model's configuration may hold, as old files do; kept likewise. They
# are the defaults of `generate` unless there is a `generation_config.json`.
GENERATION_FIELDS = (
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups"),
    *("diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty"),
    *("length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
    *("num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id"),
    *("forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
    *("suppress_tokens", "begin_suppress_tokens"),
)
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "n_ctx": "n_positions",  # OpenAI's name; old files have both
    "torch_dtype": "dtype",
}
