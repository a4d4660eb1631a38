"""Answers of the signatures as records, one per row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Columns = Mapping[str, list[Any]]  # outputs by name, rows first


@dataclasses.dataclass(frozen=True)
class Generation:
    """One continuation; the fields are those of `tfgpt2.text.records.Generation`.

    Attributes:
        text: The continuation, without the prompt; bytes that are no UTF-8 are U+FFFD.
        text_bytes: The same as the model wrote it.
        token_ids: The tokens, an end token included.
        prompt_tokens: Tokens of the prompt that the model read.
        truncated: Tokens of the prompt that were dropped on the left.
        logprob: Log-probability of the continuation in nats, under the model's own distribution.
        token_logprobs: The same per token.
        finish_reason: `"length"`, `"eos"`, `"stop"`, `"prompt_too_long"` or `"empty_prompt"`.
        score: Of an export with beams: what they compare, see `saved_models/README.md`.
        top_logprobs: Of an export with `top_logprobs`: for each token, the likeliest ids and
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


@dataclasses.dataclass(frozen=True)
class Score:
    """How likely the model finds a text.

    Attributes:
        logprob: Log-probability in nats, the sum over the tokens that are scored.
        num_tokens: How many those are: all but the first.
        perplexity: `exp(-logprob / num_tokens)`.
        token_logprobs: One per token of the text; 0 for the first, which follows nothing.
        truncated: Tokens beyond the context, dropped on the left.
    """

    logprob: float
    num_tokens: int
    perplexity: float
    token_logprobs: list[float]
    truncated: int


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A text's tokens.

    Attributes:
        ids: The token ids.
    """

    ids: list[int]


@dataclasses.dataclass(frozen=True)
class NextTokens:
    """The likeliest next tokens, in falling order.

    Attributes:
        token_ids: Their ids.
        tokens: Their bytes.
        probabilities: Their probabilities.
    """

    token_ids: list[int]
    tokens: list[bytes]
    probabilities: list[float]


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A text as vectors, from the last hidden states.

    Attributes:
        last: The vector of the last token.
        mean: The mean over all tokens.
    """

    last: list[float]
    mean: list[float]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A text as the model sees it, token by token.

    Attributes:
        tokens: The bytes of each token.
        token_logprobs: Log-probability of each in nats; 0 for the first, which follows nothing.
        ranks: Place of each among all tokens, 1 for the likeliest; 0 for the first token.
        alternatives: The likeliest tokens at each place, with their probabilities.
    """

    tokens: list[bytes]
    token_logprobs: list[float]
    ranks: list[int]
    alternatives: list[list[tuple[bytes, float]]]


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """What a server says of one version of a model.

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
        inputs: What it takes.
        outputs: What it gives.
    """

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """What a server says of a model.

    Attributes:
        name: Its name.
        version: The version that answered.
        signatures: Its signatures by name.
    """

    name: str
    version: int
    signatures: dict[str, Signature]


def generations(columns: Columns) -> list[Generation | list[Generation]]:
    """Reads the outputs of `generate` or `serving_default`.

    Where the export writes several texts for each prompt, a list of them is in place of each.
    """
    if any(isinstance(count, list) for count in columns["num_tokens"]):
        rows = range(len(columns["num_tokens"]))
        return [generations({name: value[row] for name, value in columns.items()}) for row in rows]
    return [
        Generation(
            text=columns["text"][row],
            text_bytes=columns["text_bytes"][row],
            token_ids=columns["token_ids"][row][:count],
            prompt_tokens=columns["prompt_tokens"][row],
            truncated=columns["truncated"][row],
            logprob=columns["logprob"][row],
            token_logprobs=columns["token_logprobs"][row][:count],
            finish_reason=columns["finish_reason"][row],
            score=columns["score"][row] if "score" in columns else None,
            top_logprobs=[
                dict(zip(*pair, strict=True))
                for pair in zip(
                    columns["top_ids"][row][:count],
                    columns["top_logprobs"][row][:count],
                    strict=True,
                )
            ]
            if "top_ids" in columns
            else None,
        )
        for row, count in enumerate(columns["num_tokens"])
    ]


def scores(columns: Columns) -> list[Score]:
    """Reads the outputs of `score`."""
    return [
        Score(
            logprob=columns["logprob"][row],
            num_tokens=count,
            perplexity=columns["perplexity"][row],
            # The first token is there too, unless the text has none.
            token_logprobs=columns["token_logprobs"][row][: count + 1],
            truncated=columns["truncated"][row],
        )
        for row, count in enumerate(columns["num_tokens"])
    ]


def tokens(columns: Columns) -> list[Tokens]:
    """Reads the outputs of `tokenize`."""
    return [Tokens(columns["ids"][row][:count]) for row, count in enumerate(columns["num_tokens"])]


def next_tokens(columns: Columns) -> list[NextTokens]:
    """Reads the outputs of `next_token`."""
    rows = zip(columns["token_ids"], columns["token_bytes"], columns["probabilities"], strict=True)
    return [NextTokens(*row) for row in rows]


def embeddings(columns: Columns) -> list[Embedding]:
    """Reads the outputs of `embed`."""
    rows = zip(columns["last"], columns["mean"], strict=True)
    return [Embedding(*row) for row in rows]


def inspections(columns: Columns) -> list[Inspection]:
    """Reads the outputs of `inspect`."""
    return [
        Inspection(
            tokens=columns["token_bytes"][row][:count],
            token_logprobs=columns["token_logprobs"][row][:count],
            ranks=columns["ranks"][row][:count],
            alternatives=[
                list(zip(texts, chances, strict=True))
                for texts, chances in zip(
                    columns["top_bytes"][row][:count],
                    columns["top_probabilities"][row][:count],
                    strict=True,
                )
            ],
        )
        for row, count in enumerate(columns["num_tokens"])
    ]
