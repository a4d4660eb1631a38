"""The engine of a LiteRT export: each row, or the rows that came together, with a cache of its own.

An export with one row decodes the rows one after the other, a token each. With several rows, those
whose prompts are read together share the calls.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.litert.generator import LiteRTGenerator
from tfgpt2.litert.group import Group, make_groups
from tfgpt2.litert.request import Request, make_request
from tfgpt2.serving.server.servable import StartedRow
from tfgpt2.serving.server.signature import Arrays, Signature

_UNKNOWN = 2**31 - 1  # is the id of no token


class _Row(NamedTuple):
    """A row of a group, or a prompt that was refused."""

    group: Group | None
    row: int = 0
    refusal: str = ""


class LiteRTEngine:
    """The slots of one version; see `servable.Engine`.

    Args:
        generator: The loaded export.
    """

    def __init__(self, generator: LiteRTGenerator):
        self._generator, self._texts = generator, generator.token_texts
        self._slots: list[_Row | None] = []

    def clear(self) -> None:
        """Forgets all rows."""
        _close(self._slots, [])
        self._slots = []

    def start(
        self, signature: Signature, requests: Sequence[Arrays], padded: int
    ) -> tuple[list[_Row], list[StartedRow]]:
        """Reads prompts; nothing is padded here."""
        rows: list[_Row | None] = []
        started, accepted = [], []
        for inputs in requests:
            request, refusal = self._request(inputs)
            accepted += [] if request is None else [request]
            rows.append(_Row(None, refusal=refusal) if request is None else None)
            read, dropped = (0, 0) if request is None else (len(request.ids), request.truncated)
            started.append(StartedRow(read, dropped))
        groups = make_groups(self._generator.engine, accepted, self._texts)
        places = (_Row(group, row) for group in groups for row in range(len(group.requests)))
        found = [next(places) if row is None else row for row in rows]
        try:
            for group in groups:
                group.read()
        except BaseException:
            _close(found, [])
            raise
        return found, started

    def join(
        self, started: Sequence[tuple[list[_Row], int]], kept: Sequence[int], slots: int
    ) -> None:
        """Takes rows of the old slots and those started."""
        rows: list[_Row | None] = [self._slots[slot] for slot in kept]
        rows += [row for state, count in started for row in state[:count]]
        _close(self._slots, rows)
        self._slots = rows + [None] * (slots - len(rows))

    def advance(self, active: Sequence[bool], steps: int) -> Arrays:
        """Generates up to `steps` tokens for each active row."""
        for row, goes_on in zip(self._slots, active, strict=True):
            if row is not None and row.group is not None and not goes_on:
                text = row.group.found[row.row]
                text.reason = text.reason or "length"  # nobody reads on
        groups = {id(row.group): row.group for row in self._slots if row and row.group}
        for _ in range(steps):
            for group in groups.values():
                if group.is_running:
                    group.advance()
        for group in groups.values():
            if not group.is_running:
                group.close()
        return self._outputs()

    def knows_texts(self, ids: np.ndarray) -> bool:
        """They are always known."""
        return True

    def token_texts(self, ids: np.ndarray) -> list[tuple[bytes, bytes]]:
        """The written and the shown bytes of tokens, int32 `[T]`; see `TokenTexts`."""
        written, special = self._texts.written, self._texts.special
        found = []
        for one in ids.tolist():
            text = written[one] if 0 <= one < len(written) else b""
            found.append((text, b"" if one in special else text))
        return found

    def _request(self, inputs: Arrays) -> tuple[Request | None, str]:
        """A request, or why its prompt is refused; settings are clamped to their ranges."""
        generator, settings, num_first = self._generator, {}, 0
        if "text" in inputs:
            ids = generator.tokenize(inputs["text"][0])
            num_first = len(generator.contract.prefix_ids)
        else:
            ids = _read_ids(inputs["ids"][0])
        for name, option in REQUEST_OPTIONS.items():
            value = inputs[name].astype(option.dtype)[0]
            value = option.off if value != value else value  # noqa: PLR0124  (NaN)
            settings[name] = np.clip(value, *np.array([option.low, option.high], option.dtype))
        if settings["seed"] < 0:
            settings["seed"] = secrets.randbits(62)
        stop = [one for one in inputs["stop"][0] if one]
        return make_request(
            ids,
            settings,
            stop,
            generator.contract,
            generator.on_long_prompt,
            num_first=num_first,
        )

    def _outputs(self) -> Arrays:
        """What each slot has so far; rows are filled up with zeros."""
        texts = [row.group.found[row.row] if row and row.group else None for row in self._slots]
        counts = np.array([0 if text is None else len(text.tokens) for text in texts], np.int32)
        shape = [len(texts), max(counts, default=0)]
        ids, logprobs = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        reasons, cuts = [], []
        for slot, (row, text) in enumerate(zip(self._slots, texts, strict=True)):
            if text is None:
                reasons.append((row.refusal if row else "length").encode())
                cuts.append(-1)
                continue
            ids[slot, : counts[slot]] = text.tokens
            logprobs[slot, : counts[slot]] = text.logprobs
            reasons.append((text.reason or "running").encode())
            cuts.append(text.cut)
        return {
            "token_ids": ids,
            "token_logprobs": logprobs,
            "num_tokens": counts,
            "finish_reason": np.array(reasons, object),
            "stop_cut": np.array(cuts, np.int32),
        }


def _read_ids(text: bytes) -> list[int]:
    """Ids written as decimal numbers; what is none becomes an id that no model has."""
    words = text.split()
    return [int(one) if one.isdigit() and len(one) < 10 else _UNKNOWN for one in words]


def _close(rows: Sequence[_Row | None], kept: Sequence[_Row | None]) -> None:
    """Gives back the caches of groups that none of the rows that go on belongs to."""
    used = {id(row.group) for row in kept if row is not None}
    for row in rows:
        if row is not None and row.group is not None and id(row.group) not in used:
            row.group.close()
