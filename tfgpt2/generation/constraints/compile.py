"""Compiles choices, a regular expression or a JSON schema to a token DFA: the entry point.

```
compile_constraint -> TokenDFA, one per row -> batch_dfas -> Constraint -> mask_logits, advance
```
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from tfgpt2.errors import type_error, value_error
from tfgpt2.generation.constraints.byte_nfa import compile_expression
from tfgpt2.generation.constraints.expressions import Alternation, Literal
from tfgpt2.generation.constraints.json_schema import compile_json_schema
from tfgpt2.generation.constraints.regex import compile_regex
from tfgpt2.generation.constraints.schema_input import load_schema
from tfgpt2.generation.constraints.special_tokens import END
from tfgpt2.generation.constraints.token_dfa import TokenDFA, compile_token_dfa
from tfgpt2.generation.constraints.work import bounded

CACHE_SIZE = 32
_cache: OrderedDict[Any, TokenDFA] = OrderedDict()
_lock = threading.Lock()


@bounded
def compile_constraint(
    token_bytes: Sequence[bytes],
    *,
    choices: Sequence[str | bytes] | None = None,
    regex: str | None = None,
    json_schema: Any = None,
    end_ids: Collection[int] = (),
    special_ids: Collection[int] = (),
) -> TokenDFA:
    """Compiles a constraint on the whole output to a DFA over a vocabulary's tokens.

    The output is one of the choices, matches the pattern, or is JSON that is valid under the
    schema. The last `CACHE_SIZE` results are cached.

    Args:
        token_bytes: The bytes of each id; empty for ids without text, which are never allowed. A
            special token's are its content.
        choices: The allowed outputs.
        regex: A pattern; see `regex.compile_regex`.
        json_schema: A dict, JSON text or pydantic model class; see
            `json_schema.compile_json_schema`.
        end_ids: The request's end tokens. Those that have bytes are never used as text.
        special_ids: The special tokens: each is used where the constraint spells out its content,
            and nowhere else; see `special_tokens.spell_special_tokens`.

    Returns:
        The DFA; its arrays are read-only, since the cache shares them.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Not exactly one constraint is given, it cannot be compiled, or the vocabulary
            cannot spell it.

    Example:
        >>> from tfgpt2.generation.constraints.token_dfa import fewest_tokens
        >>> fewest_tokens(compile_constraint([b"a", b"b", b"ab"], choices=["abb", "bbb"]))
        2
    """
    constraints = {"choices": choices, "regex": regex, "json_schema": json_schema}
    names = [name for name, value in constraints.items() if value is not None]
    if len(names) != 1:
        raise value_error(
            "Exactly one of `choices`, `regex` and `json_schema` must be given.",
            fix="Pass one; alternatives of patterns are written with `|`.",
            given=names,
        )
    if choices is not None:
        choices = _encode_choices(choices)
    if json_schema is not None:
        json_schema = load_schema(json_schema)
    forbidden = sorted(one for one in end_ids if 0 <= one < len(token_bytes) and token_bytes[one])
    special_tokens = {
        token_bytes[one]: END if one in forbidden else one
        for one in sorted(special_ids) if token_bytes[one]
    }  # fmt: skip
    schema_text = json.dumps(json_schema, default=repr)
    key = (choices, regex, schema_text, *map(tuple, (forbidden, special_tokens.items())),
           _fingerprint(token_bytes))  # fmt: skip
    with _lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    if choices is not None:
        literals = Alternation(tuple(map(Literal, choices)))
        byte_dfa = compile_expression(literals, special_tokens)
    elif regex is not None:
        byte_dfa = compile_regex(regex, special_tokens)
    else:
        byte_dfa = compile_json_schema(json_schema, special_tokens)
    ordinary = [b"" if one in special_ids else data for one, data in enumerate(token_bytes)]
    token_dfa = compile_token_dfa(byte_dfa, ordinary, forbidden)
    with _lock:
        _cache[key] = token_dfa
        while len(_cache) > CACHE_SIZE:
            _cache.popitem(last=False)
    return token_dfa


def _encode_choices(choices: Any) -> tuple[bytes, ...]:
    """Encodes choices as UTF-8.

    Raises:
        TypeError: They are not a list of strings.
        ValueError: The list is empty, or one cannot be encoded.
    """
    is_list = isinstance(choices, (list, tuple))
    if not is_list or not all(isinstance(choice, (str, bytes)) for choice in choices):
        raise type_error(
            "`choices` must be a list of strings.",
            fix="Pass for example choices=['yes', 'no'].",
            choices=choices,
        )
    if not choices:
        raise value_error("`choices` is empty.", fix="Pass at least one string.")
    try:
        return tuple(one.encode() if isinstance(one, str) else one for one in choices)
    except UnicodeEncodeError as error:
        raise value_error(
            "`choices` contains an unpaired surrogate, which cannot be encoded as UTF-8.",
            fix="Pass valid text, or bytes.",
            choices=choices,
        ) from error


def _fingerprint(token_bytes: Sequence[bytes]) -> bytes:
    """Returns a digest that identifies a vocabulary."""
    digest = hashlib.blake2b(b"".join(token_bytes), digest_size=16)
    digest.update(np.array([len(data) for data in token_bytes], np.int64).tobytes())
    return digest.digest()
