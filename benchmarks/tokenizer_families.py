"""Throughput of each tokenizer family against its host library, on one thread.

Rounds are interleaved on the same texts; the table shows the best round of each. TensorFlow may
use several threads, so the last two columns count the processor time of all. The vocabularies of
WordPiece (Chinese), Unigram (rinna) and SMILES are the shared real ones; the others are trained on
the text, whose ids are compared first.

    python benchmarks/tokenizer_families.py [--text FILE] [--rounds 5] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tokenizers
from tokenizer import ROWS, SHARED, lines, megabytes, seconds

from tfgpt2 import TFGPT2Tokenizer

FAMILIES = SHARED / "tokenizer_families"
Encode = Callable[[list[str]], list[list[int]]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer, and the library that gives the same ids."""

    layer: TFGPT2Tokenizer
    library: str
    encode: Encode
    texts: list[str]


def of_tokenizers(layer: TFGPT2Tokenizer, texts: list[str]) -> Case:
    """A case whose library is `tokenizers`."""
    host = layer.spec.backend()

    def encode(given: list[str]) -> list[list[int]]:
        return [one.ids for one in host.encode_batch(given, add_special_tokens=False)]

    return Case(layer, "tokenizers, one thread", encode, texts)


def wordpiece(texts: list[str]) -> Case:
    """The Chinese vocabulary, cased: English text and, if it is there, the shared Chinese page."""
    folder = FAMILIES / "gpt2_chinese_wordpiece"
    page = SHARED.parent / "reference" / "gpt2_page_zh.txt"
    chinese = [line for line in lines(page) if line] if page.exists() else []
    return of_tokenizers(
        TFGPT2Tokenizer.from_pretrained(folder, do_lower_case=False), texts + chinese
    )


def unigram(texts: list[str]) -> Case:
    """Rinna's model, a T5 class that lower-cases; the library gets lower-cased texts."""
    import sentencepiece

    model = (FAMILIES / "rinna_unigram" / "spiece.model").read_bytes()
    layer = TFGPT2Tokenizer(model=model, family="t5", do_lower_case=True)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    lower = ["".join(map(str.lower, text)) for text in texts]
    return Case(
        layer, "sentencepiece, one thread", lambda _: processor.encode(lower, num_threads=1), texts
    )


def metaspace(texts: list[str]) -> Case:
    """BPE over characters with `▁` for spaces, trained on the text."""
    result = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    result.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    result.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=8000, special_tokens=["</s>", "<unk>"], show_progress=False
    )
    result.train_from_iterator(texts, trainer)
    return of_tokenizers(TFGPT2Tokenizer.from_tokenizer(result), texts)


def smiles(texts: list[str]) -> Case:
    """BPE without a pre-tokenizer: random molecules of the vocabulary's tokens."""
    layer = TFGPT2Tokenizer.from_pretrained(FAMILIES / "smiles_gpt")
    tokens = [token for token in layer.spec.vocab if not token.startswith("<")]
    draw = random.Random(0)
    molecules = ["".join(draw.choices(tokens, k=draw.randint(10, 40))) for _ in range(8000)]
    return of_tokenizers(layer, molecules)


def word_level(texts: list[str]) -> Case:
    """The 20,000 most frequent words of the text."""
    counts = collections.Counter(word for text in texts for word in text.split())
    words = ["[UNK]", *(word for word, _ in counts.most_common(20000) if word != "[UNK]")]
    vocabulary = {word: i for i, word in enumerate(words)}
    result = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    result.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return of_tokenizers(TFGPT2Tokenizer.from_tokenizer(result), texts)


CASES = {case.__name__: case for case in (wordpiece, unigram, metaspace, smiles, word_level)}


def measure(name: str, case: Case, rounds: int) -> Iterator[str]:
    """Yield the lines of one family's table."""
    layer, texts = case.layer, case.texts
    signature = [tf.TensorSpec([None], tf.string)]
    graph = tf.function(layer.tokenize, input_signature=signature).get_concrete_function()
    batch, dataset = tf.constant(texts), tf.data.Dataset.from_tensor_slices(texts).batch(ROWS)
    dataset = dataset.map(layer.tokenize, num_parallel_calls=tf.data.AUTOTUNE)
    pairs = zip(graph(batch).to_list(), case.encode(texts), strict=True)
    different = sum(ours != theirs for ours, theirs in pairs)
    table = {
        "tfgpt2 in the graph, one batch": lambda: graph(batch).flat_values,
        f"tfgpt2 in tf.data, batches of {ROWS}": lambda: [ids.flat_values for ids in dataset],
        case.library: lambda: case.encode(texts),
    }
    best = dict.fromkeys(table, (float("inf"), float("inf")))
    for _ in range(rounds):
        for program, run in table.items():
            best[program] = tuple(map(min, best[program], seconds(run)))
    size, reference = megabytes(texts), best[case.library]
    yield f"\n{name}: {size:.2f} MB in {len(texts)} rows, {different} with other ids"
    yield f"{'':38s} {'MB/s':>8s} {'ratio':>6s} {'MB per processor second, ratio':>34s}"
    for program, (wall, processor) in best.items():
        yield (
            f"{program:38s} {size / wall:8.2f} {reference[0] / wall:6.2f}"
            f" {size / processor:27.2f} {reference[1] / processor:6.2f}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, default=SHARED / "text" / "wiki.test.raw")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    if not (options.text.exists() and FAMILIES.exists()):
        sys.exit(f"{options.text} or {FAMILIES} does not exist: set TFGPT2_TEST_DATA")
    texts = [line + "\n" for line in lines(options.text) if line]
    for name in options.only:
        for line in measure(name, CASES[name](texts), options.rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
