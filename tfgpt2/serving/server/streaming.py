"""Text piece by piece from a SavedModel that cannot stream: a few tokens at a time.

A request asks for some tokens after an *anchor*: the prompt and what was written up to some token.
The anchor moves on when the text up to there, tokenized anew, gives the very tokens that the model
chose; then reading it is the same as having written it. Where it does not (the text ends within a
character, or a word was written in other pieces than the tokenizer would), the anchor stays, and
the next request writes the last tokens again and some more. Hence:
- a greedy text is that of one request, as long as prompt and text fit the model's context (beyond
  it, one request ends, and a stream goes on with the end of the text);
- a sampled text differs from that of one request with the same seed once the anchor has moved:
  noise counts steps from 0 in each request, so each anchor gets a seed of its own. The same
  stream gives the same text again, though.
"""

from __future__ import annotations

import codecs
import secrets
from collections.abc import AsyncIterator
from typing import NamedTuple

import numpy as np

from tfgpt2.serving.client.streaming import chunk_seed, unfinished
from tfgpt2.serving.server.saved_model import Arrays
from tfgpt2.serving.server.service import Caller

_MOST_TOKENS = 256  # of one request


class Piece(NamedTuple):
    """Some text.

    Attributes:
        text: Whole characters, no part of a stop string.
        num_tokens: Tokens of the text so far.
        prompt_tokens: Tokens of the prompt.
        finish_reason: None while the text goes on, else the signature's.
    """

    text: str
    num_tokens: int
    prompt_tokens: int
    finish_reason: str | None = None


class _Text:
    """What was written: tokens with their bytes, and where the anchor is.

    Args:
        prompt: Bytes of the prompt.
        ids: The prompt's tokens; None when tokens cannot be compared, and the anchor never moves.
    """

    def __init__(self, prompt: bytes, ids: list[int] | None):
        self.prompt, self._prompt_ids = prompt, ids
        self.tokens: list[bytes] = []
        self._ids: list[int] = []
        self.anchor = 0  # tokens

    @property
    def written(self) -> bytes:
        """All bytes after the prompt."""
        return b"".join(self.tokens)

    def anchor_text(self) -> bytes:
        """What the next request continues."""
        return self.prompt + b"".join(self.tokens[: self.anchor])

    def extend(self, ids: list[int], tokens: list[bytes]) -> None:
        """Replaces everything after the anchor by what a request wrote there.

        The tokens there are the same as before, but for rounding: a batch of another size may
        round differently, and what a client has seen must stay.
        """
        seen = len(self.tokens) - self.anchor
        if tokens[:seen] == self.tokens[self.anchor :]:
            self.tokens[self.anchor :] = tokens
            self._ids[self.anchor :] = ids
        elif len(tokens) > seen:
            self.tokens += tokens[seen:]
            self._ids += ids[seen:]

    def move(self, ids: list[int]) -> bool:
        """Moves the anchor to the end if the text's tokens, read anew, are those chosen."""
        if self._prompt_ids is not None and ids == [*self._prompt_ids, *self._ids]:
            self.anchor = len(self.tokens)
        return self.anchor == len(self.tokens)


