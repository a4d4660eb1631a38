"""Tokenizers of other kinds are named; parts of `tokenizer.json` that do nothing are read."""

import json

import pytest
import tokenizers

from tests.tokenizers.conftest import byte_level
from tfgpt2 import GPT2Tokenizer, TFGPT2Tokenizer
from tfgpt2.tokenizers import files
from tfgpt2.tokenizers.registry import FAMILIES

VOCAB = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġa": 4, "<|endoftext|>": 5}
MERGES = "#version: 0.2\na b\nĠ a\n"
CONFIG = "tokenizer_config.json"


def write(folder, contents):
    for name, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")


GPT2 = {"vocab.json": VOCAB, "merges.txt": MERGES}


@pytest.mark.parametrize(
    ("contents", "name", "file"),
    [
        ({"sentencepiece.bpe.model": "x"}, "XLMRobertaTokenizer", "sentencepiece.bpe.model"),
        ({"tokenizer.model": "x", CONFIG: {"tokenizer_class": "LlamaTokenizer"}}, "LlamaTokenizer",
         "tokenizer.model"),
        ({"spiece.model": "x", "config.json": {"tokenizer_class": "CamembertTokenizer"}},
         "CamembertTokenizer", "spiece.model"),
        ({"spiece.model": "x", CONFIG: {"tokenizer_class": "LlamaTokenizerFast"},
          "config.json": {"tokenizer_class": "GPT2Tokenizer"}}, "LlamaTokenizerFast", "spiece"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cls", [TFGPT2Tokenizer, GPT2Tokenizer])
def test_files_of_other_kinds_are_named(tmp_path, cls, contents, name, file):
    write(tmp_path, contents)
    parts = f"`{name}`.*'{file}.*no supported family.*byte_level_bpe.*Received: tokenizer_class="
    with pytest.raises(ValueError, match=f"{parts}'{name}'.*`{name}`, and pass its `input_ids`"):
        cls.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "program"), [("BertJapaneseTokenizer", "MeCab, Juman"), ("CpmTokenizer", "jieba")]
)
def test_classes_that_need_another_program(tmp_path, name, program):
    write(tmp_path, {"vocab.txt": "x", "spiece.model": "x", CONFIG: {"tokenizer_class": name}})
    match = (
        f"`{name}` splits.*{program}.*cannot run in a graph.*pass its `input_ids`.*decode the id"
    )
    with pytest.raises(ValueError, match=match):
        files.read(tmp_path, FAMILIES)


@pytest.mark.parametrize("name", ["RobertaTokenizer", "CLIPTokenizerFast", "MyTokenizer", "CTRL"])
def test_other_classes_with_the_same_files_are_named(tmp_path, name):
    write(tmp_path, GPT2 | {CONFIG: {"tokenizer_class": name}})
    with pytest.raises(ValueError, match=f"is a `{name}` and that.*to 'GPT2Tokenizer' in `token"):
        files.read(tmp_path, FAMILIES)


@pytest.mark.parametrize("where", [CONFIG, "config.json"])
@pytest.mark.parametrize(
    "name",
    ["GPT2Tokenizer", "GPT2TokenizerFast", "CodeGenTokenizer", "PreTrainedTokenizerFast",
     "TokenizersBackend"],
)  # fmt: skip
def test_names_of_the_same_tokenizer(tmp_path, name, where):
    write(tmp_path, GPT2 | {where: {"tokenizer_class": name}})
    assert files.read(tmp_path, FAMILIES).vocab == VOCAB


def test_tokenizer_json_decides_whatever_the_class(tmp_path, toy_backend):
    write(tmp_path, {"tokenizer.json": toy_backend.to_str(), "vocab.txt": "x",
                     CONFIG: {"tokenizer_class": "BertTokenizer"}})  # fmt: skip
    assert files.read(tmp_path, FAMILIES).vocab == toy_backend.get_vocab()


@pytest.mark.parametrize(
    ("vocab", "merges", "token"),
    [
        ({"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4, "ab": 5}, "▁ a\na b\n", "▁"),
        ({"a": 0, "b</w>": 1, "ab</w>": 2}, "a b</w>\n", "b</w>"),
        ({"가": 0, "▁": 1}, "", "▁"),
    ],
)
def test_pairs_of_files_that_are_not_byte_level(tmp_path, vocab, merges, token):
    write(tmp_path, {"vocab.json": vocab, "merges.txt": merges})
    match = f"marks spaces differently from byte-level BPE.*Received: token='{token}'.*pass its ids"
    with pytest.raises(ValueError, match=match):
        files.read(tmp_path, FAMILIES)
    with pytest.raises(ValueError, match=match):
        GPT2Tokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")
    with pytest.raises(ValueError, match=match):
        TFGPT2Tokenizer(vocab, merges.split("\n")[:-1])


def test_byte_level_with_such_a_token():
    vocab = VOCAB | {"▁x": 6, "</w>": 7}
    assert TFGPT2Tokenizer(vocab, ["a b", "Ġ a"]).tokenize("ab a").numpy().tolist() == [2, 4]


@pytest.fixture
def backend():
    return byte_level(tokenizers.models.BPE(VOCAB, [("a", "b"), ("Ġ", "a")]))


def sequence(key, *steps):
    return {"type": "Sequence", key: list(steps)}


@pytest.mark.parametrize(
    "change",
    [
        lambda data: {"normalizer": None},
        lambda data: {"normalizer": sequence("normalizers")},
        lambda data: {"normalizer": sequence("normalizers", sequence("normalizers"))},
        lambda data: {"pre_tokenizer": sequence("pretokenizers", data["pre_tokenizer"])},
        lambda data: {
            "pre_tokenizer": sequence(
                "pretokenizers",
                sequence("pretokenizers"),
                sequence("pretokenizers", data["pre_tokenizer"]),
            )
        },
        lambda data: {"decoder": sequence("decoders", data["decoder"])},
        lambda data: {"post_processor": sequence("processors")},
        lambda data: {"post_processor": sequence("processors", sequence("processors"))},
    ],
)
def test_sequences_of_none_and_of_one(tmp_path, backend, change):
    data = json.loads(backend.to_str())
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data | change(data)))
    write(tmp_path, {"tokenizer.json": theirs.to_str()})
    ours = TFGPT2Tokenizer.from_pretrained(tmp_path)
    texts = ["ab a", " a", "", "b\n a!"]
    assert ours.tokenize(texts).to_list() == [theirs.encode(text).ids for text in texts]
    decoded = [text.decode() for text in ours.detokenize([[2, 4]]).numpy()]
    assert decoded == [theirs.decode([2, 4])]
    assert TFGPT2Tokenizer.from_tokenizer(theirs).spec == ours.spec


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("pre_tokenizer", sequence("pretokenizers")),
        ("pre_tokenizer", sequence("pretokenizers", {"type": "Digits", "individual_digits": True},
                                   {"type": "ByteLevel", "add_prefix_space": False,
                                    "trim_offsets": True, "use_regex": True})),
        ("normalizer", sequence("normalizers", {"type": "NFC"}, {"type": "Lowercase"})),
        ("decoder", sequence("decoders", {"type": "Fuse"})),
        ("post_processor", sequence("processors", *[{"type": "ByteLevel", "trim_offsets": True,
                                                     "add_prefix_space": True}] * 2)),
    ],
)  # fmt: skip
def test_sequences_that_do_something_else(tmp_path, backend, part, value):
    write(tmp_path, {"tokenizer.json": json.loads(backend.to_str()) | {part: value}})
    with pytest.raises(ValueError, match=f"`{part}`.*Received: .*`tokenizers` library"):
        files.read(tmp_path, FAMILIES)


@pytest.mark.parametrize("role", ["bos_token", "unk_token"])
def test_files_that_contradict_each_other(tmp_path, role):
    model = tokenizers.models.BPE(VOCAB, [], unk_token="a" if role == "unk_token" else None)
    backend = byte_level(model)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="a $A", special_tokens=[("a", 0)]
    )
    write(tmp_path, {"tokenizer.json": backend.to_str(), CONFIG: {role: "b"}})
    with pytest.raises(ValueError, match=f"another `{role}`.*tokenizer.json='a'"):
        files.read(tmp_path, FAMILIES)
    write(tmp_path, {CONFIG: {role: None, "add_bos_token": False}})
    spec = files.read(tmp_path, FAMILIES)
    assert spec.roles[role] == "a" and spec.add_bos_token
    assert not files.read(tmp_path, FAMILIES, add_bos_token=False).add_bos_token
