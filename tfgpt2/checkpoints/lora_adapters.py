"""LoRA adapters in PEFT's files: `adapter_config.json` and `adapter_model.safetensors`.

PEFT stores two matrices for each projection, `lora_A` `[rank, in]` and `lora_B` `[out, rank]`,
whatever `fan_in_fan_out` says. Here they are transposed, like the kernels they are added to.

Source: PEFT 0.21, `utils/save_and_load.py` and `tuners/lora/config.py`.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgpt2.checkpoints.names import HEADS, part, with_prefix
from tfgpt2.checkpoints.readers.base import CheckpointReader
from tfgpt2.checkpoints.readers.safetensors import SafetensorsReader
from tfgpt2.checkpoints.readers.torch_bin import TorchBinReader
from tfgpt2.checkpoints.writers import safetensors
from tfgpt2.checkpoints.writers.base import StoredTensor
from tfgpt2.errors import unreadable, value_error
from tfgpt2.files import read_json_object, replace_files
from tfgpt2.hub import HubOptions, Repository

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_TORCH_NAME = "adapter_model.bin"
_ROOT = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_([AB])\.weight")
# A weight of a head, or one of the transformer that is not part of an adapter.
_WHOLE = re.compile(
    rf"(?:{'|'.join(HEADS)}|transformer)\.(?:(?!lora_|token_adapter)\w+\.)*(?:weight|bias)"
)
_unreadable = functools.partial(unreadable, kind="LoRA adapter")

# Keys of PEFT's configuration that are used here, and keys that do not change the result. Any
# other key that is switched on asks for something unsupported, and is refused.
_SUPPORTED_KEYS = {"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern",
                   "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
                   "layers_pattern", "modules_to_save", "init_lora_weights"}  # fmt: skip
_IGNORED_KEYS = {"auto_mapping", "base_model_name_or_path", "revision", "task_type",
                 "inference_mode", "fan_in_fan_out", "peft_version", "megatron_core",
                 "qalora_group_size", "runtime_config", "ensure_weight_tying"}  # fmt: skip
_OFF_VALUES = (None, False, "none", {}, [])
# Keys that are known by another name.
_METHODS = {"use_dora": "DoRA", "use_qalora": "QA-LoRA", "use_bdlora": "BD-LoRA",
            "trainable_token_indices": "trained rows of the token table"}  # fmt: skip
# PEFT's methods without weights that could be merged.
_PROMPT_METHODS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING",
                   "ADAPTION_PROMPT", "CPT", "CARTRIDGE")  # fmt: skip
# Tensors beside plain factors: a part of their key, and what they are.
_OTHER_TENSORS = {
    "lora_embedding_": "factors of an embedding (wte or wpe in `target_modules`)",
    "lora_magnitude_vector": "magnitudes of DoRA (`use_dora`)",
    "trainable_tokens_": "trained rows of the token table (`trainable_token_indices`)",
    "lora_": "a part of LoRA other than its factors",
}
_MERGE = "Merge the adapter into its base model with PEFT (`merge_and_unload()`), and load that."
# A name in `rank_pattern` is a regular expression. Python's may take for ever, so these have no
# repeated groups and few repetitions.
_PATTERN = re.compile(r"[^*+?{]{0,500}(?:(?<![)*+?])[*+?][^*+?{]{0,500}){0,3}", re.DOTALL)
_MAX_PATTERNS = 10_000
# Initialisations that do not change the base model.
_SUPPORTED_INITS = (True, False, None, "gaussian", "orthogonal", "eva")


class Factors(NamedTuple):
    """The low-rank factors of one projection.

    Attributes:
        a: float32 `[in, rank]`.
        b: float32 `[rank, out]`.
        alpha: Scale of the product before it is divided by the rank.
    """

    a: np.ndarray
    b: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        """Number of columns of `a`."""
        return self.a.shape[1]


@dataclasses.dataclass
class Adapter:
    """A LoRA adapter.

    Attributes:
        layers: Factors by the projection's checkpoint key, such as `"transformer.h.0.attn.c_attn"`.
        weights: Whole weights that replace the model's, by checkpoint key: of a head, or of another
            layer in PEFT's `modules_to_save`. A token table that is the output matrix, too, is both
            `transformer.wte.weight` and `lm_head.weight`.
        dropout: Dropout rate of the input in training, in [0, 1).
        use_rslora: Whether the product is scaled by `alpha / sqrt(rank)` instead of `alpha / rank`.
    """

    layers: dict[str, Factors]
    weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    dropout: float = 0.0
    use_rslora: bool = False

    def scale(self, key: str) -> float:
        """Returns the scale of the product of a projection's factors.

        Source: Hu et al. 2021, section 4.1; Kalajdzievski 2023 for the square root.
        """
        factors = self.layers[key]
        return factors.alpha / (factors.rank**0.5 if self.use_rslora else factors.rank)


def match_targets(targets: Iterable[str], keys: Iterable[str]) -> dict[str, list[str]]:
    """Finds the projections that names match, as PEFT's `target_modules` does.

    Args:
        targets: Names such as `"c_attn"`, `"mlp.c_proj"` or a whole key.
        keys: Checkpoint keys of the projections.

    Returns:
        For each name, the keys that equal it or end in a dot and it.

    Example:
        >>> match_targets(["c_proj"], ["h.0.attn.c_proj", "h.0.mlp.c_fc"])
        {'c_proj': ['h.0.attn.c_proj']}
    """
    keys = list(keys)
    return {
        name: [key for key in keys if key == name or key.endswith(f".{name}")] for name in targets
    }


def read_adapter(name: str | os.PathLike[str], **hub_options: Any) -> Adapter:
    """Reads an adapter that PEFT or `write_adapter` saved.

    Args:
        name: Directory or hub name.
        **hub_options: See `tfgpt2.hub.HubOptions`.

    Raises:
        FileNotFoundError: There is no such directory, or it does not hold an adapter.
        ValueError: A file is damaged, or asks for something that is not supported.
    """
    files = Repository(name, HubOptions(**hub_options))
    config_path = files.require(CONFIG_NAME)
    path = files.find(WEIGHTS_NAME) or files.find(_TORCH_NAME) or files.require(WEIGHTS_NAME)
    config = read_json_object(config_path, "LoRA adapter")
    _check_config(config, config_path)
    reader_class = TorchBinReader if path.name == _TORCH_NAME else SafetensorsReader
    return _from_peft(config, reader_class([path]), path)


def _check_config(config: Mapping[str, Any], path: Path) -> None:
    """Raises ValueError for settings that this package does not support."""
    wrong = [
        key
        for key, value in config.items()
        if key not in _SUPPORTED_KEYS | _IGNORED_KEYS and value not in _OFF_VALUES
    ]
    if config.get("peft_type") != "LORA":
        wrong.append("peft_type")
    if config.get("init_lora_weights", True) not in _SUPPORTED_INITS:
        wrong.append("init_lora_weights")  # PiSSA and similar ones change the base model
    if wrong:
        shown = ", ".join(f"{key} ({_METHODS[key]})" if key in _METHODS else key for key in wrong)
        fix = _MERGE
        if config.get("peft_type") in _PROMPT_METHODS:
            fix = "It cannot be merged into the weights: run it with PEFT."
        raise value_error(
            f"The adapter asks for something that is not supported: {shown}. Plain LoRA on the"
            " projections of GPT-2 is expected.",
            fix=fix,
            path=str(path),
            **{key: config.get(key) for key in wrong},
        )
    _check_values(config, path)


def _check_values(config: Mapping[str, Any], path: Path) -> None:
    """Raises ValueError for numbers, names and patterns that are no such things."""
    checks = {
        "r": lambda x: type(x) is int and x >= 1,
        "lora_alpha": _is_number,
        "lora_dropout": lambda x: x is None or _is_number(x) and 0 <= x < 1,
        "rank_pattern": lambda x: _is_pattern(x, lambda rank: type(rank) is int and rank >= 1),
        "alpha_pattern": lambda x: _is_pattern(x, _is_number),
        "target_modules": lambda x: not isinstance(x, list) or all(isinstance(t, str) for t in x),
    }
    defaults = {"r": 8, "lora_alpha": 8}  # PEFT's
    for key, accepts in checks.items():
        if not accepts(value := config.get(key, defaults.get(key))):
            raise value_error(
                f"`{key}` of the adapter's configuration is not a value that PEFT writes, or its"
                " regular expressions have repeated groups or many repetitions.",
                fix="Save the adapter again with PEFT, and with simple names in its patterns.",
                path=str(path),
                **{key: value},
            )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6


def _is_pattern(value: Any, accepts: Callable[[Any], bool]) -> bool:
    """Whether a value is None or a dict of regular expressions that are quickly matched."""
    if not value:
        return value in (None, {})
    if not isinstance(value, dict) or len(value) > _MAX_PATTERNS:
        return False
    if not all(_PATTERN.fullmatch(name) and accepts(x) for name, x in value.items()):
        return False
    try:
        return all(re.compile(name) for name in value)
    except (re.error, RecursionError, OverflowError):
        return False


def _from_peft(config: Mapping[str, Any], reader: CheckpointReader, path: Path) -> Adapter:
    """Sorts the tensors of a file into factors of projections and whole weights."""
    found: dict[str, dict[str, str]] = collections.defaultdict(dict)
    weights = {}
    for stored in reader.keys():
        key = with_prefix(stored.removeprefix(_ROOT).replace(".modules_to_save", ""))
        match = _FACTOR.fullmatch(key)
        if match:
            found[match[1]][match[2]] = stored
        elif stored.startswith(_ROOT) and _WHOLE.fullmatch(key):
            weights[key] = np.asarray(reader.read(stored), np.float32)
        else:
            raise _unsupported_tensor(path, stored, key)
    adapter = Adapter(
        layers={},
        weights=weights,
        dropout=float(config.get("lora_dropout") or 0.0),
        use_rslora=bool(config.get("use_rslora")),
    )
    for key, names in found.items():
        if names.keys() != {"A", "B"} or any(len(reader.shape(n)) != 2 for n in names.values()):
            raise _unreadable(path, f"{key!r} lacks one of its two matrices lora_A and lora_B")
        ranks = reader.shape(names["A"])[0], reader.shape(names["B"])[1]
        rank = _pattern(config.get("rank_pattern"), key, config.get("r", 8))
        if not ranks[0] == ranks[1] == rank:
            raise _unreadable(
                path, f"{key!r} has rank {ranks[0]} and {ranks[1]}, its configuration {rank}"
            )
        a, b = (np.asarray(reader.read(names[n]), np.float32).T for n in "AB")
        alpha = _pattern(config.get("alpha_pattern"), key, config.get("lora_alpha", 8))
        adapter.layers[key] = Factors(a, b, float(alpha))  # [in, rank], [rank, out]
    if not adapter.layers:
        raise _unreadable(path, "it holds no lora_A and lora_B")
    _check_complete(config, adapter, path)
    return adapter


def _unsupported_tensor(path: Path, stored: str, key: str) -> ValueError:
    """Returns the error for a tensor that is neither a factor nor a weight of a head."""
    what = next((what for start, what in _OTHER_TENSORS.items() if start in key), None)
    if what is None:
        return _unreadable(path, f"{stored!r} is neither a factor of LoRA nor a weight of a layer")
    return value_error(
        f"The adapter holds {what}. Plain LoRA on the projections of GPT-2, and whole layers, are"
        " expected.",
        fix=_MERGE,
        path=str(path),
        key=stored,
    )


def _check_complete(config: Mapping[str, Any], adapter: Adapter, path: Path) -> None:
    """Checks that every name in `target_modules` matches a projection with factors."""
    targets = config.get("target_modules")
    if isinstance(targets, list):
        empty = [name for name, keys in match_targets(targets, adapter.layers).items() if not keys]
        if empty:
            raise _unreadable(path, f"it has nothing for {', '.join(map(repr, sorted(empty)))}")


def _pattern(pattern: Mapping[str, Any] | None, key: str, default: Any) -> Any:
    """Returns the value of a pattern that applies to one projection.

    Source: PEFT 0.21, `utils/other.py::get_pattern_key`.
    """
    for name, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({name})$", key):
            return value
    return default


def write_adapter(
    adapter: Adapter,
    directory: str | os.PathLike[str],
    *,
    keys: Iterable[str],
    task_type: str,
    bare: bool,
    base: str | None = None,
) -> list[Path]:
    """Writes an adapter for PEFT and `read_adapter`.

    If writing fails, the files of an earlier save stay as they were.

    Args:
        adapter: The adapter.
        directory: Created if necessary.
        keys: Checkpoint keys of all projections of the model, to find short names for the targets.
        task_type: PEFT's name for the model's task, such as `"CAUSAL_LM"`.
        bare: Whether the model has no head, so that PEFT's keys lack `transformer.`.
        base: Name of the base model, for PEFT's automatic classes.

    Returns:
        The files written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)

    def peft_key(key: str) -> str:
        return key.removeprefix("transformer.") if bare else key

    arrays = {}
    for key, factors in adapter.layers.items():
        arrays[f"{_ROOT}{peft_key(key)}.lora_A.weight"] = factors.a.T
        arrays[f"{_ROOT}{peft_key(key)}.lora_B.weight"] = factors.b.T
    arrays |= {f"{_ROOT}{peft_key(key)}": value for key, value in adapter.weights.items()}
    tensors = [
        StoredTensor(key, np.dtype(np.float32), array.shape, lambda array=array: array)
        for key, array in arrays.items()
    ]
    config = _peft_config(adapter, keys, peft_key) | {
        "task_type": task_type,
        "base_model_name_or_path": base,
    }
    paths = [folder / WEIGHTS_NAME, folder / CONFIG_NAME]
    with replace_files(paths) as (weights_path, config_path):
        safetensors.write_file(tensors, weights_path)
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        config_path.write_text(text, encoding="utf-8")
    return paths


