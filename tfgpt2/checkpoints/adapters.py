"""Adapter files as PEFT has them: `adapter_config.json` and `adapter_model.safetensors`.

An adapter is held as `Adapter`: for each projection two small matrices and the strength of their
product. PEFT keeps them as `lora_A` `[rank, in]` and `lora_B` `[out, rank]`, whatever
`fan_in_fan_out` says; here they stand as the kernels they add to, `[in, rank]` and `[rank, out]`.

Source: PEFT 0.21, `utils/save_and_load.py` and `tuners/lora/config.py`.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgpt2.checkpoints.names import HEADS, part, with_prefix
from tfgpt2.checkpoints.readers import safetensors
from tfgpt2.checkpoints.readers.torch_bin import TorchBinReader
from tfgpt2.errors import explain
from tfgpt2.hub import Repository

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_TORCH_NAME = "adapter_model.bin"
_ROOT = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_([AB])\.weight")

# What of PEFT's configuration is read here, and what says nothing about the numbers. Any other
# key that is switched on asks for something that is not done here, and is refused.
_READ = {"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern",
         "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
         "layers_pattern", "modules_to_save", "init_lora_weights"}  # fmt: skip
_HARMLESS = {"auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode",
             "fan_in_fan_out", "peft_version", "megatron_core", "qalora_group_size",
             "runtime_config", "ensure_weight_tying"}  # fmt: skip
_OFF = (None, False, "none", {}, [])
# Ways to initialise that leave the base model as it was.
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


class Factors(NamedTuple):
    """What an adapter does to one projection.

    Attributes:
        a: float32 `[in, rank]`.
        b: float32 `[rank, out]`.
        alpha: Strength, before it is divided by the rank.
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
    """One adapter, whatever model it is for.

    Attributes:
        layers: Projections by checkpoint key, such as `"transformer.h.0.attn.c_attn"`.
        heads: Weights of a head that are trained beside, by checkpoint key.
        dropout: Share of the input that is dropped in training, in [0, 1).
        use_rslora: The product is scaled by `alpha / sqrt(rank)` and not by `alpha / rank`.
    """

    layers: dict[str, Factors]
    heads: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    dropout: float = 0.0
    use_rslora: bool = False

    def scale(self, key: str) -> float:
        """What the product of a projection's factors is multiplied by.

        Source: Hu et al. 2021, section 4.1; Kalajdzievski 2023 for the square root.
        """
        factors = self.layers[key]
        return factors.alpha / (factors.rank**0.5 if self.use_rslora else factors.rank)


def chosen(targets: Iterable[str], keys: Iterable[str]) -> dict[str, list[str]]:
    """Finds the projections that names stand for, as PEFT's `target_modules` does.

    Args:
        targets: Names such as `"c_attn"`, `"mlp.c_proj"` or a whole key.
        keys: Checkpoint keys of the projections there are.

    Returns:
        For each name, the keys that are it or end in a point and it.

    Example:
        >>> chosen(["c_proj"], ["h.0.attn.c_proj", "h.0.mlp.c_fc"])
        {'c_proj': ['h.0.attn.c_proj']}
    """
    keys = list(keys)
    return {
        name: [key for key in keys if key == name or key.endswith(f".{name}")] for name in targets
    }


def read_adapter(name: str | os.PathLike[str], **where: Any) -> Adapter:
    """Reads an adapter that PEFT or `write_adapter` saved.

    Args:
        name: Directory or hub name.
        **where: See `Repository`.

    Raises:
        FileNotFoundError: There is no such directory, or it holds no adapter.
        ValueError: A file is damaged, or asks for something that is not done here.
    """
    files = Repository(name, **where)
    config_path = files.require(CONFIG_NAME)
    weights, torch_file = files.find(WEIGHTS_NAME), files.find(_TORCH_NAME)
    if weights is None and torch_file is None:
        files.require(WEIGHTS_NAME)
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"expected an object, found {type(config).__name__}")
    except (ValueError, RecursionError) as error:
        raise _broken(config_path, str(error)) from error
    _check_config(config, config_path)
    if weights is not None:
        reader = safetensors.SafetensorsReader([weights])
    else:
        reader = TorchBinReader([torch_file])
    return _from_peft(config, reader, weights or torch_file)


def _check_config(config: Mapping[str, Any], path: Path) -> None:
    """Refuses what this package would not do as PEFT does."""
    wrong = [
        key for key, value in config.items() if key not in _READ | _HARMLESS and value not in _OFF
    ]
    if config.get("peft_type") != "LORA":
        wrong.append("peft_type")
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        wrong.append("init_lora_weights")  # PiSSA and the like change the base model, too
    if wrong:
        raise ValueError(
            explain(
                f"The adapter asks for something that is not supported: {', '.join(wrong)}. Plain"
                " LoRA on the projections of GPT-2 is expected.",
                fix="Merge the adapter into its base model with PEFT, and load the result.",
                path=str(path),
                **{key: config.get(key) for key in wrong},
            )
        )


