"""Perplexity of a text of any length, by windows that slide over it.

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

from tfgpt2.errors import explain
from tfgpt2.evaluation.scoring import Request, Scorer, check_count


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Two averages are given. `perplexity` weights each scored token alike. `recipe_perplexity` is
    the figure that transformers' guide computes: each window's mean loss is weighted by its labels
    less one, although in all windows but those without context the loss averages over all of them.
    They differ in the third digit or later, and are equal when `stride` is `max_length`.

    Attributes:
        perplexity: `exp(nll / scored)`.
        recipe_perplexity: The guide's average; None where it divides by zero.
        word_perplexity: `exp(nll / words)`.
        byte_perplexity: `exp(nll / bytes)`.
        bits_per_byte: `nll / bytes / ln 2`.
        nll: Negative log-likelihood of the scored tokens, in nats.
        scored: Tokens that were scored. The first token of the text follows nothing and is not
            among them, unless a start token was put before it.
        tokens: Tokens of the text.
        words: Words, counted as pieces between white space.
        bytes: Bytes of the text in UTF-8.
        windows: Passes through the model.
        max_length: Tokens in a window.
        stride: Tokens from window to window.
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
    """One pass through the model: tokens `begin` to `end`, of which the last `labels` count."""

    begin: int
    end: int
    labels: int


def windows(tokens: int, max_length: int, stride: int) -> Iterator[Window]:
    """Cuts a text into windows that overlap by `max_length - stride`.

    Args:
        tokens: Length of the text.
        max_length: Tokens in a window.
        stride: Tokens from window to window.

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
        stride: Tokens from window to window, 1 to `max_length`; None is half of it. A smaller one
            gives each token more context and takes longer.
        start_token: Put the model's start token before the text, so that its first token is
            scored, too.
        batch_size: Windows read at once.
        jit_compile: Whether XLA compiles the programs.
        progress: Show a bar on standard error, or on a console.

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
    check_count("max_length", max_length)
    stride = max(1, max_length // 2) if stride is None else stride
    check_count("stride", stride)
    if not 2 <= max_length <= context or stride > max_length:
        raise ValueError(
            explain(
                f"`max_length` must be in [2, {context}], and `stride` no larger.",
                fix="Leave them out for the context and half of it.",
                max_length=max_length,
                stride=stride,
            )
        )
    text = read_text(source)
    ids = tokenizer.tokenize(text).numpy().tolist()
    if start_token:
        ids = [_start_id(model), *ids]
    if len(ids) < 2:
        raise ValueError(
            explain(
                "The text must have at least two tokens: the first is not scored.",
                fix="Give more text, or start_token=True.",
                tokens=len(ids),
            )
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


def _request(ids: list[int], cut: Window) -> Request:
    """What a window's labels ask for; the label of its first token is lost in the shift by one."""
    scored = min(cut.labels, cut.end - cut.begin - 1)
    return Request(ids[cut.begin : cut.end - 1], ids[cut.end - scored : cut.end])


def _summary(text: str, logprobs: list[np.ndarray], cuts: list[Window], **sizes: int) -> Perplexity:
    """Joins the windows' results."""
    nll = -float(sum(part.sum() for part in logprobs))
    scored = sum(len(part) for part in logprobs)
    words, size = len(re.split(r"\s+", text)), len(text.encode("utf-8"))
    # The guide's average: a mean per window, weighted by the labels less one. A window whose only
    # label is lost in the shift has weight 0.
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
    """`e^nats`, infinite where that is no float: a bad model's words can be that unlikely."""
    return math.exp(nats) if nats < 700 else math.inf


def _start_id(model: Any) -> int:
    """The model's start token."""
    start = model.config.bos_token_id
    if start is None or not 0 <= start < model.config.vocab_size:
        raise ValueError(
            explain(
                "The model has no start token to put before the text.",
                fix="Leave start_token out; the first token is then not scored.",
                bos_token_id=start,
            )
        )
    return start


def read_text(source: str | os.PathLike[str]) -> str:
    """Returns a text as it is, or that of a file.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: It is neither.
        ValueError: The file is not UTF-8.
    """
    if isinstance(source, str):
        return source
    if not isinstance(source, os.PathLike):
        raise TypeError(
            explain(
                "The text is a str, or a pathlib.Path of a file.",
                fix="Decode bytes first.",
                source=source,
            )
        )
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            explain("There is no such file.", fix="Check the path.", path=str(path))
        )
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            explain(
                f"The file is not UTF-8: {error.reason} at byte {error.start}.",
                fix="Convert it, with iconv for example.",
                path=str(path),
            )
        ) from error
