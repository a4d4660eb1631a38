"""The tokenizers under test and the reference ones."""

import json

import pytest
import tokenizers

from tfgpt2 import TFGPT2Tokenizer

SENTENCES = [
    "Speak the speech, I pray you, as I pronounced it to you, trippingly on the tongue.",
    "The quality of mercy is not strain'd; it droppeth as the gentle rain from heaven.",
    "We are such stuff as dreams are made on, and our little life is rounded with a sleep.",
    "It's 1599, and they'll play at the Globe: we've paid, I'm glad, you'd know, they're set.",
]


def byte_level(model, **options):
    """Returns a `tokenizers` tokenizer that treats text as GPT-2 does."""
    result = tokenizers.Tokenizer(model)
    options.setdefault("add_prefix_space", False)
    result.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(**options)
    result.decoder = tokenizers.decoders.ByteLevel()
    return result


@pytest.fixture(scope="session")
def toy_backend():
    """A small vocabulary trained on a few sentences, with every byte and `<|endoftext|>`."""
    result = byte_level(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    result.train_from_iterator(SENTENCES, trainer)
    return result


@pytest.fixture(scope="session")
def toy(toy_backend):
    return TFGPT2Tokenizer.from_tokenizer(toy_backend)


@pytest.fixture(scope="session")
def gpt2_files(shared_data):
    folder = shared_data / "gpt2_vocab"
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:]
    return vocab, [tuple(line.split(" ")) for line in lines if line]


@pytest.fixture(scope="session")
def gpt2(shared_data):
    return TFGPT2Tokenizer.from_pretrained(shared_data / "gpt2_vocab")


@pytest.fixture(scope="session")
def gpt2_plain(gpt2_files):
    """The real vocabulary without special tokens inside text, as `tokenizers` has it below."""
    return TFGPT2Tokenizer(*gpt2_files, special_tokens="text")


@pytest.fixture(scope="session")
def hf(gpt2_files):
    """`tokenizers` with the real vocabulary; it knows no special tokens."""
    return byte_level(tokenizers.models.BPE(*gpt2_files))


@pytest.fixture(scope="session")
def tt(gpt2_files):
    """`tiktoken` with the real vocabulary, built without the network."""
    tiktoken = pytest.importorskip("tiktoken")
    from tfgpt2.tokenizers.bpe import token_to_bytes

    vocab = gpt2_files[0]
    ranks = {token_to_bytes(t): i for t, i in vocab.items() if t != "<|endoftext|>"}
    return tiktoken.Encoding(
        "gpt2",
        pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": 50256},
    )