def _from_peft(config: Mapping[str, Any], reader: Any, path: Path) -> Adapter:
    """Sorts the tensors of a file into projections and heads."""
    found: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
    heads = {}
    for stored in reader.keys():
        key = with_prefix(stored.removeprefix(_ROOT).replace(".modules_to_save", ""))
        match = _FACTOR.fullmatch(key)
        if match:
            found[match[1]][match[2]] = np.asarray(reader.read(stored), np.float32)
        elif part(key) in HEADS and stored.startswith(_ROOT):
            heads[key] = np.asarray(reader.read(stored), np.float32)
        else:
            raise _broken(path, f"{stored!r} is neither a factor of LoRA nor a weight of a head")
    adapter = Adapter(
        layers={},
        heads=heads,
        dropout=float(config.get("lora_dropout") or 0.0),
        use_rslora=bool(config.get("use_rslora")),
    )
    for key, pair in found.items():
        if pair.keys() != {"A", "B"} or any(array.ndim != 2 for array in pair.values()):
            raise _broken(path, f"{key!r} lacks one of its two matrices lora_A and lora_B")
        a, b = pair["A"].T, pair["B"].T  # [in, rank], [rank, out]
        rank = _pattern(config.get("rank_pattern"), key, config.get("r"))
        if not a.shape[1] == b.shape[0] == rank:
            raise _broken(
                path, f"{key!r} has rank {a.shape[1]} and {b.shape[0]}, its configuration {rank}"
            )
        alpha = _pattern(config.get("alpha_pattern"), key, config.get("lora_alpha"))
        adapter.layers[key] = Factors(a, b, float(alpha))
    if not adapter.layers:
        raise _broken(path, "it holds no lora_A and lora_B")
    _check_complete(config, adapter, path)
    return adapter


def _check_complete(config: Mapping[str, Any], adapter: Adapter, path: Path) -> None:
    """Checks that no projection that the configuration names is without its factors."""
    targets = config.get("target_modules")
    if isinstance(targets, list):
        empty = [name for name, keys in chosen(targets, adapter.layers).items() if not keys]
        if empty:
            raise _broken(path, f"it has nothing for {', '.join(map(repr, sorted(empty)))}")


def _pattern(pattern: Mapping[str, Any] | None, key: str, default: Any) -> Any:
    """The value that one projection gets.

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
    """Writes an adapter so that PEFT and `read_adapter` load it.

    Both files are written beside their places first, so that an earlier save survives a full disk.

    Args:
        adapter: What to write.
        directory: Made if need be.
        keys: All projections of the model, from which short names for the targets follow.
        task_type: PEFT's name for the model's task, such as `"CAUSAL_LM"`.
        bare: The model has no head, so that PEFT's keys lack `transformer.`.
        base: Name of the base model, which PEFT's automatic classes load.

    Returns:
        The files written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)

    def named(key: str) -> str:
        return key.removeprefix("transformer.") if bare else key

    arrays = {}
    for key, factors in adapter.layers.items():
        arrays[f"{_ROOT}{named(key)}.lora_A.weight"] = factors.a.T
        arrays[f"{_ROOT}{named(key)}.lora_B.weight"] = factors.b.T
    arrays |= {f"{_ROOT}{key}": value for key, value in adapter.heads.items()}
    stored = [
        safetensors.Stored(key, np.dtype(np.float32), array.shape, lambda array=array: array)
        for key, array in arrays.items()
    ]
    config = _peft_config(adapter, keys, named) | {
        "task_type": task_type,
        "base_model_name_or_path": base,
    }
    paths = [folder / WEIGHTS_NAME, folder / CONFIG_NAME]
    beside = [path.with_name(f".{path.name}.{os.getpid()}") for path in paths]
    try:
        safetensors.write(stored, beside[0])
        beside[1].write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for old, new in zip(beside, paths, strict=True):
            old.replace(new)
    finally:
        for path in beside:
            path.unlink(missing_ok=True)
    return paths


def _peft_config(adapter: Adapter, keys: Iterable[str], named: Any) -> dict[str, Any]:
    """The configuration of PEFT that stands for an adapter."""
    ranks = {named(key): factors.rank for key, factors in adapter.layers.items()}
    alphas = {named(key): factors.alpha for key, factors in adapter.layers.items()}
    rank, alpha = (collections.Counter(x.values()).most_common(1)[0][0] for x in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {key: value for key, value in ranks.items() if value != rank},
        "alpha_pattern": {key: value for key, value in alphas.items() if value != alpha},
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.use_rslora,
        "target_modules": _short_targets(ranks, [named(key) for key in keys]),
        "modules_to_save": sorted({part(key) for key in adapter.heads}) or None,
        "fan_in_fan_out": True,
        "bias": "none",
        "inference_mode": True,
    }


def _short_targets(used: Iterable[str], keys: list[str]) -> list[str]:
    """Names that stand for just these projections: `"c_attn"` for those of all blocks."""
    used, names = set(used), set()
    for key in used:
        parts = key.split(".")
        starts = [i for i in reversed(range(len(parts))) if not parts[i].isdigit()]
        endings = [".".join(parts[start:]) for start in starts]
        names.add(next(end for end in endings if used.issuperset(chosen([end], keys)[end])))
    return sorted(names)


def _broken(path: Path, reason: str) -> ValueError:
    return ValueError(
        explain(
            f"The file is no readable LoRA adapter: {reason}.",
            fix="Save or download the adapter again.",
            path=str(path),
        )
    )
