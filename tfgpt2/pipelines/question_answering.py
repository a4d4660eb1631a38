"""The pipeline "question-answering"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgpt2.errors import type_error, value_error
from tfgpt2.models.task_heads import TFGPT2ForQuestionAnswering
from tfgpt2.pipelines.base import Pipeline, softmax
from tfgpt2.tokenizers.batch_encoding import BatchEncoding

_RULED_OUT = -10_000.0
Answer = dict[str, Any]


class QuestionAnsweringPipeline(Pipeline):
    """Finds answers to questions in texts.

    Returns, for each question, `score`, `start` and `end` in the context, and `answer`; a list of
    those with `top_k` above 1.

    Source: transformers 4.57, `pipelines/question_answering.py` (behaviour).
    """

    task = "question-answering"
    model_class = TFGPT2ForQuestionAnswering

    def __call__(
        self, inputs: Any = None, *, question: Any = None, context: Any = None, **options: Any
    ) -> Any:
        """Answers questions.

        Args:
            inputs: A dict of `question` and `context`, or a list of such dicts.
            question: A question, or a list of them, instead.
            context: A text for all questions, or a list with one for each.
            **options: See `run`.
        """
        if inputs is not None:
            return super().__call__(inputs, **options)
        questions = [question] if isinstance(question, str) else question
        if not isinstance(questions, (list, tuple)) or context is None:
            raise type_error(
                "A question and a context belong together.",
                fix="Pass question=... and context=..., or a dict of both.",
                question=question,
                context=context,
            )
        contexts = [context] * len(questions) if isinstance(context, str) else context
        if len(contexts) != len(questions):
            raise value_error(
                "There must be one context for all questions, or one for each.",
                fix="Pass lists of the same length.",
                question=len(questions),
                context=len(contexts),
            )
        pairs = [{"question": a, "context": b} for a, b in zip(questions, contexts, strict=True)]
        return super().__call__(pairs[0] if isinstance(question, str) else pairs, **options)

    def run(
        self,
        one: Mapping[str, str],
        *,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Answer | list[Answer]:
        """Answers one question.

        Args:
            one: A dict of `question` and `context`.
            top_k: How many answers.
            doc_stride: Tokens that parts of a long context share.
            max_answer_len: Most tokens of an answer.
            max_seq_len: Most tokens of a part, the question's included.
            max_question_len: Most tokens of the question.
            handle_impossible_answer: Whether there may be no answer.
            align_to_words: Whether answers are whole words.
        """
        question, context = _texts(one)
        limit = min(self.tokenizer.model_max_length, self.model.config.n_positions, 384)
        limit = limit if max_seq_len is None else max_seq_len
        stride = min(limit // 2, 128) if doc_stride is None else doc_stride
        asked = self.tokenizer.encode(question, add_special_tokens=False)
        if len(asked) > max_question_len:
            question = self.tokenizer.decode(asked[:max_question_len])
        encoded = self.tokenizer(
            [question], [context], truncation="only_second", max_length=limit,
            stride=min(stride, max(limit - len(asked) - 1, 0)), return_overflowing_tokens=True,
        )  # fmt: skip
        answers: list[Answer] = []
        nothing = 1e6
        for number, row in enumerate(encoded.encodings):
            inputs = {"input_ids": row.ids, "attention_mask": row.attention_mask}
            out = self.forward(inputs)
            allowed = np.array([text == 1 for text in row.sequence_ids])
            start, end = (
                softmax(np.where(allowed, x.numpy()[0], _RULED_OUT))
                for x in (out.start_logits, out.end_logits)
            )
            nothing = min(nothing, float(start[0] * end[0]))
            start[0] = end[0] = 0.0
            count = top_k * 2 + 10 if align_to_words else top_k
            for first, last, score in _spans(start, end, count, max_answer_len, allowed):
                place = _place(encoded, number, first, last, align_to_words)
                _add(answers, context, place, score)
        if handle_impossible_answer:
            answers.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
        answers = sorted(answers, key=lambda answer: answer["score"], reverse=True)[:top_k]
        return answers[0] if len(answers) == 1 else answers


def _texts(one: Any) -> tuple[str, str]:
    """Question and context of an input."""
    texts = tuple(one.get(name) for name in ("question", "context")) if isinstance(
        one, Mapping) else (None, None)  # fmt: skip
    if not all(isinstance(text, str) and text for text in texts):
        raise type_error(
            "A question and a context are texts, and not empty.",
            fix='Pass {"question": "Who?", "context": "..."}.',
            inputs=one,
        )
    return texts


def _spans(
    start: np.ndarray, end: np.ndarray, count: int, longest: int, allowed: np.ndarray
) -> list[tuple[int, int, float]]:
    """The likeliest spans of at most so many tokens: first token, last token, score."""
    scores = np.tril(np.triu(np.outer(start, end)), longest - 1)  # [T, T]
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    firsts, lasts = np.unravel_index(order, scores.shape)
    return [(int(a), int(b), float(scores[a, b])) for a, b in zip(firsts, lasts, strict=True)
            if allowed[a] and allowed[b]]  # fmt: skip


def _place(encoded: BatchEncoding, row: int, first: int, last: int, align: bool) -> tuple[int, int]:
    """Start and end of a span in the context, in characters."""
    if align:
        words = [encoded.token_to_word(row, token) for token in (first, last)]
        spans = [encoded.word_to_chars(row, word, sequence_index=1) for word in words]
        if None not in spans:
            return spans[0].start, spans[1].end
    offsets = encoded.encodings[row].offsets
    return offsets[first][0], offsets[last][1]


def _add(answers: list[Answer], context: str, place: tuple[int, int], score: float) -> None:
    """Adds an answer, or its score to an equal one."""
    text = context[slice(*place)]
    for answer in answers:
        if answer["answer"].lower() == text.lower():
            answer["score"] += score
            return
    answers.append({"score": score, "start": place[0], "end": place[1], "answer": text})
