"""Constraints, vocabularies and a random decoding loop, for the tests of token DFAs."""

import functools
import json
import re

import jsonschema
import numpy as np
import tensorflow as tf

from tfgpt2.generation.constraints.masking import Constraint, advance, is_complete, mask_logits
from tfgpt2.nn.attention import MASK_VALUE
from tfgpt2.tokenizers.host import GPT2Tokenizer

BYTES = [bytes([byte]) for byte in range(256)]
E = "é€😀".encode()
TOY = [b"", *BYTES, b"ab", b"abc", b"bc", b"true", b'{"', b'":', b'": ', b'","', b"\xc3", E[:3],
       E[3:7], E, b"12", b"2024", b"-0", b"", b"aaaa", b'"}', b"}", b" yes", b"no\n",
       b"ab"]  # fmt: skip
# Few bytes, no single letters: many texts cannot be written, and some states are unreachable.
SPARSE = [b"", b"ab", b"ba", b"aab", b"b", b"cc", b"\xc3", b"\xa9", b"yes", b"ye", b"s", b"no"]
SCHEMA = {
    "type": "object", "required": ["name", "age", "born"], "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "born": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "maxItems": 3},
        "score": {"type": ["number", "null"]},
    },
}  # fmt: skip
CASES = {
    "choices": {"choices": ["yes", "no", "yesno", "", "é€😀"]},
    "date": {"regex": r"\d{4}-\d{2}"},
    "letters": {"regex": "(ab|ba)*c?"},
    "text": {"regex": r"(?s).{3,9}\n"},
    "unicode": {"regex": r"(?u)\w{1,3}"},
    "schema": {"json_schema": SCHEMA},
}


@functools.lru_cache
def load_gpt2(folder):
    """GPT-2's token bytes and tokenizer."""
    tokenizer = GPT2Tokenizer(folder / "vocab.json", folder / "merges.txt")
    return token_bytes_of(tokenizer), tokenizer


def token_bytes_of(tokenizer):
    """The bytes of each id; special tokens have none."""
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in letters]
    byte_of = {chr(byte): byte for byte in letters}
    byte_of |= {chr(256 + number): byte for number, byte in enumerate(rest)}
    token_bytes = [b""] * len(tokenizer)
    for token, one in tokenizer.get_vocab().items():
        if one not in tokenizer.all_special_ids:
            token_bytes[one] = bytes(byte_of[letter] for letter in token)
    return token_bytes


def satisfies(case, text):
    """Whether a text satisfies the constraint of a case, checked by `re` and `jsonschema`."""
    if "choices" in case:
        return text in [choice.encode() for choice in case["choices"]]
    if "regex" in case:
        return bool(re.fullmatch(case["regex"], text.decode()))
    validator = jsonschema.Draft202012Validator
    checked = validator(SCHEMA, format_checker=validator.FORMAT_CHECKER)
    return checked.is_valid(json.loads(text))


def generate_randomly(constraint: Constraint, token_bytes, limit, eos=-1, seed=0, scale=3.0):
    """Draws tokens until every row ends; returns texts, token counts and finish reasons."""
    random = np.random.RandomState(seed)
    state = constraint.start
    rows = len(state)
    limit = np.broadcast_to(limit, [rows])
    texts, count, reasons = [b""] * rows, np.zeros(rows, int), [""] * rows
    for _ in range(int(limit.max())):
        logits = tf.constant(random.randn(rows, len(token_bytes)) * scale, tf.float32)
        remaining = tf.constant(np.maximum(limit - count, 0), tf.int32)
        eos_ids = tf.fill([rows, 1], eos)
        masked, after, done = _decode_step(constraint, state, logits, eos_ids, remaining)
        assert np.isfinite(masked).all()
        for row, token in enumerate(np.argmax(masked, axis=1)):
            if reasons[row]:
                continue
            assert masked[row, token] > MASK_VALUE
            count[row] += 1
            if token == eos:
                reasons[row] = "eos"
                continue
            texts[row] += token_bytes[token]
            at_limit = count[row] == limit[row]
            reasons[row] = "complete" if done[row] else "length" if at_limit else ""
        state = after
        if all(reasons):
            break
    return texts, count, reasons


@functools.partial(tf.function, autograph=False, reduce_retracing=True)
def _decode_step(constraint, state, logits, eos, remaining):
    masked = mask_logits(logits, constraint, state, eos, remaining)
    after = advance(constraint, state, tf.argmax(masked, axis=1, output_type=tf.int32))
    return masked, after, is_complete(constraint, after, remaining - 1)
