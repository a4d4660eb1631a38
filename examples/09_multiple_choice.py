"""Trains two heads at once: multiple choice and language modeling.

    python examples/09_multiple_choice.py --output my-chooser

`TFGPT2DoubleHeadsModel` reads each choice as a separate text and scores it at its end token. Its
language modeling head is trained on the correct choices. Without `--data` the rows are synthetic:
the correct choice mentions the same thing as the prompt, and held-out rows combine things that are
never combined in training. `--data` is a file of JSON lines with `prompt`, `choices` and `label`
(from 0).
"""

import json
import random
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
import typer

from tfgpt2 import TFGPT2DoubleHeadsModel, TFGPT2Tokenizer
from tfgpt2.training.data import multiple_choice_dataset

THINGS = [
    "sword", "crown", "ring", "letter", "horse", "ship", "house", "book", "rose", "cup",
    "heart", "son",
]  # fmt: skip
PROMPTS = [
    "ROMEO:\nI have lost my {thing}.\n\nJULIET:\n",
    "KING:\nWho took the {thing}?\n\nDUKE:\n",
    "HAMLET:\nBring me thy {thing}.\n\nSERVANT:\n",
]
CHOICE = "Here is the {thing}, my lord."


def synthetic_rows(count: int, choices: int, seed: int, *, held_out: bool) -> list[dict]:
    """Requests for a thing, with that thing and others as choices."""
    draw, rows = random.Random(f"{seed} {held_out}"), []
    while len(rows) < count:
        things = draw.sample(range(len(THINGS)), choices)
        label = draw.randrange(choices)
        # One pair of things in four occurs in held-out rows only.
        pairs = [(things[label] + 3 * other) % 4 == 0 for other in things if other != things[label]]
        if all(pairs) if held_out else not any(pairs):
            rows.append({
                "prompt": draw.choice(PROMPTS).format(thing=THINGS[things[label]]),
                "choices": [CHOICE.format(thing=THINGS[thing]) for thing in things],
                "label": label,
            })  # fmt: skip
    return rows


def accuracy(model: TFGPT2DoubleHeadsModel, data: tf.data.Dataset) -> float:
    """Share of the rows whose correct choice has the highest score."""
    correct = [
        np.argmax(model.predict_on_batch(batch)["mc_logits"], axis=-1) == batch["mc_labels"]
        for batch in data
    ]
    return float(np.mean(np.concatenate(correct)))


def main(
    output: Annotated[Path, typer.Option(help="Directory for the checkpoint.")],
    data: Annotated[Path | None, typer.Option(help="JSON lines.")] = None,
    model: str = "shakespeare-tiny",
    rows: Annotated[int, typer.Option(help="Number of training rows.")] = 300,
    choices: Annotated[int, typer.Option(help="Choices of a synthetic row.")] = 3,
    max_length: Annotated[int, typer.Option(help="Maximum tokens of a choice.")] = 64,
    batch: int = 8,
    epochs: int = 2,
    learning_rate: float = 3e-4,
    seed: int = 0,
) -> None:
    """Trains, evaluates on held-out rows, and saves the model."""
    keras.utils.set_random_seed(seed)
    if data is None:
        known = synthetic_rows(rows, choices, seed, held_out=False)
        unknown = synthetic_rows(max(24, rows // 10), choices, seed, held_out=True)
    else:
        lines = [json.loads(line) for line in data.read_text("utf-8").splitlines() if line]
        known, unknown = lines[: len(lines) * 4 // 5][:rows], lines[len(lines) * 4 // 5 :]
    tokenizer = TFGPT2Tokenizer.from_pretrained(model)
    chooser = TFGPT2DoubleHeadsModel.from_pretrained(model)
    options = {"lm_labels": True, "pad_to_multiple_of": 16}
    train = multiple_choice_dataset(known, tokenizer, max_length, batch, seed=seed, **options)
    test = multiple_choice_dataset(unknown, tokenizer, max_length, batch, shuffle=False, **options)
    before = accuracy(chooser, test)
    chooser.compile(keras.optimizers.AdamW(learning_rate))  # the sum of both heads' losses
    chooser.fit(train, epochs=epochs, validation_data=test, shuffle=False, verbose=2)

    row = unknown[0]
    batch_of_one = next(iter(multiple_choice_dataset([row], tokenizer, max_length, 1)))
    scores = tf.nn.softmax(chooser.predict_on_batch(batch_of_one)["mc_logits"][0])
    print(row["prompt"].rstrip())
    for choice, score in zip(row["choices"], scores.numpy(), strict=True):
        print(f"  {score:.3f}  {choice.strip()}")
    print(f"held-out accuracy {before:.3f} -> {accuracy(chooser, test):.3f}"
          f" on {len(unknown)} rows of {len(row['choices'])} choices")  # fmt: skip
    chooser.save_pretrained(output)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    typer.run(main)
