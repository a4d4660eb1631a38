"""Trains a classifier on strings, and exports it with labels and scores as outputs.

    python examples/05_classify.py --output saved_models/mood

The tokenizer is the first layer of a Keras Functional model, so `fit` takes texts. Without
`--data` the texts are synthetic: glad and sad lines, of which one in five is held out. `--data` is
a file of JSON lines with `text` and `label`.
"""

import itertools
import json
import random
from pathlib import Path
from typing import Annotated

import keras
import tensorflow as tf
import typer

from tfgpt2 import TFGPT2ForSequenceClassification, TFGPT2Tokenizer, export_task

WHO = ["I", "my lord", "the king", "our cousin", "the queen", "my brother", "the old man"]
WHEN = ["this day", "at last", "to-night", "in the morning", "as I came home", "for ever"]
MOODS = {
    "glad": ["laughed aloud", "sang with joy", "smiled on us", "danced and sang",
             "was merry and glad", "was blest with joy", "made sweet music"],
    "sad": ["wept aloud", "mourned with tears", "frowned on us", "wept and died",
            "was weary and sad", "was cursed with grief", "made bitter moan"],
}  # fmt: skip


def synthetic_rows() -> list[dict[str, str]]:
    """Every combination of who, what and when, in a fixed random order."""
    rows = [
        {"text": f"{who} {what} {when}.", "label": mood}
        for mood, whats in MOODS.items()
        for who, what, when in itertools.product(WHO, whats, WHEN)
    ]
    random.Random(0).shuffle(rows)
    return rows


def main(
    output: Annotated[Path, typer.Option(help="Model directory, in which a version is created.")],
    data: Annotated[Path | None, typer.Option(help="JSON lines with text and label.")] = None,
    model: str = "shakespeare-tiny",
    rows: Annotated[int, typer.Option(help="Maximum number of rows.")] = 2000,
    batch: int = 16,
    epochs: int = 3,
    learning_rate: float = 3e-4,
    seed: int = 0,
) -> None:
    """Trains on four of five rows, evaluates on the others, exports, and runs the export."""
    keras.utils.set_random_seed(seed)
    if data is None:
        examples = synthetic_rows()
    else:
        examples = [json.loads(line) for line in data.read_text("utf-8").splitlines() if line]
    examples = examples[:rows]
    names = sorted({row["label"] for row in examples})
    texts = [row["text"] for row in examples]
    labels = [names.index(row["label"]) for row in examples]
    cut = len(examples) * 4 // 5

    tokenizer = TFGPT2Tokenizer.from_pretrained(model)
    classifier = TFGPT2ForSequenceClassification.from_pretrained(
        model, id2label=dict(enumerate(names))
    )
    text = keras.Input((), dtype="string")
    whole = keras.Model(text, classifier(tokenizer(text))["logits"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    whole.compile(
        keras.optimizers.AdamW(learning_rate), loss, metrics=["accuracy"],
        jit_compile=False,  # XLA does not support strings
    )  # fmt: skip
    pairs = tf.data.Dataset.from_tensor_slices((texts, labels))
    train, test = pairs.take(cut), pairs.skip(cut).batch(batch)
    train = train.shuffle(cut, seed=seed).batch(batch)
    whole.fit(train, epochs=epochs, validation_data=test, shuffle=False, verbose=2)
    accuracy = whole.evaluate(test, verbose=0, return_dict=True)["accuracy"]

    # The export contains the label names, the weights and the vocabulary.
    path = export_task(classifier, tokenizer, output, version="next").path
    loaded = tf.saved_model.load(str(path))
    answer = loaded.classify(tf.constant(texts[cut : cut + 5]))
    for line, label, scores in zip(texts[cut:], answer["label"], answer["scores"], strict=False):
        print(f"{label.numpy().decode():>8}  {max(scores):.3f}  {line}")
    print(f"held-out accuracy {accuracy:.3f} on {len(examples) - cut} texts; exported to {path}")


if __name__ == "__main__":
    typer.run(main)
