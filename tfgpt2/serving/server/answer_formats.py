"""The forms of an answer in OpenAI's API: a completion, or the next message of a chat."""

from __future__ import annotations

import secrets
import time
from typing import Any, ClassVar


class CompletionFormat:
    """Answers of `/v1/completions`."""

    name: ClassVar[str] = "completions"  # in metrics
    prefix: ClassVar[str] = "cmpl"
    kind: ClassVar[str] = "text_completion"
    kind_of_chunk: ClassVar[str] = "text_completion"

    def envelope(self, model: str, *, chunk: bool = False) -> dict[str, Any]:
        """The fields of every answer and chunk, but for the choices.

        Args:
            model: The model's name.
            chunk: Whether it is for the chunks of a stream.
        """
        return {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "object": self.kind_of_chunk if chunk else self.kind,
            "created": int(time.time()),
            "model": model,
        }

    def choice(self, index: int, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
        """A finished text.

        Args:
            index: Its number.
            text: The text.
            logprobs: See `completion_logprobs`.
            reason: OpenAI's finish reason.
        """
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def chunk(
        self, index: int, text: str, logprobs: Any, reason: str | None, *, first: bool
    ) -> dict[str, Any]:
        """A piece of a streamed text.

        Args:
            index: Number of the text.
            text: The piece.
            logprobs: See `completion_logprobs`, of the tokens of the piece.
            reason: OpenAI's finish reason, None before the end.
            first: Whether it is the first piece.
        """
        return self.choice(index, text, logprobs, reason)


class ChatFormat(CompletionFormat):
    """Answers of `/v1/chat/completions`."""

    name = "chat"
    prefix = "chatcmpl"
    kind = "chat.completion"
    kind_of_chunk = "chat.completion.chunk"

    def choice(self, index: int, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
        """A message of the assistant."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None if logprobs is None else {"content": _tokens(logprobs)},
            "finish_reason": reason,
        }

    def chunk(
        self, index: int, text: str, logprobs: Any, reason: str | None, *, first: bool
    ) -> dict[str, Any]:
        """A piece of a message; the first one says whose it is."""
        delta = ({"role": "assistant"} if first else {}) | ({"content": text} if text else {})
        return {
            "index": index,
            "delta": delta,
            "logprobs": None if logprobs is None else {"content": _tokens(logprobs)},
            "finish_reason": reason,
        }


def _tokens(logprobs: dict[str, Any]) -> list[dict[str, Any]]:
    """Converts the log-probabilities of a completion to those of a chat."""
    tokens = logprobs["tokens"]
    likeliest = logprobs["top_logprobs"] or [None] * len(tokens)
    return [
        _token(token, value) | {"top_logprobs": [_token(*pair) for pair in (top or {}).items()]}
        for token, value, top in zip(tokens, logprobs["token_logprobs"], likeliest, strict=True)
    ]


def _token(token: str, logprob: float) -> dict[str, Any]:
    raw = token.encode()
    if token.startswith("bytes:"):  # a part of a character, see `token_logprobs`
        raw = bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))
    return {"token": token, "logprob": logprob, "bytes": list(raw)}
