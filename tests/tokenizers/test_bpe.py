"""BPE in the graph against plain Python, over random vocabularies."""

import random

import pytest
import tensorflow as tf
import tokenizers

from tfgpt2 import TFGPT2Tokenizer
from tfgpt2.tokenizers import bpe


def slow_bpe(text, vocab, merges, unk_id=None, fuse_unk=False):
    """The slow twin: merges the most urgent pair, the leftmost first, until none is left."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    symbols = []
    for byte in text:
        symbol = bpe.BYTE_TO_CHARACTER[byte]
        if symbol in vocab:
            symbols.append(symbol)
        elif unk_id is not None and not (fuse_unk and symbols and symbols[-1] is None):
            symbols.append(None)
    while True:
        pairs = list(zip(symbols, symbols[1:], strict=False))
        rank, place = min(
            ((ranks.get(pair, len(merges)), place) for place, pair in enumerate(pairs)),
            default=(len(merges), 0),
        )
        if rank == len(merges):
            return [unk_id if symbol is None else vocab[symbol] for symbol in symbols]
        symbols[place : place + 2] = ["".join(pairs[place])]


def random_vocabulary(rng):
    """Merges in any order: rules that never fire, and tokens that several rules spell."""
    tokens, merges = list("abc"[: rng.randint(1, 3)]), []
    for _ in range(rng.randint(0, 14)):
        pair = (rng.choice(tokens), rng.choice(tokens))
        if pair in merges or len("".join(pair)) > 9:
            continue
        merges.append(pair)
        if "".join(pair) not in tokens:
            tokens.append("".join(pair))
    if rng.random() < 0.5:
        rng.shuffle(merges)
    ids = rng.sample(range(len(tokens) + 5), len(tokens))
    return dict(zip(tokens, ids, strict=True)), merges


@pytest.mark.parametrize("seed", range(40))
def test_random_vocabularies(seed):
    rng = random.Random(seed)
    vocab, merges = random_vocabulary(rng)
    words = ["".join(rng.choices("abcd", k=rng.randint(0, 14))) for _ in range(200)]
    tokenizer = TFGPT2Tokenizer(vocab, merges)
    backend = tokenizers.models.BPE(vocab, merges)
    got = tokenizer.tokenize(tf.constant(words)).to_list()
    assert got == [slow_bpe(word.encode(), vocab, merges) for word in words]
    assert got == [[token.id for token in backend.tokenize(word)] for word in words]


@pytest.mark.parametrize("fuse_unk", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_bytes_without_a_token_become_unk_if_the_model_says_so(seed, fuse_unk):
    rng = random.Random(seed)
    vocab, merges = random_vocabulary(rng)
    vocab["<unk>"] = 99
    words = ["".join(rng.choices("abcdeé", k=rng.randint(0, 14))) for _ in range(200)]
    tokenizer = TFGPT2Tokenizer(
        vocab, merges, unk_token="<unk>", unk_in_model=True, fuse_unk=fuse_unk
    )
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=fuse_unk)
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    got = tokenizer.tokenize(tf.constant(words)).to_list()
    assert got == [backend.encode(word).ids for word in words]
    assert got == [slow_bpe(w.encode(), vocab, merges, 99, fuse_unk) for w in words]


def test_a_rule_that_never_fires_makes_no_token():
    # "bc" is more urgent, so "ab" + "c" never meet; SentencePiece alone would join "a" + "bc".
    tokenizer = TFGPT2Tokenizer(
        {"a": 0, "b": 1, "c": 2, "bc": 3, "ab": 4, "abc": 5}, ["b c", "a b", "ab c"]
    )
    assert tokenizer.tokenize("abc").numpy().tolist() == [0, 3]


def test_a_token_with_two_rules_is_scored_by_the_one_that_fires():
    vocab = {"a": 0, "b": 1, "aa": 2, "ab": 3, "aab": 4}
    merges = [("aa", "b"), ("a", "ab"), ("a", "b"), ("a", "a")]
    tokenizer = TFGPT2Tokenizer(vocab, merges)
    for word in ("aab", "aaab", "aabaab", "aaaab"):
        assert tokenizer.tokenize(word).numpy().tolist() == slow_bpe(word.encode(), vocab, merges)


def test_whole_tokens_of_the_real_vocabulary(gpt2_files):
    vocab, merges = gpt2_files
    tables = bpe.build_tables(vocab, merges)
    assert len(tables.words) == len(vocab) - 1  # All but `<|endoftext|>`, which no merge makes.
    assert tables.missing == ""
    for token in ("Ġthe", "ĠHello", "!!!!!!!!", "ĠÐ¿Ð¾"):
        word = bpe.token_to_bytes(token)
        assert slow_bpe(word, vocab, merges) == [vocab.get(token)] or token not in vocab


def test_a_merge_that_does_not_fit_the_vocabulary():
    with pytest.raises(ValueError, match="A merge uses the token 'c'.*Received: merge='a c'"):
        bpe.build_tables({"a": 0, "b": 1}, [("a", "c")])
    with pytest.raises(ValueError, match="A merge uses the token 'ab', which the vocabulary does"):
        bpe.build_tables({"a": 0, "b": 1}, [("a", "b")])


def test_ids_that_are_no_token_decode_to_nothing(toy):
    ids = [[-1, -100, toy.vocab_size, 2**31 - 1]]
    assert toy.detokenize(tf.constant(ids, tf.int32)).numpy().tolist() == [b""]
    assert toy.detokenize(tf.constant(ids, tf.int64)).numpy().tolist() == [b""]


def test_byte_characters_are_those_of_tokenizers():
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    assert sorted(bpe.BYTE_TO_CHARACTER.values()) == sorted(alphabet)
    pre = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = "".join(chr(c) for c in range(0x800)) + "\u2028日\U0001f600"
    mapped = pre.pre_tokenize_str(text)[0][0]
    assert bpe.token_to_bytes(mapped) == text.encode()
