"""Filling in: LAMBADA's last word, and multiple choice by log-likelihood."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tfgpt2.errors import explain, nearest
from tfgpt2.evaluation.perplexity import read_text
from tfgpt2.evaluation.scoring import Request, Scorer, continuation


@dataclasses.dataclass(frozen=True)
class Lambada:
    """How often a model finds the last word of a passage.

    Attributes:
        accuracy: Share of passages where greedy decoding gives all tokens of the last word.
        perplexity: `exp` of the mean negative log-likelihood of a last *word* (not of a token).
        passages: How many.
    """

    accuracy: float
    perplexity: float
    passages: int


@dataclasses.dataclass(frozen=True)
class Choices:
    """How often the right choice is the likeliest, under four ways to compare choices.

    Attributes:
        accuracy: By log-likelihood; lm-evaluation-harness' `acc`.
        accuracy_per_token: By log-likelihood divided by the choice's tokens.
        accuracy_per_byte: Divided by the choice's bytes in UTF-8; the harness' `acc_bytes`.
        accuracy_per_character: Divided by its characters; the harness' `acc_norm`, which is the
            same for ASCII.
        questions: How many.
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
        context: What comes before the choice; may be empty.
        choices: Two or more continuations.
        answer: Index of the right one.
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
    """Measures the accuracy on LAMBADA, the variant of OpenAI.

    That variant takes the texts as they are (with punctuation, case and line breaks, not tokenized
    as in the original data), has no stop-word filter, and asks for the last word: what stands
    after the last space, with that space, so that `" word"` is scored after all that is before
    it. Task `lambada_openai` of lm-evaluation-harness is the same.

    Args:
        model: A `TFGPT2LMHeadModel`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        source: Path of a JSONL file whose objects have a `"text"`, or the texts themselves.
        limit: Only the first so many passages.
        batch_size: Passages read at once.
        jit_compile: Whether XLA compiles the programs.
        progress: Show a bar on standard error, or on a console.

    Returns:
        The `Lambada`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no object with a text, or a passage is one word.

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
    """Measures how often a model finds the right choice the likeliest continuation.

    Args:
        model: A `TFGPT2LMHeadModel`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        source: Path of a JSONL file with `{"context": ..., "choices": [...], "answer": index}`, or
            `Question` records.
        delimiter: Put between a context and a choice, and scored with the choice; it does not
            count as length. After an empty context it is left out.
        limit: Only the first so many questions.
        batch_size: Choices read at once.
        jit_compile: Whether XLA compiles the programs.
        progress: Show a bar on standard error, or on a console.

    Returns:
        The `Choices`; of equal choices the first counts.

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
    requests = encode_pairs(tokenizer, pairs, scorer.context, start_id=model.config.bos_token_id)
    scores = iter(scorer.score(requests, progress=progress))
    counts = iter(len(request.targets) for request in requests)
    right = []
    for question in questions:
        totals = np.array([next(scores).total for _ in question.choices])
        lengths = (
            np.ones(len(totals)),
            [next(counts) for _ in question.choices],
            [len(choice.encode("utf-8")) for choice in question.choices],
            [len(choice) for choice in question.choices],
        )
        right.append([np.argmax(totals / np.array(n)) == question.answer for n in lengths])
    return Choices(*(float(share) for share in np.mean(right, axis=0)), len(questions))


def encode_pairs(
    tokenizer: Any, pairs: Sequence[tuple[str, str]], limit: int, *, start_id: int | None
) -> list[Request]:
    """Tokenizes contexts and their continuations as lm-evaluation-harness does.

    Spaces at the end of a context belong to the continuation; the whole is tokenized at once, and
    what is beyond the number of tokens of the context alone is the continuation.

    Args:
        tokenizer: A `TFGPT2Tokenizer`.
        pairs: Contexts and continuations.
        limit: The model's context.
        start_id: What an empty context stands for.

    Raises:
        ValueError: A continuation has no token or too many, or there is nothing before it.

    Source: lm-evaluation-harness 0.4, `api/model.py::TemplateLM._encode_pair`.
    """
    moved = []
    for context, rest in pairs:
        kept = context.rstrip()
        moved.append((kept, context[len(kept) :] + rest) if kept else ("", context + rest))
    wholes = tokenizer.tokenize([context + rest for context, rest in moved]).to_list()
    starts = tokenizer.tokenize([context for context, _ in moved]).row_lengths().numpy()
    requests = []
    for whole, count in zip(wholes, starts, strict=True):
        if count:
            requests.append(continuation(whole[:count], whole[count:], limit))
        elif start_id is not None and 0 <= start_id:
            requests.append(continuation([start_id], whole, limit))
        else:
            raise ValueError(
                explain(
                    "An empty context needs a start token, and the model has none.",
                    fix="Give each question a context.",
                    bos_token_id=start_id,
                )
            )
    return requests


def read_lines(source: str | os.PathLike[str]) -> list[tuple[int, Mapping[str, Any]]]:
    """Reads a JSONL file: the number of each line that is not empty, and its object.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no JSON object, or the file is not UTF-8.
    """
    rows = []
    for number, line in enumerate(read_text(Path(source)).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _bad_line(source, number, f"is not JSON ({error})", line) from error
        if not isinstance(row, dict):
            raise _bad_line(source, number, "is no object", line)
        rows.append((number, row))
    return rows


def _field(row: Mapping[str, Any], name: str, kind: type, line: int, source: Any) -> Any:
    """One field of a line, of the right type."""
    if not isinstance(row.get(name), kind) or isinstance(row.get(name), bool):
        problem = f"has no {kind.__name__} {name!r}"
        if name not in row and row:
            problem += f". {nearest(name, row)[:-1]}"
        raise _bad_line(source, line, problem, row)
    return row[name]


def _question(row: Mapping[str, Any], line: int, source: Any) -> Question:
    return Question(
        _field(row, "context", str, line, source),
        _field(row, "choices", list, line, source),
        _field(row, "answer", int, line, source),
    )


def _check_question(question: Question, number: int) -> None:
    """Checks that a question has choices, and a right one among them."""
    count = len(question.choices)
    good = count >= 2 and all(isinstance(one, str) and one for one in question.choices)
    if not good or not 0 <= question.answer < count:
        raise ValueError(
            explain(
                f"Question {number} must have two or more choices that are not empty, and `answer`"
                " must be the index of one of them, from 0.",
                fix='Write {"context": "...", "choices": ["...", "..."], "answer": 0}.',
                choices=question.choices,
                answer=question.answer,
            )
        )


def _last_word(text: str, number: int) -> tuple[str, str]:
    """Splits a passage before its last space."""
    context, space, word = text.rpartition(" ")
    if not context.strip() or not word:
        raise ValueError(
            explain(
                f"Passage {number} must be words with spaces between, the last one to be found.",
                fix="Take it out, and spaces at its end, too.",
                text=text,
            )
        )
    return context, space + word


def _bad_line(source: Any, number: int, problem: str, line: Any) -> ValueError:
    return ValueError(
        explain(
            f"Line {number} of the file {problem}.",
            fix="Write one JSON object on each line, in UTF-8.",
            path=str(source),
            line=line,
        )
    )


def _empty(source: Any) -> ValueError:
    return ValueError(
        explain("There is nothing to evaluate on.", fix="Give at least one example.", source=source)
    )
