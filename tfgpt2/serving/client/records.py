"""Records of the client: one for each row of a signature's outputs, and what a server reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]  # outputs of one row by name


@dataclasses.dataclass(frozen=True)
class Generation:
    """One continuation; the fields are those of `tfgpt2.text.generation.Generation`.

    Attributes:
        text: The continuation, without the prompt; bytes that are not UTF-8 are U+FFFD.
        text_bytes: The same as the model wrote it.
        token_ids: Token ids, an end token included.
        prompt_tokens: Tokens of the prompt that the model read.
        truncated: Tokens of the prompt that were dropped on the left.
        logprob: Log-probability of the continuation in nats, under the model's own distribution.
        token_logprobs: Log-probability of each token.
        finish_reason: `"length"`, `"eos"`, `"stop"`, `"no_token"` (every token was ruled out),
            `"prompt_too_long"` or `"empty_prompt"`.
        score: Of an export with beam search: the score that ranks beams, see
            `saved_models/README.md`.
        top_logprobs: Of an export with `top_logprobs`: for each token, the most likely ids and
            their nats.
    """

    text: str
    text_bytes: bytes
    token_ids: list[int]
    prompt_tokens: int
    truncated: int
    logprob: float
    token_logprobs: list[float]
    finish_reason: str
    score: float | None = None
    top_logprobs: list[dict[int, float]] | None = None

    @classmethod
    def from_row(cls, row: Row) -> Generation | list[Generation]:
        """Reads a row of `generate` or `serving_default`.

        Where the export writes several texts for each prompt, the row is a list of them.
        """
        count = row["num_tokens"]
        if isinstance(count, list):
            texts = zip(*row.values(), strict=True)
            return [cls.from_row(dict(zip(row, text, strict=True))) for text in texts]
        tops = None
        if "top_ids" in row:
            pairs = zip(row["top_ids"][:count], row["top_logprobs"][:count], strict=True)
            tops = [dict(zip(*pair, strict=True)) for pair in pairs]
        return cls(
            text=row["text"],
            text_bytes=row["text_bytes"],
            token_ids=row["token_ids"][:count],
            prompt_tokens=row["prompt_tokens"],
            truncated=row["truncated"],
            logprob=row["logprob"],
            token_logprobs=row["token_logprobs"][:count],
            finish_reason=row["finish_reason"],
            score=row.get("score"),
            top_logprobs=tops,
        )


@dataclasses.dataclass(frozen=True)
class Score:
    """Log-probability of a text.

    Attributes:
        logprob: Log-probability in nats, the sum over the tokens that are scored.
        num_tokens: Number of those: all but the first, and all where the export has a prefix.
        perplexity: `exp(-logprob / num_tokens)`.
        token_logprobs: One per token of the text; 0 for a first one that follows nothing.
        truncated: Tokens beyond the context, dropped on the left.
    """

    logprob: float
    num_tokens: int
    perplexity: float
    token_logprobs: list[float]
    truncated: int

    @classmethod
    def from_row(cls, row: Row) -> Score:
        """Reads a row of `score`."""
        count = row.get("text_tokens", row["num_tokens"] + 1)  # older exports do not count them
        scored = row["token_logprobs"][:count]
        return cls(row["logprob"], row["num_tokens"], row["perplexity"], scored, row["truncated"])


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Tokens of a text.

    Attributes:
        ids: Token ids.
    """

    ids: list[int]

    @classmethod
    def from_row(cls, row: Row) -> Tokens:
        """Reads a row of `tokenize`."""
        return cls(row["ids"][: row["num_tokens"]])


@dataclasses.dataclass(frozen=True)
class NextTokens:
    """The most likely next tokens, the most likely first.

    Attributes:
        token_ids: Their ids.
        tokens: Their bytes.
        probabilities: Their probabilities.
    """

    token_ids: list[int]
    tokens: list[bytes]
    probabilities: list[float]

    @classmethod
    def from_row(cls, row: Row) -> NextTokens:
        """Reads a row of `next_token`."""
        return cls(row["token_ids"], row["token_bytes"], row["probabilities"])


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A text as vectors, from the last hidden states.

    Attributes:
        last: The vector of the last token.
        mean: The mean over all tokens.
    """

    last: list[float]
    mean: list[float]

    @classmethod
    def from_row(cls, row: Row) -> Embedding:
        """Reads a row of `embed`."""
        return cls(row["last"], row["mean"])


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Log-probabilities, ranks and alternatives of the tokens of a text.

    Attributes:
        tokens: The bytes of each token.
        token_logprobs: Log-probability of each in nats; 0 for a first one that follows nothing.
        ranks: Rank of each among all tokens, 1 for the most likely; 0 for such a first one.
        alternatives: The most likely tokens at each place, with their probabilities.
    """

    tokens: list[bytes]
    token_logprobs: list[float]
    ranks: list[int]
    alternatives: list[list[tuple[bytes, float]]]

    @classmethod
    def from_row(cls, row: Row) -> Inspection:
        """Reads a row of `inspect`."""
        names = ("token_bytes", "token_logprobs", "ranks", "top_bytes", "top_probabilities")
        *fields, tops, odds = (row[name][: row["num_tokens"]] for name in names)
        places = zip(tops, odds, strict=True)
        return cls(*fields, [list(zip(*place, strict=True)) for place in places])


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """Status of one version of a model.

    Attributes:
        version: The version.
        state: `"START"`, `"LOADING"`, `"AVAILABLE"`, `"UNLOADING"` or `"END"`.
        error_code: `"OK"`, or a gRPC code.
        error_message: What went wrong; empty where nothing did.
    """

    version: int
    state: str
    error_code: str
    error_message: str


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Type and shape of an input or output.

    Attributes:
        dtype: `"DT_STRING"`, `"DT_INT32"` and so on.
        shape: Its dimensions; -1 is any size.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a signature, by name.

    Attributes:
        inputs: Its inputs.
        outputs: Its outputs.
    """

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model on a server.

    Attributes:
        name: Its name.
        version: The version that answered.
        signatures: Its signatures by name.
    """

    name: str
    version: int
    signatures: dict[str, Signature]
