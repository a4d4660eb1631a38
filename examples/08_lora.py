"""Trains a low-rank adapter for a new style, next to the unchanged base model.

    python examples/08_lora.py --text my-author.txt --output my-author-lora

The adapter adds a few thousand parameters to the frozen model. It is saved in PEFT's format,
switched on and off without recompilation, and finally merged into a full model.
"""

from pathlib import Path
from typing import Annotated

import keras
import tensorflow as tf
import typer

from tfgpt2 import TextGenerator
from tfgpt2.training import lora


def windows(ids: tf.Tensor, length: int, batch: int) -> tf.data.Dataset:
    """Divides the ids of a text into windows `[batch, length]` that overlap by half."""
    frames = tf.signal.frame(ids, length, max(1, length // 2))  # [windows, T]
    dataset = tf.data.Dataset.from_tensor_slices({"input_ids": frames, "labels": frames})
    return dataset.shuffle(len(frames), seed=0).batch(batch, drop_remainder=True)


def main(
    text: Annotated[Path, typer.Option(help="UTF-8 training text.")],
    output: Annotated[Path, typer.Option(help="Directory for the adapter.")],
    model: str = "shakespeare-tiny",
    rank: int = 8,
    alpha: float = 16,
    targets: Annotated[
        str, typer.Option(help="Projections, separated by commas.")
    ] = "c_attn,c_proj,c_fc",
    length: int = 64,
    batch: int = 8,
    epochs: int = 3,
    learning_rate: float = 3e-3,
    prompt: str = "ROMEO:\n",
) -> None:
    """Trains and saves an adapter, and generates with and without it."""
    keras.utils.set_random_seed(0)
    generator = TextGenerator.from_pretrained(model)
    base, tokenizer = generator.model, generator.tokenizer

    lora.enable_lora(base, rank, alpha, targets=targets.split(","), name="style")
    lora.print_trainable_parameters(base)
    base.compile(keras.optimizers.AdamW(learning_rate, weight_decay=0.0))
    data = windows(tokenizer.tokenize(text.read_text(encoding="utf-8")), length, batch)
    history = base.fit(data, epochs=epochs, shuffle=False, verbose=2)  # shuffled already
    print(f"loss {history.history['loss'][0]:.3f} -> {history.history['loss'][-1]:.3f}")
    lora.save_adapter(base, output, base=model)
    print(f"adapter: {sum(path.stat().st_size for path in output.iterdir()):,} bytes in {output}")

    # A generator made after the adapter was added uses it; switching does not recompile.
    generator = TextGenerator(base, tokenizer)
    for name in (None, "style"):
        lora.set_adapter(base, name)
        written = generator.generate(prompt, temperature=0, max_new_tokens=40)
        print(f"--- {name or 'base'}\n{prompt}{written}")

    lora.unload_adapters(base, merge=True)  # a plain model, with the style merged into its kernels
    TextGenerator(base, tokenizer).save_pretrained(output / "merged")


if __name__ == "__main__":
    typer.run(main)
