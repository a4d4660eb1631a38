"""The door to constrained output: choices, a regular expression or a JSON schema for a vocabulary.

```
compile_constraint -> TokenAutomaton, one per row -> join -> Constraint -> allow, advance, complete
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

from tfgpt2.errors import explain
from tfgpt2.generation.constraints.byte_dfa import ByteAutomaton
from tfgpt2.generation.constraints.byte_nfa import Either, Literal, compile_node
from tfgpt2.generation.constraints.json_schema import read_schema, schema_automaton
from tfgpt2.generation.constraints.regex import regex_automaton
from tfgpt2.generation.constraints.token_dfa import TokenAutomaton, read_tokens

KEPT = 32  # automata that are remembered
_kept: OrderedDict[Any, TokenAutomaton] = OrderedDict()
_lock = threading.Lock()


def compile_constraint(
    token_bytes: Sequence[bytes],
    *,
    choices: Sequence[str | bytes] | None = None,
    regex: str | None = None,
    json_schema: Any = None,
    end_ids: Collection[int] = (),
) -> TokenAutomaton:
    """Compiles what an output must look like to an automaton over tokens.

    The output, all of it, is one of the choices, matches the pattern, or is JSON that is valid
    under the schema. The last `KEPT` results are remembered.

    Args:
        token_bytes: The bytes of each id; empty for ids without text, which are never written.
        choices: The outputs that are allowed.
        regex: A pattern; see `regex.regex_automaton`.
        json_schema: A dict, JSON text or pydantic model class; see `json_schema.schema_automaton`.
        end_ids: End tokens of the request. Those that have bytes are not used as text.

    Returns:
        The automaton; its arrays are read-only, since others may share them.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Not exactly one constraint is given, it cannot be compiled, or the vocabulary
            cannot write it.

    Example:
        >>> from tfgpt2.generation.constraints.token_dfa import fewest_tokens
        >>> fewest_tokens(compile_constraint([b"a", b"b", b"ab"], choices=["abb", "bbb"]))
        2
    """
    given = {"choices": choices, "regex": regex, "json_schema": json_schema}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise ValueError(
            explain(
                "Exactly one of `choices`, `regex` and `json_schema` must be given.",
                fix="Pass one; alternatives of patterns are written with `|`.",
                given=names,
            )
        )
    if choices is not None:
        choices = check_choices(choices)
    if json_schema is not None:
        json_schema = read_schema(json_schema)
    forbidden = sorted(one for one in end_ids if 0 <= one < len(token_bytes) and token_bytes[one])
    key = (
        choices,
        regex,
        None if json_schema is None else json.dumps(json_schema, default=repr),
        tuple(forbidden),
        _fingerprint(token_bytes),
    )
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    if choices is not None:
        automaton = choices_automaton(choices)
    else:
        automaton = schema_automaton(json_schema) if regex is None else regex_automaton(regex)
    found = read_tokens(automaton, token_bytes, forbidden)
    with _lock:
        _kept[key] = found
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return found


def check_choices(choices: Any) -> tuple[bytes, ...]:
    """Turns choices into bytes.

    Raises:
        TypeError: They are no list of strings.
        ValueError: There are none, or one cannot be written in UTF-8.
    """
    listed = isinstance(choices, (list, tuple))
    if not listed or not all(isinstance(one, (str, bytes)) for one in choices):
        raise TypeError(
            explain(
                "`choices` must be a list of strings.",
                fix="Pass for example choices=['yes', 'no'].",
                choices=choices,
            )
        )
    if not choices:
        raise ValueError(explain("`choices` is empty.", fix="Pass one string at least."))
    try:
        return tuple(one.encode() if isinstance(one, str) else one for one in choices)
    except UnicodeEncodeError as error:
        raise ValueError(
            explain(
                "`choices` holds half a surrogate pair, which is no character.",
                fix="Pass text, or bytes as they are.",
                choices=choices,
            )
        ) from error


def choices_automaton(choices: Sequence[bytes]) -> ByteAutomaton:
    """Builds the automaton of some texts.

    Example:
        >>> choices_automaton([b"yes", b"no"]).matches("no")
        True
    """
    return compile_node(Either(tuple(Literal(one) for one in choices)))


def _fingerprint(token_bytes: Sequence[bytes]) -> bytes:
    """Tells vocabularies apart."""
    digest = hashlib.blake2b(b"".join(token_bytes), digest_size=16)
    digest.update(np.array([len(one) for one in token_bytes], np.int64).tobytes())
    return digest.digest()
