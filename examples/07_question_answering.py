"""Trains a model for extractive question answering, and exports it.

    python examples/07_question_answering.py --output saved_models/answers

Without `--data` the texts are synthetic: three facts about a person in any order, and a question
about one of them. Held-out questions have answers that are never paired with that person in
training. `--data` is a file of JSON lines with `question`, `context` and `answers`
(`{"text": [...], "answer_start": [...]}`), as in SQuAD.
"""

import json
import random
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
import typer

from tfgpt2 import TFGPT2ForQuestionAnswering, TFGPT2Tokenizer, export_task
from tfgpt2.training.data import qa_dataset

PERSONS = [
    "Romeo", "Juliet", "Hamlet", "Tybalt", "Paris", "Oberon", "Brutus", "Cassius", "Iago", "Portia",
]  # fmt: skip
FACTS = {
    "Where lives {person}?": (" {person} lives in {answer}.", [
        "Verona", "Mantua", "Venice", "Rome", "Athens", "Padua", "London", "Milan", "York", "Dover",
    ]),
    "What keeps {person}?": (" {person} keeps a {answer}.", [
        "dog", "horse", "hawk", "cat", "lion", "bear", "wolf", "fox", "mouse", "toad",
    ]),
    "Who loves {person}?": (" {person} is loved by the {answer}.", [
        "king", "queen", "duke", "priest", "fool", "nurse", "knight", "friar", "prince", "people",
    ]),
}  # fmt: skip


def synthetic_rows(count: int, seed: int, *, held_out: bool) -> list[dict]:
    """Rows of three facts and a question; the pairs of person `n` and answer `n` are held out."""
    draw, rows = random.Random(f"{seed} {held_out}"), []
    for _ in range(count):
        who = draw.randrange(10)
        asked, order = draw.choice(list(FACTS)), draw.sample(list(FACTS), 3)
        chosen = {question: draw.randrange(10) for question in order}
        if held_out or chosen[asked] == who:
            chosen[asked] = who if held_out else (who + 1) % 10
        context, start, answer = "", 0, ""
        for question in order:
            pattern, answers = FACTS[question]
            fact = pattern.format(person=PERSONS[who], answer=answers[chosen[question]])
            if question == asked:
                answer = answers[chosen[question]]
                start = len(context) + fact.rindex(answer)
            context += fact
        rows.append({
            "question": asked.format(person=PERSONS[who]),
            "context": context,
            "answers": {"text": [answer], "answer_start": [start]},
        })  # fmt: skip
    return rows


def exact_matches(answers: dict[str, tf.Tensor], rows: list[dict]) -> float:
    """Share of the answers that equal the first reference answer, ignoring outer white space."""
    given = [text.decode().strip(" .") for text in answers["text"].numpy()]
    return float(np.mean([
        text == row["answers"]["text"][0] for text, row in zip(given, rows, strict=True)
    ]))  # fmt: skip


def main(
    output: Annotated[Path, typer.Option(help="Model directory, in which a version is created.")],
    data: Annotated[Path | None, typer.Option(help="JSON lines as in SQuAD.")] = None,
    model: str = "shakespeare-tiny",
    rows: Annotated[int, typer.Option(help="Number of training questions.")] = 600,
    max_length: Annotated[int, typer.Option(help="Maximum tokens of question and text.")] = 96,
    batch: int = 16,
    epochs: int = 2,
    learning_rate: float = 5e-4,
    seed: int = 0,
) -> None:
    """Trains, exports, and evaluates the export on the held-out questions."""
    keras.utils.set_random_seed(seed)
    if data is None:
        known = synthetic_rows(rows, seed, held_out=False)
        unknown = synthetic_rows(max(20, rows // 10), seed, held_out=True)
    else:
        lines = [json.loads(line) for line in data.read_text("utf-8").splitlines() if line]
        known, unknown = lines[: len(lines) * 4 // 5][:rows], lines[len(lines) * 4 // 5 :]
    tokenizer = TFGPT2Tokenizer.from_pretrained(model)
    reader = TFGPT2ForQuestionAnswering.from_pretrained(model)
    train = qa_dataset(known, tokenizer, max_length, batch, seed=seed, pad_to_multiple_of=16)
    test = qa_dataset(unknown, tokenizer, max_length, batch, shuffle=False)
    reader.compile(keras.optimizers.AdamW(learning_rate))
    reader.fit(train, epochs=epochs, validation_data=test, shuffle=False, verbose=2)

    path = export_task(reader, tokenizer, output, version="next").path
    asked = [tf.constant([row[name] for row in unknown]) for name in ("question", "context")]
    loaded = tf.saved_model.load(str(path))
    answers = loaded.answer(*asked)
    for row, text, score in zip(unknown[:5], answers["text"], answers["score"], strict=False):
        print(
            f"{row['context'].strip()}\n  {row['question']}{text.numpy().decode()}  ({score:.3f})"
        )
    exact = exact_matches(answers, unknown)
    print(f"held-out exact match {exact:.3f} of {len(unknown)} questions; exported to {path}")


if __name__ == "__main__":
    typer.run(main)
