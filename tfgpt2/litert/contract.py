"""The contract of an exported folder: its files, shapes, and the ids that a runtime needs.

model.tflite             signatures `prefill_N`, `decode` and `score_N`
litert.json              this contract
generation_config.json   default settings
tokenizer.json           text to ids, for the `tokenizers` library and its ports
token_texts.json         ids to bytes
README.md                the contract in words
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from tfgpt2.errors import explain, unreadable, value_error
from tfgpt2.files import read_json_object
from tfgpt2.generation.written_text import TokenTexts

FORMAT = 1
MODEL, CONTRACT = "model.tflite", "litert.json"
TOKENIZER, TOKEN_TEXTS = "tokenizer.json", "token_texts.json"
GENERATION_CONFIG = "generation_config.json"
FILES = (MODEL, CONTRACT, TOKENIZER, TOKEN_TEXTS, GENERATION_CONFIG)
QUANTIZATIONS = (None, "int8", "float16", "int4")
MASKED = -1e9  # added to the scores of columns that a token must not see
_KIND = "LiteRT export"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """What a runtime must know of a `model.tflite`.

    Attributes:
        batch_size: `B`, rows of every call.
        context: `S`, most tokens of a text.
        cache_sizes: Numbers of columns that there are signatures for, ascending; the last is `S`. A
            step reads all columns of its cache, so a short text gets a small one.
        prefill: `N` of each `prefill_N`, in ascending order.
        score: `N` of `score_N`.
        vocab_size: `V`.
        layers: `L`.
        heads: Heads of each layer.
        head_size: `H`.
        quantize: How the matrices are stored, None for float32.
        start_id: Token that stands for an empty prompt, or None.
        prefix_ids: Tokens before every text, such as `[CLS]`.
        eos_token_ids: Tokens that end a text.
        stop_strings: Default stop strings.
        on_long_prompt: What happens to a prompt that does not fit; see `TextGenerator`.
        model_bytes: Size of `model.tflite`.
    """

    batch_size: int
    context: int
    cache_sizes: tuple[int, ...]
    prefill: tuple[int, ...]
    score: int
    vocab_size: int
    layers: int
    heads: tuple[int, ...]
    head_size: int
    quantize: str | None
    start_id: int | None
    prefix_ids: tuple[int, ...]
    eos_token_ids: tuple[int, ...]
    stop_strings: tuple[str, ...]
    on_long_prompt: str
    model_bytes: int = 0

    def cache_size(self, columns: int) -> int:
        """The smallest cache with so many columns."""
        return next(size for size in self.cache_sizes if size >= columns)

    def prefill_sizes(self, size: int) -> tuple[int, ...]:
        """The `N` of each `prefill_N` for a size of the cache."""
        return tuple(length for length in self.prefill if length <= size)

    def signature(self, name: str, size: int) -> str:
        """The name of a signature for a size of the cache: a prefix for the small ones."""
        return name if size == self.context else f"cache_{size}_{name}"

    def cache_shapes(self, size: int) -> dict[str, tuple[int, ...]]:
        """The shape of each cache tensor, by its name: `[B, N, S, H]`, float32."""
        return {
            f"kv_cache_{kind}_{layer}": (self.batch_size, heads, size, self.head_size)
            for layer, heads in enumerate(self.heads)
            for kind in "kv"
        }

    def with_model_bytes(self, size: int) -> Contract:
        """The same with the size of `model.tflite`."""
        return dataclasses.replace(self, model_bytes=size)

    def write(self, folder: Path) -> None:
        """Writes `litert.json`."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        (folder / CONTRACT).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Contract:
        """Reads the contract of a folder, and checks that its files are there.

        Raises:
            FileNotFoundError: The folder, or one of its files, does not exist.
            ValueError: It is no such export, of a newer version, or a file is cut short.
        """
        folder = Path(folder)
        if not (folder / CONTRACT).is_file():
            raise FileNotFoundError(
                explain(
                    f"The folder holds no LiteRT export: it has no {CONTRACT}.",
                    fix="Write one with `tfgpt2 export FOLDER --format litert --model NAME`.",
                    folder=str(folder),
                )
            )
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                explain(
                    f"The export lacks {', '.join(missing)}.",
                    fix="Copy the whole folder, or export again.",
                    folder=str(folder),
                )
            )
        path = folder / CONTRACT
        contract = cls._from_values(read_json_object(path, _KIND), path)
        size = (folder / MODEL).stat().st_size
        if size != contract.model_bytes:
            raise unreadable(
                folder / MODEL,
                f"it has {size} bytes in place of {contract.model_bytes}",
                kind=_KIND,
            )
        return contract

    @classmethod
    def _from_values(cls, values: dict[str, Any], path: Path) -> Contract:
        if values.get("format") != FORMAT:
            raise value_error(
                f"The export has a format that this version does not read; it reads {FORMAT}.",
                fix="Install a newer tfgpt2, or export again with this one.",
                format=values.get("format"),
                path=str(path),
            )
        names = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in values.items() if name != "format"}
        lists = ("cache_sizes", "prefill", "heads", "prefix_ids", "eos_token_ids", "stop_strings")
        kinds = {name: int for name in names} | dict.fromkeys(lists, list)
        kinds |= {"on_long_prompt": str, "quantize": (str, type(None))}
        kinds["start_id"] = (int, type(None))
        wrong = names ^ values.keys()
        wrong |= {n for n in names & values.keys() if not isinstance(values[n], kinds[n])}
        for name in lists:
            kind = str if name == "stop_strings" else int
            if name not in wrong and not all(isinstance(one, kind) for one in values[name]):
                wrong.add(name)
        if wrong:
            raise unreadable(path, f"{min(wrong)!r} is missing or wrong", kind=_KIND)
        return cls(**{n: tuple(v) if n in lists else v for n, v in values.items()})


def write_token_texts(texts: TokenTexts, folder: Path) -> None:
    """Writes `token_texts.json`: the bytes of each id as Latin-1 text, and the special ids."""
    values = {
        "written": [text.decode("latin-1") for text in texts.written],
        "special": sorted(texts.special),
    }
    text = json.dumps(values, ensure_ascii=False)
    (folder / TOKEN_TEXTS).write_text(text + "\n", encoding="utf-8")


def read_token_texts(folder: Path, vocab_size: int) -> TokenTexts:
    """Reads `token_texts.json`.

    Raises:
        ValueError: The file is damaged, or belongs to another model.
    """
    path = folder / TOKEN_TEXTS
    values = read_json_object(path, _KIND)
    written, special = values.get("written"), values.get("special")
    try:
        texts = TokenTexts(tuple(text.encode("latin-1") for text in written), frozenset(special))
    except (TypeError, AttributeError, UnicodeEncodeError) as error:
        raise unreadable(path, f"it holds no token texts ({error})", kind=_KIND) from error
    if len(texts.written) != vocab_size:
        reason = f"it has {len(texts.written)} tokens, and the model {vocab_size}"
        raise unreadable(path, reason, kind=_KIND)
    return texts
