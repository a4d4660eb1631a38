"""Normal forms in the graph are those of `tokenizers`, whatever Unicode the operation knows."""

import random

import pytest
import tensorflow as tf
import tokenizers

from tests.support.tokenizer_texts import all_code_points
from tfgpt2 import GPT2Tokenizer, TFGPT2Tokenizer
from tfgpt2.tokenizers.normal_form import FORMS, NormalForm, host_normalizer, inert_characters


def differences(form, texts):
    host, graph = host_normalizer(form), tf.function(NormalForm(form))
    found = graph(tf.constant(texts)).numpy()
    return [(text, ours.decode()) for text, ours in zip(texts, found, strict=True)
            if host.normalize_str(text) != ours.decode()]  # fmt: skip


def mixtures(form, count, seed):
    """Texts of characters that a normal form changes, sorts or composes, and of plain ones."""
    host, draw = host_normalizer(form), random.Random(seed)
    active = [one for one in all_code_points() if host.normalize_str(one) != one]
    active += [chr(code) for code in range(0x300, 0x370)] + ["\u1161", "\u11a8", "\u09be", "\u3099"]
    newer = [chr(code) for code in inert_characters()[::997]]
    newer += ["\u32ff", "\u1aca", "\u09fe", "\U00011935\U00011930", "\U000105d2\u0307", "\uac00"]
    groups = [active, active, newer, list("aeoCX \n")]
    return ["".join(draw.choice(draw.choice(groups)) for _ in range(draw.randint(1, 9)))
            for _ in range(count)]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_mixtures_of_marks_and_newer_characters(form):
    assert differences(form, mixtures(form, 3000, 1)) == []


def test_parts_are_those_of_their_own_string():
    texts = ["", "\u32ff", "e\u0301", "\u0301e", "a\u32ff\u0301", "\u0334\u0301\u1aca\u0334", "Ａ"]
    assert differences("NFKC", texts) == []
    assert NormalForm("NFC")(tf.constant([], tf.string)).shape == (0,)


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_every_code_point_and_many_mixtures(form):
    everything = list(all_code_points())
    assert differences(form, everything) == []
    assert differences(form, [f"e{one}\u0301\u0334{one}" for one in everything]) == []
    for seed in range(3):
        assert differences(form, mixtures(form, 100_000, seed)) == []


@pytest.mark.parametrize("form", ["NFC", pytest.param("NFKD", marks=pytest.mark.long)])
def test_byte_level_bpe_with_a_normalizer(form, tmp_path):
    """As GPT-NeoX has NFC; added tokens before it and after it, saved and loaded."""
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.normalizer = host_normalizer(form)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    theirs.train_from_iterator(["caf\u00e9 cafe\u0301 \ufb01ne \u32ff"] * 3, trainer)
    theirs.add_tokens(["\ufb01ne"])
    theirs.add_special_tokens(["<e\u0301>"])
    layer = TFGPT2Tokenizer.from_tokenizer(theirs)
    layer.save_pretrained(tmp_path)
    for one in (layer, TFGPT2Tokenizer.from_pretrained(tmp_path)):
        assert one.spec.normal_form == form
        texts = ["cafe\u0301 caf\u00e9", "\ufb01ne fine", "<e\u0301><\u00e9>", "\u32ff\u0301"]
        texts += mixtures(form, 300, 5)
        assert one.tokenize(texts).to_list() == [theirs.encode(text).ids for text in texts]
    assert GPT2Tokenizer.from_pretrained(tmp_path)("cafe\u0301").input_ids == theirs.encode(
        "cafe\u0301").ids  # fmt: skip
