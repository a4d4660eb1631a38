"""Trains a tagger: a label for each word, here for names of persons and places.

    python examples/06_tag.py --output saved_models/names

Without `--data` the sentences and names are synthetic: held-out names never occur in training, so
the model must use the words before them. GPT-2 reads from left to right, so each word is labelled
at its last token. `--data` is a file of JSON lines with `words` and `labels`, lists of the same
length.
"""

import json
import random
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
import typer

from tfgpt2 import TFGPT2ForTokenClassification, TFGPT2Tokenizer, export_task
from tfgpt2.training.data import tagging_dataset

SYLLABLES = "ro me ju li ham let ver na man tu pa du bel mar".split()
PATTERNS = [
    "My good lord {person} comes from {place}",
    "Go to {place} and speak with lord {person}",
    "In {place} I saw the old man , and lord {person} too",
    "Farewell , sweet lady {person} ; I ride to {place}",
    "Is lady {person} gone from {place} ?",
    "The duke lives in {place} with lady {person}",
]


def synthetic_rows(count: int, seed: int) -> tuple[list[dict], list[dict]]:
    """Training sentences, and a fifth as many with other names."""
    draw, known = random.Random(seed), set()

    def sentence(*, new: bool) -> dict:
        names = {}
        for kind in ("{person}", "{place}"):
            while kind not in names or new and names[kind] in known:
                names[kind] = "".join(draw.sample(SYLLABLES, draw.choice([2, 2, 3]))).capitalize()
        if not new:
            known.update(names.values())
        pattern = draw.choice(PATTERNS).split()
        labels = [word.strip("{}") if word in names else "other" for word in pattern]
        return {"words": [names.get(word, word) for word in pattern], "labels": labels}

    rows = [sentence(new=False) for _ in range(count)]
    return rows, [sentence(new=True) for _ in range(max(20, count // 5))]


def accuracies(model: TFGPT2ForTokenClassification, data: tf.data.Dataset, other: int) -> tuple:
    """Accuracy on all words, and on the names alone."""
    correct, names = [], []
    for batch in data:
        labels = batch["labels"].numpy()  # [B, T], -100 except at the last token of a word
        chosen = np.argmax(model.predict_on_batch(batch)["logits"], axis=-1)  # [B, T]
        scored = labels >= 0
        correct.extend((chosen == labels)[scored])
        names.extend((labels != other)[scored])
    correct, names = np.array(correct), np.array(names)
    return correct.mean(), correct[names].mean()


def main(
    output: Annotated[Path, typer.Option(help="Model directory, in which a version is created.")],
    data: Annotated[Path | None, typer.Option(help="JSON lines with words and labels.")] = None,
    model: str = "shakespeare-tiny",
    rows: Annotated[int, typer.Option(help="Number of training sentences.")] = 300,
    max_length: Annotated[int, typer.Option(help="Maximum tokens of a sentence.")] = 64,
    batch: int = 16,
    epochs: int = 2,
    learning_rate: float = 3e-4,
    seed: int = 0,
) -> None:
    """Trains, evaluates on held-out sentences, exports, and tags a sentence with the export."""
    keras.utils.set_random_seed(seed)
    if data is None:
        known, unknown = synthetic_rows(rows, seed)
    else:
        lines = [json.loads(line) for line in data.read_text("utf-8").splitlines() if line]
        known, unknown = lines[: len(lines) * 4 // 5][:rows], lines[len(lines) * 4 // 5 :]
    labels = sorted({label for row in known + unknown for label in row["labels"]})
    tokenizer = TFGPT2Tokenizer.from_pretrained(model)
    tagger = TFGPT2ForTokenClassification.from_pretrained(model, id2label=dict(enumerate(labels)))
    options = {"label_names": labels, "label_on": "last"}
    train = tagging_dataset(known, tokenizer, max_length, batch, seed=seed, **options)
    test = tagging_dataset(unknown, tokenizer, max_length, batch, shuffle=False, **options)
    tagger.compile(keras.optimizers.AdamW(learning_rate))
    tagger.fit(train, epochs=epochs, validation_data=test, shuffle=False, verbose=2)
    words, names = accuracies(tagger, test, labels.index("other") if "other" in labels else -1)

    path = export_task(tagger, tokenizer, output, version="next").path
    sentence = " " + " ".join(unknown[0]["words"])  # words were tokenized with a space before them
    loaded = tf.saved_model.load(str(path))
    tagged = loaded.tag(tf.constant([sentence]))
    word, pieces = b"", [*tagged["tokens_bytes"][0].numpy(), b" "]
    for piece, after, label in zip(pieces, pieces[1:], tagged["labels"][0].numpy(), strict=False):
        word += piece
        if after.startswith(b" "):  # only the last token of a word was trained
            print(f"{word.decode(errors='replace'):>12}  {label.decode()}")
            word = b""
    print(f"held-out accuracy {words:.3f} of words, {names:.3f} of names; exported to {path}")


if __name__ == "__main__":
    typer.run(main)
