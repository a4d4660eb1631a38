"""Trains a vocabulary and a small GPT-2 on one text file, from scratch to a checkpoint.

This script made the bundled model `shakespeare-tiny`:

    python examples/01_train_from_scratch.py --output shakespeare-tiny

A `tf.data` pipeline splits the text into speeches, the tokenizer layer converts them to ids inside
the pipeline, and `model.fit()` trains on random windows. The last tenth of the text is held out,
and the weights with the lowest loss on it are kept. Without `--text`, the text is downloaded
(tinyshakespeare, 1.1 MB, public domain).
"""

import json
import tempfile
import urllib.request
from pathlib import Path
from typing import Annotated

import keras
import tensorflow as tf
import tokenizers
import typer

from tfgpt2 import GenerationConfig, GPT2Config, TFGPT2LMHeadModel, TFGPT2Tokenizer

TEXT_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
START = "<|endoftext|>"  # begins a window at the start of a speech, and an empty prompt
HELD_OUT = 0.1


def train_vocabulary(text: str, size: int, directory: Path) -> TFGPT2Tokenizer:
    """Learns byte-level BPE merges from the text and saves them as `vocab.json` + `merges.txt`."""
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator([text], vocab_size=size, special_tokens=[START])
    bpe.save_model(str(directory))
    return TFGPT2Tokenizer.from_pretrained(directory, max_length=None)


def speeches(text: str, tokenizer: TFGPT2Tokenizer) -> tf.RaggedTensor:
    """Tokenizes the text speech by speech, in a `tf.data` pipeline of strings.

    Returns:
        int32 ragged `[speeches, None]`; joined, its rows are the ids of the text.
    """
    parts = [part + "\n\n" for part in text.strip().split("\n\n")]
    dataset = tf.data.Dataset.from_tensor_slices(parts).batch(256)
    batches = list(dataset.map(tokenizer.tokenize, num_parallel_calls=tf.data.AUTOTUNE))
    return tf.concat(batches, axis=0)


def training_windows(
    rows: tf.RaggedTensor, *, length: int, batch: int, start_id: int, seed: int
) -> tf.data.Dataset:
    """Infinite batches of random windows; one in four starts a speech, marked by `start_id`."""
    flat, starts = rows.flat_values, tf.cast(rows.row_starts(), tf.int32)
    last = tf.size(flat) - length
    starts = starts[starts < last]

    def window(seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        draws = tf.random.stateless_uniform([3], seeds)
        speech = starts[tf.cast(draws[1] * tf.cast(tf.size(starts), tf.float32), tf.int32)]
        anywhere = tf.cast(draws[2] * tf.cast(last, tf.float32), tf.int32)
        if draws[0] < 0.25:
            ids = tf.concat([[start_id], flat[speech : speech + length - 1]], axis=0)
        else:
            ids = flat[anywhere : anywhere + length]
        ids = tf.ensure_shape(ids, [length])
        return {"input_ids": ids, "labels": ids}

    seeds = tf.data.Dataset.counter().map(lambda i: tf.stack([tf.cast(seed, tf.int64), i]))
    return seeds.map(window).batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def held_out_windows(rows: tf.RaggedTensor, *, length: int, batch: int) -> tf.data.Dataset:
    """Every token of the held-out text once: windows that overlap by the one token of context."""
    windows = tf.signal.frame(rows.flat_values, length, length - 1)  # [windows, T]
    dataset = tf.data.Dataset.from_tensor_slices({"input_ids": windows, "labels": windows})
    return dataset.batch(batch)


def main(
    output: Annotated[Path, typer.Option(help="Directory for the checkpoint.")],
    text: Annotated[Path | None, typer.Option(help="Text file; downloaded by default.")] = None,
    vocab_size: int = 1024,
    width: int = 224,
    layers: int = 6,
    heads: int = 7,
    context: int = 256,
    batch: int = 16,
    steps: int = 3000,
    steps_per_epoch: int = 100,
    learning_rate: float = 1e-3,
    dropout: float = 0.2,
    seed: int = 0,
) -> None:
    """Trains and saves the model, and prints its loss on held-out text in nats per byte."""
    keras.utils.set_random_seed(seed)
    output.mkdir(parents=True, exist_ok=True)
    raw = text.read_bytes() if text else urllib.request.urlopen(TEXT_URL).read()
    corpus = raw.decode("utf-8")
    cut = int(len(corpus) * (1 - HELD_OUT))
    cut = corpus.index("\n\n", cut) + 2
    tokenizer = train_vocabulary(corpus[:cut], vocab_size, output)
    train, held_out = speeches(corpus[:cut], tokenizer), speeches(corpus[cut:], tokenizer)
    start_id = tokenizer.token_to_id(START)
    windows = training_windows(train, length=context, batch=batch, start_id=start_id, seed=seed)
    test = held_out_windows(held_out, length=context, batch=batch)

    config = GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=start_id,
        eos_token_id=start_id,
    )
    model = TFGPT2LMHeadModel(config)
    warmup = max(1, min(100, steps // 10))
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 10, steps - warmup, 0.05, warmup_target=learning_rate, warmup_steps=warmup
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.1, beta_2=0.95, clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "ln_", "wpe"])
    # On CPUs, TensorFlow's own matrix kernels train faster than XLA.
    model.compile(optimizer, jit_compile=False)
    with tempfile.TemporaryDirectory() as directory:
        best = Path(directory) / "best.weights.h5"
        history = model.fit(
            windows,
            steps_per_epoch=steps_per_epoch,
            epochs=max(1, steps // steps_per_epoch),
            validation_data=test,
            callbacks=[
                keras.callbacks.ModelCheckpoint(
                    best, monitor="val_loss", save_best_only=True, save_weights_only=True
                )
            ],
            shuffle=False,  # the windows are random already
            verbose=2,
        )
        model.load_weights(best)

    tokens = tf.size(held_out.flat_values).numpy()
    bytes_per_token = len(corpus[cut:].strip().encode()) / tokens
    nats = min(history.history["val_loss"])
    report = {
        "validation nats per token": nats,
        "validation nats per byte": nats / bytes_per_token,
        "bytes per token": bytes_per_token,
        "parameters": model.num_parameters(),
    }
    print(json.dumps(report, indent=2))
    (output / "training.json").write_text(
        json.dumps(report | {"history": history.history}, indent=1) + "\n"
    )
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_k=0,
        top_p=0.95,
        max_new_tokens=200,
        bos_token_id=start_id,
        eos_token_id=start_id,
    )
    model.save_pretrained(output, dtype="float16")
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    typer.run(main)
