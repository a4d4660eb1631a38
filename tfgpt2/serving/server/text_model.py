"""The signatures of a text model, by name: everything that the server assumes about an export."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tfgpt2.serving.server.serving_error import invalid
from tfgpt2.serving.server.signature import Arrays, Signature

MAX_NEW_TOKENS = "max_new_tokens"  # an input
GENERATE_IDS = "generate_ids"
# The engine's signatures; those that run on it, and what starts their rows; and the outputs of a
# start that are no part of its state.
ENGINE = ("engine_start", "engine_start_ids", "engine_join", "engine_advance", "engine_tokens")
STARTED_BY = {
    "generate": "engine_start",
    "serving_default": "engine_start",
    GENERATE_IDS: "engine_start_ids",
}
START_OUTPUTS = ("prompt_tokens", "truncated", "finish_reason")


def has_engine(signatures: Mapping[str, Signature]) -> bool:
    """Whether a version was exported with the engine."""
    return all(name in signatures for name in ENGINE)


def engine_signatures(signatures: Mapping[str, Signature]) -> dict[str, Signature]:
    """The signatures, with those that run on the engine as it runs them.

    What starts a row may take settings that `generate` does not.
    """
    changed = {
        name: signatures[name]._replace(
            inputs=signatures[start].inputs, defaults=signatures[start].defaults
        )
        for name, start in STARTED_BY.items()
        if name in signatures
    }
    return {**signatures, **changed}


def write_ids(ids: Iterable[int]) -> bytes:
    """Writes ids as `generate_ids` and `inspect_ids` read them.

    Example:
        >>> write_ids([5, 12])
        b'5 12'
    """
    return " ".join(map(str, ids)).encode()


def read_ids(text: bytes) -> list[int]:
    """Reads what `write_ids` has written."""
    return list(map(int, text.split()))


class TextModel:
    """Calls the signatures of one version, for responses that take several calls.

    Args:
        run: Runs a signature: name and inputs -> outputs.
        signatures: The signatures of the version.
        max_rows: The most rows of a call.
        stream: Streams the text of one row of inputs of `generate`; None where the version has no
            engine.
        token_texts: The written and the shown bytes of tokens, int32 `[T]`; likewise.

    Attributes:
        signatures: As given.
        stream: As given.
        token_texts: As given.
    """

    def __init__(
        self,
        run: Callable[[str, Arrays], Awaitable[Arrays]],
        signatures: Mapping[str, Signature],
        max_rows: int,
        stream: Callable[[Arrays], AsyncGenerator[Any, None]] | None = None,
        token_texts: Callable[[np.ndarray], Awaitable[list[tuple[bytes, bytes]]]] | None = None,
    ):
        self._run, self.signatures, self._max_rows = run, signatures, max_rows
        self.stream, self.token_texts = stream, token_texts

    def require(self, signature: str, param: str) -> None:
        """Checks that the version has a signature.

        Args:
            signature: Its name.
            param: The field of the request that needs it.

        Raises:
            ServingError: INVALID_ARGUMENT.
        """
        if signature not in self.signatures:
            raise invalid(
                f"`{param}` needs the signature `{signature}`, which this model was exported"
                " without.",
                param=param,
            )

    async def generate(self, inputs: Arrays) -> Arrays:
        """Runs `generate`, or `generate_ids` where the prompts are ids.

        Args:
            inputs: All its inputs.

        Returns:
            All its outputs.
        """
        return await self._run(GENERATE_IDS if "ids" in inputs else "generate", inputs)

    async def inspect_ids(self, ids: Iterable[int]) -> Arrays:
        """Returns the outputs of `inspect_ids` for one row of ids."""
        return await self._run("inspect_ids", {"ids": np.array([write_ids(ids)], object)})

    async def tokenize(self, text: bytes) -> list[int]:
        """Returns the token ids of a text."""
        outputs = await self._run("tokenize", {"text": np.array([text], object)})
        return outputs["ids"][0, : int(outputs["num_tokens"][0])].tolist()

    async def detokenize(self, ids: np.ndarray) -> bytes:
        """Returns the text of token ids, int32 `[T]`."""
        return bytes((await self._run("detokenize", {"ids": ids[None]}))["text_bytes"][0])

    async def token_bytes(self, ids: np.ndarray) -> list[bytes]:
        """Returns the bytes of each token, empty for special ones.

        Args:
            ids: int32 `[T]`.
        """
        pieces: list[bytes] = []
        # `detokenize` joins the tokens of a row, so each token is a row of its own.
        for start in range(0, len(ids), self._max_rows):
            rows = ids[start : start + self._max_rows, None]  # [B, 1]
            pieces += (await self._run("detokenize", {"ids": rows}))["text_bytes"].tolist()
        return pieces


def count_tokens(outputs: Arrays, rows: int) -> tuple[int, int] | None:
    """Counts the tokens of a call of `generate`.

    Args:
        outputs: Outputs of any signature.
        rows: Rows without padding.

    Returns:
        Generated tokens and prompt tokens; None if the outputs are not those of `generate`.
    """
    if not {"finish_reason", "num_tokens", "prompt_tokens"} <= outputs.keys():
        return None
    return int(outputs["num_tokens"][:rows].sum()), int(outputs["prompt_tokens"][:rows].sum())
