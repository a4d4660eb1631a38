"""Offsets on the host are those of `tokenizers`, trimmed or not."""

import json
import random

import pytest
import tokenizers

from tfgpt2 import GPT2Tokenizer, TFGPT2Tokenizer

PIECES = [
    "a",
    "b",
    " ",
    "  ",
    "\n",
    "\t",
    "\u00a0",
    "\u3000",
    "Speak",
    " the",
    "é",
    "日",
    "<x>",
    "!",
]


def texts(seed, number=300):
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randint(0, 8))) for _ in range(number)]


def tokenizer(toy_backend, trim, first_stays, prefix, bos, sequence=False):
    result = tokenizers.Tokenizer.from_str(toy_backend.to_str())
    result.add_tokens([tokenizers.AddedToken("<x>", lstrip=True, normalized=False)])
    result.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    processors = [tokenizers.processors.ByteLevel(trim_offsets=trim, add_prefix_space=first_stays)]
    if bos:
        eos = "<|endoftext|>"
        template = tokenizers.processors.TemplateProcessing(
            single=f"{eos} $A", pair=f"{eos} $A {eos}:1 $B:1", special_tokens=[(eos, 0)]
        )
        processors.append(template)
    several = tokenizers.processors.Sequence(processors)
    result.post_processor = several if sequence or bos else processors[0]
    return result


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("trim, first_stays", [(False, True), (True, True), (True, False)])
def test_offsets(toy_backend, tmp_path, trim, first_stays, prefix, bos, sequence):
    backend = tokenizer(toy_backend, trim, first_stays, prefix, bos, sequence)
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = GPT2Tokenizer.from_pretrained(tmp_path)
    some = [*texts(0), " a", "a b", "  a  ", "\u3000a\u3000"]
    expected = [backend.encode(text) for text in some]
    got = ours(some, return_offsets_mapping=True)
    assert got["input_ids"] == [e.ids for e in expected]
    assert got["offset_mapping"] == [e.offsets for e in expected]
    pair = ours(some[:50], some[50:100], return_offsets_mapping=True)["offset_mapping"]
    assert pair == [
        backend.encode(*both).offsets for both in zip(some[:50], some[50:100], strict=True)
    ]
    ours.save_pretrained(tmp_path / "again")
    again = GPT2Tokenizer.from_pretrained(tmp_path / "again")
    assert again.spec == ours.spec
    saved = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert [saved.encode(text).offsets for text in some] == [e.offsets for e in expected]
    layer = TFGPT2Tokenizer.from_tokenizer(ours)
    config = json.loads(json.dumps(layer.get_config()))
    assert TFGPT2Tokenizer.from_config(config).spec == ours.spec


def test_offsets_without_files_are_not_trimmed(toy):
    host = GPT2Tokenizer.from_tokenizer(toy)
    assert host("a  b", return_offsets_mapping=True).offset_mapping == [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 4),
    ]
