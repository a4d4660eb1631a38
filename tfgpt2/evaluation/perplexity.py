"""Perplexity of a text of any length, by sliding windows.

Source: transformers' guide "Perplexity of fixed-length models"; words and bytes are counted as
lm-evaluation-harness 0.4 does for WikiText.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from tfgpt2.errors import explain, type_error, value_error
from tfgpt2.evaluation.scoring import Scorer, ScoringRequest, start_token_id
from tfgpt2.files import read_utf8
from tfgpt2.validation import check_count


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """Perplexity of a text.

    There are two averages. `perplexity` weights each scored token equally. `recipe_perplexity` is
    that of transformers' guide: the mean loss of each window is weighted by the number of its
    labels minus one, although in windows with context the mean is over all labels. They differ in
    the third digit or later, and are equal if `stride` is `max_length`.

    Attributes:
        perplexity: `exp(nll / scored)`.
        recipe_perplexity: The guide's average; None if it divides by zero.
        word_perplexity: `exp(nll / words)`.
        byte_perplexity: `exp(nll / bytes)`.
        bits_per_byte: `nll / bytes / ln 2`.
        nll: Negative log-likelihood of the scored tokens, in nats.
        scored: Tokens that were scored. The first token of the text has no context and is not
            scored, unless a start token was put before it.
        tokens: Tokens of the text.
        words: Words, separated by white space.
        bytes: Bytes of the text in UTF-8.
        windows: Number of windows.
        max_length: Tokens in a window.
        stride: Tokens between the starts of windows.
    """

    perplexity: float
    recipe_perplexity: float | None
    word_perplexity: float
    byte_perplexity: float
    bits_per_byte: float
    nll: float
    scored: int
    tokens: int
    words: int
    bytes: int
    windows: int
    max_length: int
    stride: int


class Window(NamedTuple):
    """A window: tokens `begin` to `end`, of which the last `labels` are scored."""

    begin: int
    end: int
    labels: int


def windows(tokens: int, max_length: int, stride: int) -> Iterator[Window]:
    """Divides a text into windows that overlap by `max_length - stride`.

    Args:
        tokens: Length of the text.
        max_length: Tokens in a window.
        stride: Tokens between the starts of windows.

    Source: transformers, the guide's loop.

    Example:
        >>> list(windows(10, 4, 3))
        [Window(begin=0, end=4, labels=4), Window(begin=3, end=7, labels=3), Window(begin=6, end=10, labels=3)]
    """  # noqa: E501
    done = 0
    for begin in range(0, tokens, stride):
        end = min(begin + max_length, tokens)
        yield Window(begin, end, end - done)
        done = end
        if end == tokens:
            return


def perplexity(
    model: Any,
    tokenizer: Any,
    source: str | os.PathLike[str],
    *,
    max_length: int | None = None,
    stride: int | None = None,
    start_token: bool = False,
    batch_size: int = 8,
    jit_compile: bool = True,
    progress: bool | Console = False,
) -> Perplexity:
    """Measures the perplexity of one text.

    Args:
        model: A `TFGPT2LMHeadModel`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        source: The text as a `str`, or the `Path` of a UTF-8 file.
        max_length: Tokens in a window, 2 to the model's context; None is the context.
        stride: Tokens between the starts of windows, 1 to `max_length`; None is half of it. A
            smaller stride gives each token more context and takes longer.
        start_token: Put the model's start token before the text, so that its first token is
            scored, too.
        batch_size: Windows in a batch.
        jit_compile: Whether to compile with XLA.
        progress: Show a progress bar on standard error, or on a console.

    Returns:
        The `Perplexity`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The text has fewer than two tokens, a number is out of range, or the model has
            no start token.

    Example:
        >>> import tfgpt2
        >>> model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
        >>> tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> perplexity(model, tokenizer, "To be, or not to be: that is the question.").windows
        1
    """
    context = model.config.n_positions
    max_length = context if max_length is None else max_length
    check_count("max_length", max_length, least=1, optional=False)
    stride = max(1, max_length // 2) if stride is None else stride
    check_count("stride", stride, least=1, optional=False)
    if not 2 <= max_length <= context or stride > max_length:
        raise value_error(
            f"`max_length` must be in [2, {context}], and `stride` at most `max_length`.",
            fix="Leave them out for the defaults, the context and half of it.",
            max_length=max_length,
            stride=stride,
        )
    text = read_text(source)
    ids = tokenizer.tokenize_prompts([text]).flat_values.numpy().tolist()
    if start_token:
        ids = [start_token_id(model), *ids]
    if len(ids) < 2:
        raise value_error(
            "The text must have at least two tokens, since the first is not scored.",
            fix="Pass more text, or start_token=True.",
            tokens=len(ids),
        )
    cuts = list(windows(len(ids), max_length, stride))
    scorer = Scorer(model, batch_size=batch_size, jit_compile=jit_compile)
    scores = scorer.score([_request(ids, cut) for cut in cuts], progress=progress)
    return _summary(
        text,
        [score.logprobs for score in scores],
        cuts,
        tokens=len(ids) - start_token,
        max_length=max_length,
        stride=stride,
    )


def _request(ids: list[int], cut: Window) -> ScoringRequest:
    """The request for a window; its first token has no prediction and is not scored."""
    scored = min(cut.labels, cut.end - cut.begin - 1)
    return ScoringRequest(ids[cut.begin : cut.end - 1], ids[cut.end - scored : cut.end])


def _summary(text: str, logprobs: list[np.ndarray], cuts: list[Window], **sizes: int) -> Perplexity:
    """Computes the averages from the results of the windows."""
    nll = -float(sum(part.sum() for part in logprobs))
    scored = sum(len(part) for part in logprobs)
    words, size = len(re.split(r"\s+", text)), len(text.encode("utf-8"))
    # The guide's average: the mean of each window, weighted by its labels minus one. A window with
    # a single label has weight 0.
    weights = [cut.labels - 1 for cut in cuts]
    means = [-part.mean() if len(part) else 0.0 for part in logprobs]
    recipe = None
    if sum(weights):
        recipe = math.exp(np.dot(means, weights) / sum(weights))
    return Perplexity(
        perplexity=math.exp(nll / scored),
        recipe_perplexity=recipe,
        word_perplexity=_exp(nll / words),
        byte_perplexity=_exp(nll / size),
        bits_per_byte=nll / size / math.log(2),
        nll=nll,
        scored=scored,
        words=words,
        bytes=size,
        windows=len(cuts),
        **sizes,
    )


def _exp(nats: float) -> float:
    """`e^nats`, infinite beyond the range of a float, as for the words of a bad model."""
    return math.exp(nats) if nats < 700 else math.inf


def read_text(source: str | os.PathLike[str]) -> str:
    """Returns a text, or reads that of a file.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: The source is neither a text nor a path.
        ValueError: The file cannot be read, or is not UTF-8.
    """
    if isinstance(source, str):
        return source
    if not isinstance(source, os.PathLike):
        raise type_error(
            "The text must be a str, or the pathlib.Path of a file.",
            fix="Decode bytes first.",
            source=source,
        )
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            explain("There is no such file.", fix="Check the path.", path=str(path))
        )
    return read_utf8(path)
