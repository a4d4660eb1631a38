"""One text to generate: its prompt within the context, its settings, and the next token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfgpt2.errors import value_error
from tfgpt2.generation.written_text import TokenTexts
from tfgpt2.litert.contract import Contract
from tfgpt2.litert.sampling import choose_token, log_probability
from tfgpt2.litert.texts import Continuation

_NO_IDS = np.zeros(0, np.int64)
_DRAWS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def keep_end(ids: Sequence[int], most: int, num_first: int) -> Sequence[int]:
    """At most so many ids: the first ones, which stand before every text, and the end.

    Example:
        >>> keep_end([1, 7, 8, 9], 3, num_first=1)
        [1, 8, 9]
    """
    first = min(num_first, most)
    return ids if len(ids) <= most else [*ids[:first], *ids[len(ids) - most + first :]]


def fit_prompt(
    ids: Sequence[int],
    max_new_tokens: int,
    contract: Contract,
    on_long_prompt: str,
    num_first: int = 0,
) -> tuple[list[int], str]:
    """The part of a prompt that the model reads; as `tfgpt2.text.prompts.make_prompt`.

    Args:
        ids: The prompt.
        max_new_tokens: What a shortened prompt leaves room for.
        contract: The contract.
        on_long_prompt: See `TextGenerator`.
        num_first: Ids at the beginning that stay where a prompt is shortened.

    Returns:
        The ids, and `"prompt_too_long"`, `"empty_prompt"` or `"unknown_token"` where there are
        none, or `""`.
    """
    if max(ids, default=0) >= contract.vocab_size:
        return [], "unknown_token"
    if on_long_prompt == "truncate_left":
        # At least half of the context stays, however much is to be generated.
        most = max(contract.context - max(max_new_tokens, 1), (contract.context + 1) // 2)
        ids = keep_end(ids, most, num_first)
    if len(ids) >= contract.context:
        return [], "prompt_too_long"
    if not ids:
        return ([], "empty_prompt") if contract.start_id is None else ([contract.start_id], "")
    return list(ids), ""


class Request:
    """A prompt and its settings.

    Args:
        ids: The prompt.
        truncated: Tokens that were dropped on the left.
        limit: Most new tokens.
        settings: See `settings.rows`, but for `max_new_tokens`.
        stop: Stop strings.
    """

    def __init__(
        self,
        ids: list[int],
        truncated: int,
        limit: int,
        settings: Mapping[str, Any],
        stop: Sequence[bytes],
    ) -> None:
        self.ids, self.truncated, self.limit, self.stop = ids, truncated, limit, stop
        self._seed, self._least = int(settings["seed"]), int(settings["min_new_tokens"])
        self._settings = {name: settings[name] for name in _DRAWS}

    def advance(
        self, logits: np.ndarray, text: Continuation, texts: TokenTexts, ends: Sequence[int]
    ) -> None:
        """Chooses the next token from logits `[V]`.

        Raises:
            ValueError: The logits are not numbers.
        """
        step, seen = len(text.tokens), _NO_IDS
        if self._settings["repetition_penalty"] != 1:
            seen = np.unique(self.ids + text.tokens)
        token = choose_token(
            logits,
            seen=seen,
            forbidden=np.array(ends, np.int64) if step < self._least else _NO_IDS,
            step=step,
            seed=self._seed,
            **self._settings,
        )
        if not np.isfinite(logits.max()):
            raise value_error(
                "The model's scores are not numbers: its weights or activations overflow.",
                fix="Check the weights for NaN and infinity.",
            )
        if token is None:
            text.reason = "no_token"
            return
        logprob = log_probability(logits, token)
        text.append(token, logprob, texts, limit=self.limit, end_tokens=ends, stop=self.stop)


def make_request(
    ids: Sequence[int],
    settings: Mapping[str, Any],
    stop: Sequence[bytes],
    contract: Contract,
    on_long_prompt: str,
    num_first: int = 0,
) -> tuple[Request | None, str]:
    """Makes a request of a prompt.

    Args:
        ids: The prompt.
        settings: A value for each of `REQUEST_OPTIONS`.
        stop: Stop strings.
        contract: The contract.
        on_long_prompt: See `TextGenerator`.
        num_first: See `fit_prompt`.

    Returns:
        The request; or None and why the prompt cannot run, see `fit_prompt`.
    """
    most = int(settings["max_new_tokens"])
    kept, refusal = fit_prompt(ids, most, contract, on_long_prompt, num_first)
    if refusal:
        return None, refusal
    limit = min(most, contract.context - len(kept))
    return Request(kept, max(0, len(ids) - len(kept)), limit, settings, stop), ""
