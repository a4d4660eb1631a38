"""The word-level family: the ids of `tokenizers` for words, and for characters."""

import json

import pytest
import tokenizers

from tests.support.tokenizer_texts import (
    NASTY,
    all_code_points,
    batches,
    count_differences,
    fuzzed_texts,
)
from tfgpt2 import GPT2Tokenizer, TFGPT2Tokenizer
from tfgpt2.tokenizers import files
from tfgpt2.tokenizers.registry import FAMILIES
from tfgpt2.tokenizers.word_level import WordLevelSpec

WORDS = ["[UNK]", "PIECE_START", "NOTE_ON=60", "TIME_DELTA=4", "BAR_END", "hello", "_", "=", "60",
         "a", "é", "日", " ", "\n", "hello world", "</s>"]  # fmt: skip
VOCAB = {word: i for i, word in enumerate(WORDS)}
PRE = tokenizers.pre_tokenizers
KINDS = {
    "WhitespaceSplit": PRE.WhitespaceSplit(),
    "Whitespace": PRE.Whitespace(),
    "characters": PRE.Split("", "isolated"),
    None: None,
}
SONG = "PIECE_START  NOTE_ON=60 TIME_DELTA=4\nBAR_END</s>"


def backend(words, fuse=False):
    result = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCAB, "[UNK]"))
    if words:
        result.pre_tokenizer = KINDS[words]
    if fuse:
        result.decoder = tokenizers.decoders.Fuse()
    result.add_special_tokens(["[UNK]", "</s>"])
    result.post_processor = tokenizers.processors.TemplateProcessing(
        single="PIECE_START $A </s>", pair="$A $B:1",
        special_tokens=[("PIECE_START", 1), ("</s>", 15)],
    )  # fmt: skip
    return result


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("words", KINDS)
def test_ids_and_texts_are_those_of_tokenizers(words, fuse, tmp_path):
    theirs = backend(words, fuse)
    theirs.save(str(tmp_path / "tokenizer.json"))
    layer = TFGPT2Tokenizer.from_pretrained(tmp_path)
    assert type(layer.spec) is WordLevelSpec and layer.spec.words == words
    texts = [
        *NASTY,
        SONG,
        "hello world",
        "a_b é_日",
        *fuzzed_texts(1000, 2, [*WORDS, "_", "\u0301"]),
    ]
    assert count_differences(layer, texts, theirs) == (0, [])
    assert count_differences(layer, texts) == (0, [])
    host = GPT2Tokenizer.from_tokenizer(layer)
    assert host(SONG).input_ids == theirs.encode(SONG).ids
    ids = [2, 5, 9, 3]
    assert layer.detokenize([ids]).numpy()[0].decode() == theirs.decode(ids) == host.decode(ids)
    layer.save_pretrained(tmp_path / "again")
    assert files.read(tmp_path / "again", FAMILIES) == layer.spec
    assert TFGPT2Tokenizer.from_config(layer.get_config()).spec == layer.spec


def test_a_vocabulary_without_the_unknown_token(tmp_path):
    model = tokenizers.models.WordLevel({"a": 0}, "<unk>")
    (tmp_path / "tokenizer.json").write_text(tokenizers.Tokenizer(model).to_str())
    with pytest.raises(ValueError, match="in its vocabulary.*unk_token='<unk>'.*tokenizer.json"):
        files.read(tmp_path, FAMILIES)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", {"type": "Punctuation", "behavior": "Isolated"}),
        ("decoder", {"type": "WordPiece", "prefix": "##", "cleanup": True}),
    ],
)
def test_parts_that_do_something_else(tmp_path, part, value):
    data = json.loads(backend(None).to_str()) | {part: value}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"`{part}` asks for something.*Received: {part}="):
        files.read(tmp_path, FAMILIES)


@pytest.mark.long
@pytest.mark.parametrize("words", ["WhitespaceSplit", "Whitespace", "characters"])
def test_every_code_point_in_context_and_a_million_texts(words):
    theirs = backend(words)
    layer = TFGPT2Tokenizer.from_tokenizer(theirs)
    for part in batches(f"a{c}b 日{c} {c}" for c in all_code_points()):
        assert count_differences(layer, part, theirs) == (0, [])
    for part in batches(fuzzed_texts(350_000, 31, [*WORDS, "_", "\u0301", "\u200d"])):
        assert count_differences(layer, part, theirs) == (0, [])
