"""The special tokens around texts, as `post_processor` of a `tokenizer.json` says it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf
import tokenizers

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.json_values import list_stages
from tfgpt2.tokenizers.spec_checks import check_tokens
from tfgpt2.validation import check_names

_SEQUENCES = ("A", "B")


class Affixes(NamedTuple):
    """The special tokens before and after one text."""

    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Template:
    """The special tokens around a text, and around each of two texts in one row.

    A prompt has those before a text and not those after it, which end a text.

    Attributes:
        prefix: Tokens before a text.
        suffix: Tokens after a text.
        pair: Those of the first and of the second of two texts; None is those of a single text,
            the second without `prefix`.

    Example:
        >>> bert = Template(("[CLS]",), ("[SEP]",))
        >>> bert.of_pair()[1]
        Affixes(prefix=(), suffix=('[SEP]',))
    """

    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    pair: tuple[Affixes, Affixes] | None = None

    def __bool__(self) -> bool:
        return bool(self.tokens)

    @property
    def tokens(self) -> tuple[str, ...]:
        """Every token once."""
        parts = [Affixes(self.prefix, self.suffix), *(self.pair or ())]
        return tuple(dict.fromkeys(t for part in parts for side in part for t in side))

    def of_pair(self) -> tuple[Affixes, Affixes]:
        """Returns the special tokens of the first and of the second of two texts."""
        return self.pair or (Affixes(self.prefix, self.suffix), Affixes((), self.suffix))

    def to_options(self) -> dict[str, Any]:
        """Returns the template for JSON; `from_options` is the inverse."""
        pair = self.pair and [list(map(list, part)) for part in self.pair]
        return {"prefix": list(self.prefix), "suffix": list(self.suffix), "pair": pair}

    @classmethod
    def from_options(cls, value: Any) -> Template:
        """Returns a template given as itself, as its fields, or as None.

        Raises:
            TypeError: It is none of these.
        """
        if isinstance(value, Template):
            return value
        value = {} if value is None else value
        if not isinstance(value, Mapping):
            value = {"template": value}
        check_names(value, ("prefix", "suffix", "pair"))
        pair = value.get("pair")
        affixes = pair and tuple(Affixes(*(_texts("pair", s) for s in part)) for part in pair)
        sides = (_texts(name, value.get(name)) for name in ("prefix", "suffix"))
        return cls(*sides, affixes)

    def to_processor(self, ids: Mapping[str, int]) -> tokenizers.processors.PostProcessor:
        """Returns the post-processor of the `tokenizers` library.

        Args:
            ids: Token to id.
        """
        # A template reads "$" and ":" in a name as syntax: such a token gets another name.
        names = {
            token: f"special_{number}" if {"$", ":"} & set(token) else token
            for number, token in enumerate(self.tokens)
        }

        def named(part: Affixes, text: str) -> list[str]:
            return [*(names[t] for t in part.prefix), text, *(names[t] for t in part.suffix)]

        first, second = self.of_pair()
        return tokenizers.processors.TemplateProcessing(
            single=named(Affixes(self.prefix, self.suffix), "$A"),
            pair=[*named(first, "$A"), *(f"{piece}:1" for piece in named(second, "$B"))],
            special_tokens=[
                {"id": name, "ids": [ids[token]], "tokens": [token]}
                for token, name in names.items()
            ],
        )


def read_template(data: Mapping[str, Any], ids: Mapping[str, int]) -> Template:
    """Returns the template in a `tokenizer.json`; steps of `ByteLevel` say nothing about it.

    Args:
        data: The contents of `tokenizer.json`.
        ids: Token to id.

    Raises:
        ValueError: The post-processor does something else than to put tokens around texts.
    """
    steps = list_stages(data, "post_processor", "processors")
    found = [_read_step(step, ids) for step in steps if step["type"] != "ByteLevel"]
    found = [template for template in found if template]
    if len(found) > 1:
        raise unsupported(data["post_processor"])
    return found[0] if found else Template()


def surround(
    rows: tf.RaggedTensor, prefix: Iterable[int] = (), suffix: Iterable[int] = ()
) -> tf.RaggedTensor:
    """Puts ids before and after each row.

    Args:
        rows: int32 `[B, (T)]`.
        prefix: Ids before each.
        suffix: Ids after each.

    Example:
        >>> surround(tf.ragged.constant([[5], []]), [1], [2]).to_list()
        [[1, 5, 2], [1, 2]]
    """
    parts = [
        tf.tile(tf.constant([ids], rows.dtype), [rows.nrows(tf.int32), 1]) if ids else None
        for ids in (tuple(prefix), tuple(suffix))
    ]
    parts = [part for part in (parts[0], rows, parts[1]) if part is not None]
    return tf.concat(parts, axis=1) if len(parts) > 1 else rows


def _read_step(step: Mapping[str, Any], ids: Mapping[str, int]) -> Template:
    match step:
        case {"type": "BertProcessing", "cls": [str(cls), int(a)], "sep": [str(sep), int(b)]} if (
            ids.get(cls) == a and ids.get(sep) == b
        ):
            return Template((cls,), (sep,))
        case {"type": "TemplateProcessing", "single": [*single], "special_tokens": {**tokens}}:
            parts = _split(step, single, tokens, ids)
            pair = step.get("pair") or single
            if len(parts) != 1 or not isinstance(pair, list):
                raise unsupported(step)
            pair = _split(step, pair, tokens, ids)
            template = Template(*parts[0])
            if len(pair) == 2 and template.of_pair() != pair:
                template = dataclasses.replace(template, pair=pair)
            return template
    raise unsupported(step)


def _split(
    step: Mapping[str, Any], pieces: Iterable[Any], tokens: Mapping[str, Any], ids: Any
) -> tuple[Affixes, ...]:
    """Returns the tokens around each text of a template; those between two, by their type."""
    texts: list[tuple[list[str], list[str]]] = []
    waiting: list[str] = []
    kind = 0  # `type_id` of the last text
    for piece in pieces:
        match piece:
            case {"Sequence": {"id": name}} if _SEQUENCES[len(texts) : len(texts) + 1] == (name,):
                texts.append((waiting, []))
                waiting, kind = [], piece["Sequence"].get("type_id", 0)
            case {"SpecialToken": {"id": str(token)}}:
                match tokens.get(token):
                    case {"ids": [int(token_id)]} if ids.get(token) == token_id:
                        pass
                    case {"ids": [int(token_id)], "tokens": [str(text)]} if (
                        ids.get(text) == token_id
                    ):
                        token = text  # its name in the template is another
                    case _:
                        raise unsupported(step)
                after = texts and not waiting and piece["SpecialToken"].get("type_id", 0) == kind
                (texts[-1][1] if after else waiting).append(token)
            case _:
                raise unsupported(step)
    if waiting:
        if not texts:
            raise unsupported(step)
        texts[-1][1].extend(waiting)
    return tuple(Affixes(tuple(prefix), tuple(suffix)) for prefix, suffix in texts)


def _texts(name: str, tokens: Any) -> tuple[str, ...]:
    return tuple(map(str, check_tokens(name, tokens)))


def unsupported(processor: Any) -> ValueError:
    """Returns the error for a post-processor that does something else."""
    return value_error(
        "`post_processor` may put tokens of the vocabulary before and after a text and do nothing"
        " else.",
        fix="Remove it from `tokenizer.json`, or load it with the `tokenizers` library.",
        post_processor=processor,
    )
