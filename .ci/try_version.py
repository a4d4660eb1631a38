"""What every supported version must do; run by `.ci/versions` with the Python of an environment."""

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

import tfgpt2  # noqa: E402

GREEDY = [[335, 470, 366, 12], [199, 41, 458, 322]]  # of the bundled model, on every version


def check(holds: bool, what: str) -> None:
    """Prints what was tried, and ends the program where it failed."""
    print(f"  {'ok' if holds else 'FAILED'}: {what}", flush=True)
    if not holds:
        sys.exit(1)


def main() -> None:
    """Tokenizes, generates, exports, trains, saves and loads."""
    names = ("tensorflow", "tensorflow-text", "keras", "keras-hub", "numpy")
    print(f"Python {sys.version.split()[0]},", ", ".join(f"{n} {version(n)}" for n in names))
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    text = "Größe 日本 \n\n x"
    back = tokenizer.detokenize(tokenizer.tokenize(text)).numpy().decode()
    check(back == text, "tokenizer")
    model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
    batch = tokenizer(["To be, or", "KING:"])
    ids = model.generate(**batch, max_new_tokens=4, do_sample=False).numpy()
    check(ids[:, -4:].tolist() == GREEDY, "compiled generation")
    model.generate(**batch, max_new_tokens=4, do_sample=False, num_beams=2)
    generator = tfgpt2.TextGenerator(model, tokenizer)
    text = generator.generate("ROMEO:\n", max_new_tokens=8, seed=1)
    check(text == "For, then, that was dr", "sampling with a seed")
    folder = Path(tempfile.mkdtemp())
    report = generator.export(
        folder / "1",
        signatures=["serving_default", "generate"],
        batch_sizes=[1],
        prompt_buckets=[32],
        output_buckets=[16],
        max_new_tokens=16,
    )
    check(report.checked, "export, compared with the live model by a clean process")
    config = tfgpt2.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8)
    small = tfgpt2.TFGPT2LMHeadModel(config)
    ids = tf.random.stateless_uniform([4, 8], [1, 2], 0, 20, tf.int32)
    small.compile("adam")
    data = tf.data.Dataset.from_tensors({"input_ids": ids, "labels": ids}).repeat(3)
    losses = small.fit(data, epochs=2, verbose=0).history["loss"]
    check(losses[1] < losses[0], "fit")
    small.save_pretrained(folder / "small")
    loaded = tfgpt2.TFGPT2LMHeadModel.from_pretrained(folder / "small")
    check(bool((loaded(ids).logits.numpy() == small(ids).logits.numpy()).all()), "save and load")
    generator.save(folder / "generator.keras")
    again = keras.models.load_model(folder / "generator.keras")
    check(again.generate("ROMEO:\n", max_new_tokens=8, seed=1) == text, ".keras file")


if __name__ == "__main__":
    main()
