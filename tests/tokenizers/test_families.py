"""A family is one subclass and one line: a toy family, characters, works everywhere."""

import dataclasses
import json

import keras
import keras_nlp
import pytest
import tensorflow as tf
import tokenizers

from tfgpt2 import GPT2Tokenizer, TFGPT2Tokenizer
from tfgpt2.tokenizers import segments
from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.tokenizers.byte_level_bpe import ByteLevelBPETokenizer
from tfgpt2.tokenizers.graph import TokenizerGraph
from tfgpt2.tokenizers.json_files import read_text
from tfgpt2.tokenizers.registry import FAMILIES

VOCAB = {"a": 0, "b": 1, " ": 2, "é": 3, "日": 4, "<|endoftext|>": 5}
TEXTS = ["ab é", "", "日<|endoftext|>b", "a?b"]
IDS = [[0, 1, 2, 3], [], [4, 5, 1], [0, 1]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CharacterSpec(TokenizerSpec):
    """Each character is a token; characters without one are dropped."""

    tokenizer_class = "CharacterTokenizer"
    known_files = (("characters.txt",),)

    @classmethod
    def matches(cls, data):
        return data["model"]["type"] == "WordLevel" and "<toy>" in data["model"]["unk_token"]

    @classmethod
    def fields_from_json(cls, data):
        return {"vocab": data["model"]["vocab"]}

    @classmethod
    def fields_from_files(cls, find, config):
        lines = read_text(find("characters.txt")).split("\n")
        return {"vocab": {token: index for index, token in enumerate(lines)}}

    @classmethod
    def fields_from_python(cls, tokenizer):
        return {"vocab": tokenizer.characters} if hasattr(tokenizer, "characters") else None

    def vocabulary_files(self):
        return {"characters.txt": "\n".join(self.vocab)}

    def token_to_bytes(self, token):
        return token.encode()

    def build_graph(self, split):
        return CharacterGraph(self, split)

    def pipeline(self):
        result = tokenizers.Tokenizer(tokenizers.models.WordLevel(self.vocab, "<toy>"))
        result.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
        return result


class CharacterGraph(TokenizerGraph):
    def __init__(self, spec, split):
        super().__init__(spec.token_bytes, spec.special_ids, split)
        keys = [token.encode() for token in spec.vocab]
        keys += [segments.SPECIAL + token.content.encode() for token in split]
        ids = [*spec.vocab.values(), *(token.id for token in split)]
        self._ids = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.constant(ids, tf.int32)), -1
        )

    def encode_segments(self, text):
        cut = tf.strings.regex_replace(text.values, "(?s).", rb"\0" + segments.CUT)
        characters = segments.split_at_cuts(segments.keep_special(text, cut))
        ids = self._ids.lookup(characters.values)
        ids = tf.RaggedTensor.from_row_splits(ids, characters.row_splits)
        return tf.ragged.boolean_mask(ids, ids >= 0)


@pytest.fixture(autouse=True)
def registered():
    before = dict(FAMILIES)  # the order counts, and `monkeypatch` would reverse it
    FAMILIES.clear()
    # The toy is WordLevel for `tokenizers`, so that family must not stand before it.
    FAMILIES.update(byte_level_bpe=before["byte_level_bpe"], characters=CharacterSpec)
    yield
    FAMILIES.clear()
    FAMILIES.update(before)


@pytest.fixture
def tokenizer():
    return TFGPT2Tokenizer(VOCAB, family="characters", padding_side="left")


@pytest.fixture
def folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_text_to_ids_and_back_in_a_graph(tokenizer):
    assert isinstance(tokenizer, keras_nlp.tokenizers.Tokenizer)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def run(text):
        ids = tokenizer.tokenize(text)
        return ids, tokenizer.detokenize(ids), tokenizer.detokenize(ids, skip_special_tokens=True)

    ids, texts, plain = run(tf.constant(TEXTS))
    assert ids.to_list() == IDS
    assert [text.decode() for text in texts.numpy()] == [*TEXTS[:3], "ab"]
    assert plain[2].numpy().decode() == "日b"
    assert tokenizer.token_bytes == [token.encode() for token in VOCAB]
    assert tokenizer.get_vocab() == VOCAB and tokenizer.eos_token_id == 5
    assert tokenizer(["ab", "a"])["attention_mask"].numpy().tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("absent", [["tokenizer.json"], ["characters.txt"]])
def test_files_decide_the_family(tokenizer, folder, absent):
    for name in absent:
        (folder / name).unlink()
    for loaded in (TFGPT2Tokenizer.from_pretrained(folder), GPT2Tokenizer.from_pretrained(folder)):
        assert loaded.spec == tokenizer.spec
    assert loaded.decode(IDS[2]) == TEXTS[2]
    assert loaded(TEXTS[:3])["input_ids"] == IDS[:3]


def test_other_tokenizers_decide_the_family(tokenizer):
    class Slow:
        characters = {token: i for token, i in VOCAB.items() if i < 5}
        added_tokens_decoder = {5: "<|endoftext|>"}

    for other in (tokenizer, tokenizer.spec.backend(), Slow()):
        assert TFGPT2Tokenizer.from_tokenizer(other).tokenize(TEXTS).to_list() == IDS


def test_a_keras_file_names_the_family(tokenizer, tmp_path):
    config = tokenizer.get_config()
    assert config["family"] == "characters" and "merges" not in config
    assert TFGPT2Tokenizer.from_config(config).get_config() == config
    text = keras.Input((), dtype="string")
    keras.Model(text, tokenizer(text)).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = tokenizer(TEXTS)["input_ids"].numpy().tolist()
    assert loaded(tf.constant(TEXTS))["input_ids"].numpy().tolist() == expected


def test_families_that_are_not_known(tokenizer, folder, monkeypatch):
    names = "the families are byte_level_bpe"
    with pytest.raises(ValueError, match=f"`model.type`.*{names}.*model.type='WordLevel'.*`token"):
        ByteLevelBPETokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="`family` must be one of.*'byte_level.*'CharacterSpec'"):
        ByteLevelBPETokenizer.from_tokenizer(tokenizer)
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"]["type"] = "Other"
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"{names}.*, characters.*model.type='Other'"):
        GPT2Tokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="`family` must be one of.*family='words'"):
        TFGPT2Tokenizer(VOCAB, family="words")
    with pytest.raises(TypeError, match="no option 'add_prefix_space'.*add_prefix_space=True"):
        TFGPT2Tokenizer(VOCAB, family="characters", add_prefix_space=True)


def test_byte_level_bpe_needs_merges():
    with pytest.raises(TypeError, match="'merges'"):
        TFGPT2Tokenizer(VOCAB)