async def stream(
    ask: Caller, settings: Arrays, stops: list[bytes], *, size: int, can_move: bool = True
) -> AsyncIterator[Piece]:
    """Writes one row's text, piece by piece.

    Args:
        ask: Runs a signature of the model: `generate`, `detokenize`, `tokenize`.
        settings: The inputs of `generate`, one row, `stop` without effect.
        stops: Stop strings, none of them empty.
        size: Tokens of each piece, 1 or more.
        can_move: False continues the prompt itself each time, for settings that look at which
            tokens were written and which were read.

    Yields:
        Pieces; the last one has a finish reason, and maybe no text.
    """
    settings = dict(settings)
    prompt, total = settings["text"][0], int(settings["max_new_tokens"][0])
    seed = int(settings["seed"][0]) if "seed" in settings else -1
    seed = secrets.randbits(62) if seed < 0 else seed
    if "stop" in settings:  # looked for here: one may begin in one answer and end in the next
        settings["stop"] = np.full((1, 1), b"", object)
    first_ids = await _tokenize(ask, prompt) if can_move else None
    text = _Text(prompt, first_ids or None)  # an empty prompt hides a start token
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    shown, ask_for, prompt_tokens = 0, size, None
    while True:
        before = len(text.tokens)
        wanted = min(total - text.anchor, before - text.anchor + ask_for)
        found = await ask("generate", _request(settings, text, wanted, seed))
        if prompt_tokens is None:
            prompt_tokens = int(found["prompt_tokens"][0])
        count = int(found["num_tokens"][0])
        ids = [int(token) for token in found["token_ids"][0, :count]]
        text.extend(ids, await _token_bytes(ask, ids))
        reason = _ending(found, text, before, total)
        end, stopped = _end(text, before, stops)
        if stopped:
            reason = "stop"
        final = reason is not None
        end = end if stopped or final else end - _held_back(text.written, stops)
        piece = decoder.decode(text.written[shown : max(shown, end)], final)
        shown = max(shown, end)
        if piece or final:
            yield Piece(piece, len(text.tokens), prompt_tokens, reason)
        if final:
            return
        moved = can_move and not unfinished(text.written) and first_ids and text.move(
            await _tokenize(ask, text.prompt + text.written)
        )  # fmt: skip
        # Writing tokens again costs more each time: ask for more, so that the sum stays small.
        ask_for = size if moved else min(2 * ask_for, _MOST_TOKENS)


def _request(settings: Arrays, text: _Text, wanted: int, seed: int) -> Arrays:
    """Inputs of the next request."""
    changed = {
        "text": np.array([text.anchor_text()], object),
        "max_new_tokens": np.array([wanted], np.int32),
    }
    if "min_new_tokens" in settings:
        least = max(0, int(settings["min_new_tokens"][0]) - text.anchor)
        changed["min_new_tokens"] = np.array([least], np.int32)
    if "seed" in settings:
        changed["seed"] = np.array([chunk_seed(seed, text.anchor)], np.int64)
    return settings | changed


def _ending(found: Arrays, text: _Text, before: int, total: int) -> str | None:
    """Why there is no next request; None when there is one."""
    reason = found["finish_reason"][0].decode()
    if reason == "prompt_too_long" and text.anchor:  # what was written fills the context
        return "length"
    if reason != "length":
        return reason
    if len(text.tokens) >= total or len(text.tokens) == before:
        return "length"
    return None


def _end(text: _Text, before: int, stops: list[bytes]) -> tuple[int, bool]:
    """Bytes up to the first stop string, and whether there is one.

    As the compiled loop does it: token by token, and of the strings that a token completes, the
    one that begins first.
    """
    written = text.written
    if stops:
        longest = max(len(stop) for stop in stops)
        position = sum(len(token) for token in text.tokens[:before])
        for token in text.tokens[before:]:
            low, position = max(0, position - longest + 1), position + len(token)
            found = [written.find(stop, low, position) for stop in stops]
            if max(found) >= 0:
                return min(place for place in found if place >= 0), True
    return len(written), False


def _held_back(written: bytes, stops: list[bytes]) -> int:
    """Bytes at the end that may be the beginning of a stop string."""
    longest = max((len(stop) for stop in stops), default=1)
    for size in range(min(longest - 1, len(written)), 0, -1):
        if any(stop.startswith(written[-size:]) for stop in stops):
            return size
    return 0


async def _tokenize(ask: Caller, text: bytes) -> list[int]:
    found = await ask("tokenize", {"text": np.array([text], object)})
    return found["ids"][0, : int(found["num_tokens"][0])].tolist()


async def _token_bytes(ask: Caller, ids: list[int]) -> list[bytes]:
    return await token_bytes(ask, np.array(ids, np.int32))


async def token_bytes(ask: Caller, ids: np.ndarray) -> list[bytes]:
    """The bytes of each token, empty for special ones.

    Args:
        ask: Runs a signature.
        ids: int32 `[T]`.
    """
    if not len(ids):
        return []
    # One row each, for `detokenize` joins a row's tokens. Rows are limited, so in portions.
    portions = [ids[start : start + ask.rows] for start in range(0, len(ids), ask.rows)]
    found = [(await ask("detokenize", {"ids": part[:, None]}))["text_bytes"] for part in portions]
    return np.concatenate(found).tolist()
