"""Fine-tunes a model on the text of one author, and generates samples before and after.

    python examples/03_fine_tune_an_author.py --text my-author.txt --output my-author

The last tenth of the text is held out, and the weights with the lowest loss on it are kept: those
from before the training if no epoch was better, as with a text that the model was trained on. With
`--separator`, for example between poems or songs, each piece is a separate document.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import keras
import typer

from tfgpt2 import TextGenerator
from tfgpt2.training.data import lm_dataset

HELD_OUT = 0.1


def split(text: str, separator: str | None) -> tuple[list[str], list[str]]:
    """Splits a text into pieces for training and the held-out last tenth."""
    if separator is None:
        cut = text.rfind(" ", 0, int(len(text) * (1 - HELD_OUT)))
        return [text[:cut]], [text[cut:]]
    pieces = [piece for piece in text.split(separator) if piece.strip()]
    cut = max(1, int(len(pieces) * (1 - HELD_OUT)))
    return pieces[:cut], pieces[cut:]


def main(
    text: Annotated[Path, typer.Option(help="UTF-8 text of the author.")],
    output: Annotated[Path, typer.Option(help="Directory for the checkpoint.")],
    model: str = "shakespeare-tiny",
    separator: Annotated[
        str | None, typer.Option(help="Separator of pieces, such as '\\n\\n'.")
    ] = None,
    block_size: Annotated[int, typer.Option(help="Tokens of an example.")] = 128,
    batch: int = 8,
    epochs: int = 5,
    learning_rate: float = 5e-4,
    prompt: Annotated[str, typer.Option(help="Prompt of the samples.")] = "The ",
    max_new_tokens: int = 60,
    seed: int = 0,
) -> None:
    """Trains and saves the model, and generates samples before and after."""
    keras.utils.set_random_seed(seed)
    generator = TextGenerator.from_pretrained(model)
    network, tokenizer = generator.model, generator.tokenizer
    separator = separator and separator.replace("\\n", "\n")  # as a shell passes it
    known, unknown = split(text.read_text(encoding="utf-8"), separator)
    # With a separator, tokens attend to their own piece only.
    separate = separator is not None
    train = lm_dataset(known, tokenizer, block_size, batch, seed=seed, document_mask=separate)
    test = lm_dataset(unknown, tokenizer, block_size, batch, shuffle=False, keep_tail=True,
                      document_mask=separate)  # fmt: skip
    written = [generator.generate(prompt, max_new_tokens=max_new_tokens, seed=seed)]

    steps = len(train) * epochs
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps, alpha=0.1)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "ln_", "wpe"])
    network.compile(optimizer)  # no loss: the model computes it from the labels in the data
    before, start = network.evaluate(test, verbose=0), network.get_weights()
    with tempfile.TemporaryDirectory() as directory:
        best = Path(directory) / "best.weights.h5"
        keep = keras.callbacks.ModelCheckpoint(
            best, monitor="val_loss", save_best_only=True, save_weights_only=True,
            initial_value_threshold=before,
        )  # fmt: skip
        network.fit(train, epochs=epochs, validation_data=test, callbacks=[keep], shuffle=False,
                    verbose=2)  # fmt: skip
        if best.exists():
            network.load_weights(best)
        else:
            network.set_weights(start)
    after = network.evaluate(test, verbose=0)

    written.append(generator.generate(prompt, max_new_tokens=max_new_tokens, seed=seed))
    for name, continuation in zip(("before", "after"), written, strict=True):
        print(f"--- {name}\n{prompt}{continuation}")
    print(f"---\nheld-out loss {before:.3f} -> {after:.3f} nats per token")
    if after >= before:
        print("No epoch was better than the model before: was it trained on this text already?")
    generator.save_pretrained(output)
    print(f"saved in {output}: tfgpt2 generate --model {output} '{prompt}'")


if __name__ == "__main__":
    typer.run(main)
