"""Tokenizer throughput and latency against tokenizers, tiktoken and KerasHub.

Rounds are interleaved across the implementations, on the same texts; the table shows the best round
of each. `tokenizers` and `tiktoken` run on one thread. TensorFlow may use several, so the last two
columns count the processor time of all threads.

    python benchmarks/tokenizer.py [--text FILE] [--rounds 5]
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tokenizers

from tfgpt2 import TFGPT2Tokenizer
from tfgpt2.tokenizers.bpe import token_to_bytes

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("TFGPT2_TEST_DATA") or HERE.parent.parent / "shared" / "data")
SHORT = "To be, or not to be, that is the question"
ROWS = 256  # batch size of the dataset


def tiktoken_program(spec) -> Callable[[list[str]], list[list[int]]] | None:
    """`tiktoken` on one thread, or None if it is not installed."""
    try:
        import tiktoken
    except ImportError:
        return None
    added = {token.content: token.id for token in spec.added}
    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        mergeable_ranks={token_to_bytes(t): i for t, i in spec.vocab.items() if t not in added},
        special_tokens=added,
    )
    return lambda texts: [encoding.encode_ordinary(text) for text in texts]


def programs(folder: Path, texts: list[str]) -> dict[str, Callable[[], object]]:
    """Name -> a function that encodes all texts once."""
    layer = TFGPT2Tokenizer.from_pretrained(folder)
    batch = tf.constant(texts)
    graph = tf.function(layer.tokenize, input_signature=[tf.TensorSpec([None], tf.string)])
    graph = graph.get_concrete_function()
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(ROWS)
    dataset = dataset.map(layer.tokenize, num_parallel_calls=tf.data.AUTOTUNE)
    host = layer.spec.backend()
    result = {
        "tfgpt2 in the graph, one batch": lambda: graph(batch).flat_values,
        f"tfgpt2 in tf.data, batches of {ROWS}": lambda: [ids.flat_values for ids in dataset],
        "tokenizers, one thread": lambda: host.encode_batch(texts, add_special_tokens=False),
    }
    tiktoken_encode = tiktoken_program(layer.spec)
    if tiktoken_encode is not None:
        result["tiktoken, one thread"] = functools.partial(tiktoken_encode, texts)
    check(layer, host, texts)
    return result


def check(layer: TFGPT2Tokenizer, host: tokenizers.Tokenizer, texts: list[str]) -> None:
    """Exit unless both give the same ids."""
    ours = layer.tokenize(texts).to_list()
    if ours != [item.ids for item in host.encode_batch(texts, add_special_tokens=False)]:
        sys.exit("the ids differ from those of tokenizers")


def keras_hub_program(folder: Path, texts: list[str]) -> Callable[[], object]:
    """KerasHub's in-graph tokenizer; its cache is warm after the first run."""
    import keras_nlp

    layer = keras_nlp.models.GPT2Tokenizer(
        str(folder / "vocab.json"), [m for m in lines(folder / "merges.txt")[1:] if m]
    )
    graph = tf.function(layer.tokenize, input_signature=[tf.TensorSpec([None], tf.string)])
    batch = tf.constant(texts)
    return lambda: graph(batch).flat_values


def lines(path: Path) -> list[str]:
    """The lines of a file, separated by line feeds only."""
    return path.read_text(encoding="utf-8").split("\n")


def seconds(program: Callable[[], object]) -> tuple[float, float]:
    """Wall time and processor time (all threads) of one run."""
    wall, processor = time.perf_counter(), time.process_time()
    program()
    return time.perf_counter() - wall, time.process_time() - processor


def throughput(texts: list[str], folder: Path, rounds: int) -> None:
    """Print the throughput of each implementation, and the ratios to `tokenizers`."""
    size = megabytes(texts)
    table = programs(folder, texts)
    best: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for name, program in table.items():
            old = best.get(name, (float("inf"), float("inf")))
            best[name] = tuple(map(min, old, seconds(program)))
    some = texts[: max(1, len(texts) // 8)]  # KerasHub is slow, so it gets an eighth of the text.
    hub, scale = keras_hub_program(folder, some), size / megabytes(some)
    for name in ("KerasHub in the graph, first run", "KerasHub in the graph, cache warm"):
        best[name] = tuple(took * scale for took in seconds(hub))
    reference = best["tokenizers, one thread"]
    print(f"{size:.2f} MB of text in {len(texts)} rows, best of {rounds} rounds")
    print(f"{'':38s} {'MB/s':>8s} {'ratio':>6s} {'MB per processor second, ratio':>34s}")
    for name, (wall, processor) in best.items():
        print(
            f"{name:38s} {size / wall:8.2f} {reference[0] / wall:6.2f}"
            f" {size / processor:27.2f} {reference[1] / processor:6.2f}"
        )


def megabytes(texts: list[str]) -> float:
    """Size of texts as UTF-8, in MB."""
    return sum(len(text.encode()) for text in texts) / 1e6


def latency(folder: Path, repeats: int = 500) -> None:
    """Print the latency of one short string."""
    layer = TFGPT2Tokenizer.from_pretrained(folder)
    spec = tf.TensorSpec([None], tf.string)
    concrete = tf.function(layer.tokenize, input_signature=[spec]).get_concrete_function()
    call = tf.function(lambda text: layer(text), input_signature=[spec]).get_concrete_function()
    text, host = tf.constant([SHORT]), layer.spec.backend()
    cases = {
        "tfgpt2 tokenize, concrete function": lambda: concrete(text),
        "tfgpt2 call (dense, mask), concrete": lambda: call(text),
        "tfgpt2 call, eager": lambda: layer(text),
        "tokenizers": lambda: host.encode(SHORT),
    }
    print(f"\nlatency of {SHORT!r}, median of {repeats}")
    for name, program in cases.items():
        program()
        times = sorted(seconds(program)[0] for _ in range(repeats))
        print(f"{name:38s} {times[repeats // 2] * 1e3:7.3f} ms")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, default=SHARED / "text" / "wiki.test.raw")
    parser.add_argument("--vocabulary", type=Path, default=SHARED / "gpt2_vocab")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for path in (options.text, options.vocabulary):
        if not path.exists():
            sys.exit(
                f"{path} does not exist: set TFGPT2_TEST_DATA, or pass --text and --vocabulary"
            )
    texts = [line + "\n" for line in lines(options.text) if line]
    throughput(texts, options.vocabulary, options.rounds)
    latency(options.vocabulary)


if __name__ == "__main__":
    main()
