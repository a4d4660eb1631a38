"""Adapts a model to another language: a new vocabulary for a pretrained network.

    python examples/04_new_language.py --text german.txt --output german-tiny

An English vocabulary splits other languages into short tokens, so a new one is trained on the
text. Tokens of both vocabularies keep their embedding, the embedding of a new token is initialized
to the mean of the old tokens that spell it, and the blocks are kept. Then the whole model is
fine-tuned. Losses are per byte, so that models with different vocabularies can be compared.
"""

from pathlib import Path
from typing import Annotated

import keras
import tensorflow as tf
import typer

from tfgpt2 import TextGenerator, TFGPT2LMHeadModel, TFGPT2Tokenizer
from tfgpt2.evaluation.perplexity import perplexity
from tfgpt2.tokenizers.training import train_tokenizer
from tfgpt2.training.data import lm_dataset

HELD_OUT = 0.1


def carry_over(
    table: tf.Tensor, old: TFGPT2Tokenizer, new: TFGPT2Tokenizer
) -> tuple[tf.Tensor, int]:
    """Initializes the embeddings of a new vocabulary from those of an old one.

    Args:
        table: Float `[V_old, D]`.
        old: Its vocabulary.
        new: The new vocabulary.

    Returns:
        Float `[V_new, D]`, and the number of shared tokens.
    """
    old_ids = {token: i for i, token in enumerate(old.token_bytes)}
    # Parts of a character are tokenized as U+FFFD; single bytes are in every vocabulary.
    pieces = old.tokenize(tf.constant(new.token_bytes))  # [V_new, (pieces)]
    spelled = tf.reduce_mean(tf.gather(table, pieces), axis=1)  # [V_new, D]
    shared = [i for i, token in enumerate(new.token_bytes) if token in old_ids]
    rows = tf.gather(table, [old_ids[new.token_bytes[i]] for i in shared])  # [shared, D]
    return tf.tensor_scatter_nd_update(spelled, [[i] for i in shared], rows), len(shared)


def main(
    text: Annotated[Path, typer.Option(help="UTF-8 text in the new language.")],
    output: Annotated[Path, typer.Option(help="Directory for the checkpoint.")],
    model: str = "shakespeare-tiny",
    vocab_size: int = 1024,
    block_size: Annotated[int, typer.Option(help="Tokens of an example.")] = 128,
    batch: int = 16,
    epochs: int = 5,
    learning_rate: float = 1e-3,
    carry: Annotated[bool, typer.Option(help="--no-carry: train from scratch.")] = True,
    prompt: Annotated[
        str | None, typer.Option(help="Default: the start of the held-out text.")
    ] = None,
    seed: int = 0,
) -> None:
    """Trains vocabulary and model, and compares them with the old ones on held-out text."""
    keras.utils.set_random_seed(seed)
    network = TFGPT2LMHeadModel.from_pretrained(model)
    old = TFGPT2Tokenizer.from_pretrained(model)
    whole = text.read_text(encoding="utf-8")
    cut = whole.rfind(" ", 0, int(len(whole) * (1 - HELD_OUT)))
    output.mkdir(parents=True, exist_ok=True)
    learned = output / "learned-from.txt"
    learned.write_text(whole[:cut], encoding="utf-8")
    train_tokenizer(learned, vocab_size).save_pretrained(output)
    learned.unlink()
    new = TFGPT2Tokenizer.from_pretrained(output)
    for name, tokenizer in (("old", old), ("new", new)):
        ids = tokenizer.tokenize(whole[cut:])
        print(f"{name} vocabulary: {len(whole[cut:].encode()) / len(ids):.2f} bytes per token")
    nats = [perplexity(network, old, whole[cut:]).bits_per_byte]

    rows, shared = carry_over(network.get_input_embeddings().weight.value, old, new)
    print(f"{shared} of {new.vocab_size} tokens are in both vocabularies")
    network.set_input_embeddings(rows)
    for settings in (network.config, network.generation_config):
        settings.bos_token_id, settings.eos_token_id = new.bos_token_id, new.eos_token_id
    if not carry:
        network = TFGPT2LMHeadModel(network.config)  # new weights
    train = lm_dataset([whole[:cut]], new, block_size, batch, seed=seed)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 10, len(train) * epochs, 0.05, warmup_target=learning_rate,
        warmup_steps=max(1, len(train) * epochs // 20),
    )  # fmt: skip
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "ln_", "wpe"])
    network.compile(optimizer)
    network.fit(train, epochs=epochs, shuffle=False, verbose=2)  # shuffled already
    nats.append(perplexity(network, new, whole[cut:]).bits_per_byte)

    generator = TextGenerator(network, new)
    prompt = prompt or whole[cut:].strip()[:40]
    print(f"--- written\n{prompt}{generator.generate(prompt, max_new_tokens=60, seed=seed)}")
    print(f"---\nheld-out bits per byte {nats[0]:.3f} -> {nats[1]:.3f}")
    generator.save_pretrained(output)


if __name__ == "__main__":
    typer.run(main)
