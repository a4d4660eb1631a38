"""A text generator with random weights whose tokens are bytes, parts of characters and words."""

import numpy as np

from tfgpt2 import GPT2Config, TextGenerator, TFGPT2LMHeadModel, TFGPT2Tokenizer
from tfgpt2.tokenizers.bpe import BYTE_TO_CHARACTER

CONTEXT = 64


# Halves of characters, characters, and words are tokens of their own.
PAIRS = [
    (b"\xc3", b"\xa9"), (b"\xc3", b"\xbc"), (b"\xf0", b"\x9f"), (b"\x98", b"\x80"),
    (b"\xf0\x9f", b"\x98\x80"), (b"e", b"r"), (b"\n", b"\n"), (b" ", b"t"), (b"h", b"e"),
    (b" t", b"he"),
]  # fmt: skip


def tokenizer(**options):
    spell = lambda text: "".join(BYTE_TO_CHARACTER[byte] for byte in text)  # noqa: E731
    tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in PAIRS]
    vocab = {spell(token): i for i, token in enumerate(tokens)} | {"<|endoftext|>": len(tokens)}
    merges = [(spell(left), spell(right)) for left, right in PAIRS]
    return TFGPT2Tokenizer(vocab, merges, **options)


def model(tokens, **fields):
    config = GPT2Config(
        n_layer=2, n_embd=24, n_head=2, n_positions=CONTEXT, vocab_size=tokens.vocab_size + 3,
        bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id, **fields,
    )  # fmt: skip
    result = TFGPT2LMHeadModel(config)
    random = np.random.RandomState(0)
    for weight in result.weights:
        scale = 0.35 if len(weight.shape) == 2 else 0.1
        centre = 1.0 if "ln_" in weight.path and weight.path.endswith("weight") else 0.0
        weight.assign(centre + scale * random.standard_normal(weight.shape))
    return result


def generator(**options):
    tokens = tokenizer()
    return TextGenerator(model(tokens), tokens, **options)