def _peft_config(
    adapter: Adapter, keys: Iterable[str], peft_key: Callable[[str], str]
) -> dict[str, Any]:
    """Returns PEFT's configuration of an adapter."""
    ranks = {peft_key(key): factors.rank for key, factors in adapter.layers.items()}
    alphas = {peft_key(key): factors.alpha for key, factors in adapter.layers.items()}
    rank, alpha = (collections.Counter(x.values()).most_common(1)[0][0] for x in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {key: value for key, value in ranks.items() if value != rank},
        "alpha_pattern": {key: value for key, value in alphas.items() if value != alpha},
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.use_rslora,
        "target_modules": _short_targets(ranks, [peft_key(key) for key in keys]),
        "modules_to_save": sorted(
            {
                part(key) if part(key) in HEADS else peft_key(key.rpartition(".")[0])
                for key in adapter.weights
            }
        )
        or None,
        "fan_in_fan_out": True,
        "bias": "none",
        "inference_mode": True,
    }


def _short_targets(used: Iterable[str], keys: list[str]) -> list[str]:
    """Returns names that match exactly these projections: `"c_attn"` for those of all blocks."""
    used, names = set(used), set()
    for key in used:
        parts = key.split(".")
        starts = [i for i in reversed(range(len(parts))) if not parts[i].isdigit()]
        endings = [".".join(parts[start:]) for start in starts]
        names.add(next(end for end in endings if used.issuperset(match_targets([end], keys)[end])))
    return sorted(names)
