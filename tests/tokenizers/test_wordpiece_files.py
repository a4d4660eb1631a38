"""WordPiece from files: `vocab.txt`, `tokenizer.json`, what stands beside them, and back."""

import json

import pytest
import tokenizers

from tfgpt2 import GPT2Tokenizer, TFGPT2Tokenizer
from tfgpt2.tokenizers import files
from tfgpt2.tokenizers.registry import FAMILIES
from tfgpt2.tokenizers.template import Template
from tfgpt2.tokenizers.wordpiece import WordPieceSpec

LINES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "fox",
    "##es",
    "你",
    "é",
    "e",
    "The",
    "\u2028",
]
VOCAB = {token: i for i, token in enumerate(LINES)}
CONFIG = "tokenizer_config.json"
AROUND = Template(("[CLS]",), ("[SEP]",))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return tmp_path


def write(folder, **values):
    (folder / CONFIG).write_text(json.dumps(values), encoding="utf-8")
    return files.read(folder, FAMILIES)


def backend(lower=True, **options):
    model = tokenizers.models.WordPiece(VOCAB, unk_token="[UNK]")
    result = tokenizers.Tokenizer(model)
    result.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lower, **options)
    result.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    result.decoder = tokenizers.decoders.WordPiece()
    result.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    result.add_special_tokens(LINES[:5])
    return result


@pytest.mark.parametrize(
    "name", [None, "BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "GPT2Tokenizer",
             "PreTrainedTokenizerFast"],
)  # fmt: skip
def test_the_vocabulary_file(folder, name):
    spec = write(folder, tokenizer_class=name)
    assert type(spec) is WordPieceSpec and spec.vocab == VOCAB
    assert spec.template == AROUND and spec.do_lower_case and spec.end_id == 3
    assert spec.roles == {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]",
                          "cls_token": "[CLS]", "mask_token": "[MASK]"}  # fmt: skip
    host, theirs = GPT2Tokenizer.from_pretrained(folder), backend()
    for text in ("The foxes", "你é the", "x"):
        assert host(text).input_ids == theirs.encode(text).ids
    layer = TFGPT2Tokenizer.from_tokenizer(host)
    assert layer("foxes é")["input_ids"].numpy().tolist() == [theirs.encode("foxes é").ids]
    assert host("the", "fox").input_ids == theirs.encode("the", "fox").ids


def test_settings_beside_it(folder):
    spec = write(folder, do_lower_case=False, strip_accents=True, tokenize_chinese_chars=False,
                 sep_token="[PAD]", additional_special_tokens=["<x>"])  # fmt: skip
    assert not spec.do_lower_case and spec.strip_accents and not spec.tokenize_chinese_chars
    assert spec.template == Template(("[CLS]",), ("[PAD]",)) and spec.id_of("<x>") == len(LINES)
    assert files.read(folder, FAMILIES, do_lower_case=True).do_lower_case


@pytest.mark.parametrize("lower", [True, False])
def test_tokenizer_json(tmp_path, lower):
    theirs = backend(lower, strip_accents=not lower)
    theirs.save(str(tmp_path / "tokenizer.json"))
    spec = files.read(tmp_path, FAMILIES)
    assert type(spec) is WordPieceSpec and spec.template == AROUND
    assert (spec.do_lower_case, spec.strip_accents) == (lower, not lower)
    host = GPT2Tokenizer.from_pretrained(tmp_path)
    for text in ("The foxes é", "[CLS] the [SEP]"):
        assert host(text).input_ids == theirs.encode(text).ids
        assert host(text, "é").input_ids == theirs.encode(text, "é").ids
    assert files.from_tokenizer(theirs, FAMILIES) == spec
    # As in transformers, the configuration changes the normalizer.
    assert write(tmp_path, do_lower_case=not lower).do_lower_case is not lower


def test_what_is_written_is_read(folder):
    layer = TFGPT2Tokenizer.from_pretrained(
        folder, do_lower_case=False, spaces_between_cjk=True, extra_special_tokens=["<x>", "<y>"]
    )
    target = folder / "again"
    assert {*map(str, (target / n for n in ("vocab.txt", "tokenizer.json")))} <= {
        *layer.save_pretrained(target)}  # fmt: skip
    assert TFGPT2Tokenizer.from_pretrained(target).spec == layer.spec
    assert tokenizers.Tokenizer.from_file(str(target / "tokenizer.json")).encode("The fox").ids == (
        GPT2Tokenizer.from_pretrained(target)("The fox").input_ids)  # fmt: skip
    (target / "tokenizer.json").unlink()
    assert TFGPT2Tokenizer.from_pretrained(target).spec == layer.spec
    assert TFGPT2Tokenizer.from_config(layer.get_config()).spec == layer.spec
    saved = GPT2Tokenizer.from_pretrained(target).save_vocabulary(folder, "other")
    assert [path.rpartition("/")[2] for path in saved] == ["other-vocab.txt"]


def test_a_model_without_marks_around_texts(folder):
    (folder / "vocab.txt").write_text("[UNK]\nthe\n")
    spec = files.read(folder, FAMILIES)
    assert not spec.template and spec.end_id is None


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["[UNK]", "a", "b", "a"], r"Two lines of 'vocab.txt' are the same token.*lines=\(2, 4\)"),
        (["a", "b"], r"cannot spell.*Check `vocab.txt`|in its vocabulary"),
    ],
)
def test_damaged_vocabularies(tmp_path, lines, match):
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=match):
        files.read(tmp_path, FAMILIES)


@pytest.mark.parametrize("options", [{"do_basic_tokenize": False}, {"never_split": ["x"]}])
def test_options_that_ask_for_something_else(folder, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` asks for something.*Remove it"):
        write(folder, **options)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("normalizer", {"type": "NFC"}),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("pre_tokenizer", None),
        ("decoder", {"type": "Fuse"}),
    ],
)
def test_parts_that_do_something_else(tmp_path, part, value):
    data = json.loads(backend().to_str()) | {part: value}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"`{part}` asks for something.*Received: {part}="):
        files.read(tmp_path, FAMILIES)


def test_a_hole_in_the_vocabulary(folder):
    (folder / "vocab.txt").write_text("[UNK]\n\nthe\n")
    layer = TFGPT2Tokenizer.from_pretrained(folder)
    assert layer.tokenize("the").numpy().tolist() == [2] and layer.get_vocabulary()[1] == ""
    layer.save_pretrained(folder / "b")
    assert TFGPT2Tokenizer.from_pretrained(folder / "b").spec.vocab == layer.spec.vocab
