"""Cloze tasks: the last word in LAMBADA, and multiple choice by log-likelihood."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tfgpt2.errors import nearest, value_error
from tfgpt2.evaluation.perplexity import read_text
from tfgpt2.evaluation.scoring import Scorer, ScoringRequest, continuation_request
from tfgpt2.files import bad_line, parse_json_lines


@dataclasses.dataclass(frozen=True)
class Lambada:
    """Results on LAMBADA.

    Attributes:
        accuracy: Share of passages where greedy decoding gives all tokens of the last word.
        perplexity: `exp` of the mean negative log-likelihood of a last *word* (not of a token).
        passages: Number of passages.
    """

    accuracy: float
    perplexity: float
    passages: int


@dataclasses.dataclass(frozen=True)
class Choices:
    """Accuracy on multiple choice, by four ways to compare choices.

    Attributes:
        accuracy: By log-likelihood; lm-evaluation-harness' `acc`.
        accuracy_per_token: By log-likelihood divided by the choice's tokens.
        accuracy_per_byte: Divided by the choice's bytes in UTF-8; the harness' `acc_bytes`.
        accuracy_per_character: Divided by its characters; the harness' `acc_norm`. For ASCII it
            equals `accuracy_per_byte`.
        questions: Number of questions.
    """

    accuracy: float
    accuracy_per_token: float
    accuracy_per_byte: float
    accuracy_per_character: float
    questions: int


@dataclasses.dataclass(frozen=True)
class Question:
    """One multiple-choice question.

    Attributes:
        context: The text before the choice; may be empty.
        choices: Two or more continuations.
        answer: Index of the correct one.
    """

    context: str
    choices: Sequence[str]
    answer: int


def lambada(
    model: Any,
    tokenizer: Any,
    source: str | os.PathLike[str] | Iterable[str],
    *,
    limit: int | None = None,
    batch_size: int = 8,
    jit_compile: bool = True,
    progress: bool | Console = False,
) -> Lambada:
    """Measures the accuracy on OpenAI's variant of LAMBADA.

    This variant uses the original texts (with punctuation, case and line breaks, not tokenized as
    in the original data) and no stop-word filter. The last word is the text after the last space;
    `" word"`, with that space, is scored after the rest. It is the task `lambada_openai` of
    lm-evaluation-harness.

    Args:
        model: A `TFGPT2LMHeadModel`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        source: Path of a JSONL file whose objects have a `"text"`, or the texts themselves.
        limit: Use only the first passages.
        batch_size: Passages in a batch.
        jit_compile: Whether to compile with XLA.
        progress: Show a progress bar on standard error, or on a console.

    Returns:
        The `Lambada`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not an object with a text, or a passage is a single word.

    Source: Paperno et al. 2016; Radford et al. 2019; lm-evaluation-harness 0.4,
        `tasks/lambada/lambada_openai.yaml`.

    Example:
        >>> import tfgpt2
        >>> model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
        >>> tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> lambada(model, tokenizer, ["My good lord", "To be, or not to be"]).passages
        2
    """
    if isinstance(source, (str, os.PathLike)):
        rows = read_lines(source)
        texts = [_field(row, "text", str, line, source) for line, row in rows]
    else:
        texts = list(source)
    pairs = [_last_word(text, number) for number, text in enumerate(texts[:limit], start=1)]
    if not pairs:
        raise _empty(source)
    scorer = Scorer(model, batch_size=batch_size, jit_compile=jit_compile)
    requests = encode_pairs(tokenizer, pairs, scorer.context, start_id=None)
    scores = scorer.score(requests, progress=progress)
    return Lambada(
        accuracy=float(np.mean([score.greedy for score in scores])),
        perplexity=math.exp(-np.mean([score.total for score in scores])),
        passages=len(pairs),
    )


def choices(
    model: Any,
    tokenizer: Any,
    source: str | os.PathLike[str] | Iterable[Question],
    *,
    delimiter: str = " ",
    limit: int | None = None,
    batch_size: int = 8,
    jit_compile: bool = True,
    progress: bool | Console = False,
) -> Choices:
    """Measures how often the correct choice is the likeliest continuation.

    Args:
        model: A `TFGPT2LMHeadModel`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        source: Path of a JSONL file with `{"context": ..., "choices": [...], "answer": index}`, or
            `Question` records.
        delimiter: Put between context and choice, and scored with the choice, but not counted in
            its length. Left out after an empty context.
        limit: Use only the first questions.
        batch_size: Choices in a batch.
        jit_compile: Whether to compile with XLA.
        progress: Show a progress bar on standard error, or on a console.

    Returns:
        The `Choices`; among equally likely choices the first is selected.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line or a question is malformed, or a choice does not fit the context.

    Example:
        >>> import tfgpt2
        >>> model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
        >>> tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> question = Question("My good", ["lord", "xylophone"], 0)
        >>> choices(model, tokenizer, [question]).accuracy
        1.0
    """
    if isinstance(source, (str, os.PathLike)):
        questions = [_question(row, line, source) for line, row in read_lines(source)]
    else:
        questions = list(source)
    questions = questions[:limit]
    if not questions:
        raise _empty(source)
    for number, question in enumerate(questions, start=1):
        _check_question(question, number)
    scorer = Scorer(model, batch_size=batch_size, jit_compile=jit_compile)
    pairs = [
        (question.context, delimiter + choice if question.context else choice)
        for question in questions
        for choice in question.choices
    ]
    start = model.config.bos_token_id
    start = start if start in range(model.config.vocab_size) else None
    requests = encode_pairs(tokenizer, pairs, scorer.context, start_id=start)
    scores = iter(scorer.score(requests, progress=progress))
    counts = iter(len(request.targets) for request in requests)
    correct = []
    for question in questions:
        totals = np.array([next(scores).total for _ in question.choices])
        lengths = (
            np.ones(len(totals)),
            [next(counts) for _ in question.choices],
            [len(choice.encode("utf-8")) for choice in question.choices],
            [len(choice) for choice in question.choices],
        )
        correct.append([np.argmax(totals / np.array(n)) == question.answer for n in lengths])
    return Choices(*(float(share) for share in np.mean(correct, axis=0)), len(questions))


def encode_pairs(
    tokenizer: Any, pairs: Sequence[tuple[str, str]], limit: int, *, start_id: int | None
) -> list[ScoringRequest]:
    """Tokenizes contexts and their continuations as lm-evaluation-harness does.

    Spaces at the end of a context are moved to the continuation; both are tokenized together, and
    the tokens after the number of tokens of the context alone are the continuation.

    Args:
        tokenizer: A `TFGPT2Tokenizer`.
        pairs: Contexts and continuations.
        limit: The model's context.
        start_id: Token that replaces an empty context.

    Raises:
        ValueError: A continuation has no token or too many, or no token before it.

    Source: lm-evaluation-harness 0.4, `api/model.py::TemplateLM._encode_pair`.
    """
    moved = []
    for context, rest in pairs:
        kept = context.rstrip()
        moved.append((kept, context[len(kept) :] + rest) if kept else ("", context + rest))
    texts = tokenizer.tokenize_prompts([context + rest for context, rest in moved]).to_list()
    counts = tokenizer.tokenize_prompts([context for context, _ in moved]).row_lengths().numpy()
    requests = []
    for ids, count in zip(texts, counts, strict=True):
        if count:
            requests.append(continuation_request(ids[:count], ids[count:], limit))
        elif start_id is not None and 0 <= start_id:
            requests.append(continuation_request([start_id], ids, limit))
        else:
            raise value_error(
                "An empty context needs a start token, and the model has none.",
                fix="Add a context to each question.",
                bos_token_id=start_id,
            )
    return requests


def read_lines(source: str | os.PathLike[str]) -> list[tuple[int, Mapping[str, Any]]]:
    """Reads a JSONL file: number and object of each line that is not empty.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not a JSON object, or the file is not UTF-8.
    """
    return list(parse_json_lines(read_text(Path(source)), Path(source)))


def _field(row: Mapping[str, Any], name: str, kind: type, line: int, source: Any) -> Any:
    """A field of a line, checked for its type."""
    if not isinstance(row.get(name), kind) or isinstance(row.get(name), bool):
        problem = f"has no {kind.__name__} {name!r}"
        if name not in row and row:
            problem += f". {nearest(name, row)[:-1]}"
        raise bad_line(source, line, problem, row)
    return row[name]


def _question(row: Mapping[str, Any], line: int, source: Any) -> Question:
    return Question(
        _field(row, "context", str, line, source),
        _field(row, "choices", list, line, source),
        _field(row, "answer", int, line, source),
    )


def _check_question(question: Question, number: int) -> None:
    """Checks choices and answer of a question."""
    count = len(question.choices)
    valid = count >= 2 and all(isinstance(choice, str) and choice for choice in question.choices)
    if not valid or not 0 <= question.answer < count:
        raise value_error(
            f"Question {number} must have two or more non-empty choices, and `answer` must be"
            " the index of one of them, from 0.",
            fix='Write {"context": "...", "choices": ["...", "..."], "answer": 0}.',
            choices=question.choices,
            answer=question.answer,
        )


def _last_word(text: str, number: int) -> tuple[str, str]:
    """Splits a passage before its last space."""
    context, space, word = text.rpartition(" ")
    if not context.strip() or not word:
        raise value_error(
            f"Passage {number} must be two or more words separated by spaces.",
            fix="Remove it, or the spaces at its end.",
            text=text,
        )
    return context, space + word


def _empty(source: Any) -> ValueError:
    return value_error("There are no examples.", fix="Pass at least one.", source=source)
