"""BPE over characters, with and without `▁` for spaces: the ids of `tokenizers`."""

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
from tfgpt2.tokenizers.character_bpe import CharacterBPESpec
from tfgpt2.tokenizers.registry import FAMILIES

WORDS = "안녕하세요 한국어 입니다 안녕 hello world hell low aa aaa 日本 ▁ ▁▁".split()
SENTENCES = [
    "안녕하세요 한국어 입니다",
    "hello world low hello hell",
    "aa aaaa a  aaa",
    "日本 日本語 本",
]


def trained(fuse=False, unk="<unk>", scheme="always", split=True, form=None, strip=False):
    """A BPE tokenizer as `tokenizers` trains it, with added tokens as KoGPT2 has them."""
    result = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=unk, fuse_unk=fuse))
    if scheme:
        result.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(
            prepend_scheme=scheme, split=split
        )
        result.decoder = tokenizers.decoders.Metaspace(prepend_scheme=scheme)
    else:
        result.decoder = tokenizers.decoders.Fuse()
    steps = [getattr(tokenizers.normalizers, form)()] if form else []
    steps += [tokenizers.normalizers.Strip()] if strip else []
    if steps:
        result.normalizer = tokenizers.normalizers.Sequence(steps)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=90, special_tokens=["</s>", "<unk>"], show_progress=False
    )
    result.train_from_iterator(SENTENCES, trainer)
    result.add_tokens([tokenizers.AddedToken("ㅋㅋㅋ", normalized=False), "^^"])
    return result


OPTIONS = [
    {},
    {"fuse": True},
    {"unk": None},
    {"scheme": "never"},
    {"scheme": "first"},
    {"split": False},
    {"scheme": None},
    {"scheme": None, "unk": None},
    {"scheme": None, "fuse": True},
    {"form": "NFKC"},
    {"form": "NFD", "strip": True},
]
TEXTS = [
    *NASTY,
    *SENTENCES,
    "안녕ㅋㅋㅋ 하세요^^ ㅋㅋㅋ",
    "hello</s> world",
    " hello",
    "hello  ",
    "▁hello▁ ▁",
]


@pytest.mark.parametrize("options", OPTIONS)
def test_ids_and_texts_are_those_of_tokenizers(options):
    theirs = trained(**options)
    layer = TFGPT2Tokenizer.from_tokenizer(theirs)
    assert type(layer.spec) is CharacterBPESpec
    texts = [*TEXTS, *fuzzed_texts(1000, 5, WORDS)]
    assert count_differences(layer, texts, theirs) == (0, [])
    assert count_differences(layer, texts) == (0, [])
    for text in SENTENCES:
        ids = theirs.encode(text).ids
        if "▁" in layer.id_to_token(ids[0])[1:]:
            continue  # `tokenizers` leaves out every `▁` of the first token
        assert layer.detokenize([ids]).numpy()[0].decode() == theirs.decode(ids)
        assert GPT2Tokenizer.from_tokenizer(layer).decode(ids) == theirs.decode(ids)


def test_files(tmp_path):
    theirs = trained()
    theirs.save(str(tmp_path / "tokenizer.json"))
    names = {"bos_token": "</s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    layer = TFGPT2Tokenizer.from_pretrained(tmp_path)
    assert (layer.eos_token_id, layer.unk_token_id) == (0, 1)
    layer.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "vocab.json").exists()
    assert TFGPT2Tokenizer.from_pretrained(tmp_path / "again").spec == layer.spec
    assert TFGPT2Tokenizer.from_config(layer.get_config()).spec == layer.spec
    host = GPT2Tokenizer.from_pretrained(tmp_path)
    text = "안녕하세요 hello"
    offsets = host(text, return_offsets_mapping=True).offset_mapping
    assert "".join(text[a:b] for a, b in offsets) == text


def test_bytes_of_tokens_are_those_after_other_text():
    layer = TFGPT2Tokenizer.from_tokenizer(trained())
    ids = layer.tokenize("hello world")
    assert layer.detokenize_bytes(ids).numpy() == b" hello world"
    assert layer.detokenize(ids).numpy() == b"hello world"


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        (("normalizer",), {"type": "Lowercase"}, "normalizer"),
        (("decoder",), {"type": "BPEDecoder", "suffix": "</w>"}, "decoder"),
        (("pre_tokenizer", "replacement"), "_", "pre_tokenizer"),
        (("model", "byte_fallback"), True, "model.byte_fallback"),
        (("model", "end_of_word_suffix"), "</w>", "model.end_of_word_suffix"),
    ],
)
def test_parts_that_do_something_else(path, value, part):
    data = json.loads(trained().to_str())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=f"`{part}` asks for something.*Received: {part}="):
        FAMILIES["character_bpe"].fields_from_json(data)


def test_a_model_whose_unknown_token_is_missing():
    with pytest.raises(ValueError, match="`unk_token` of the model must be a token of its voc"):
        CharacterBPESpec.create({"a": 0}, roles={"unk_token": "<u>"}, unk_in_model=True)
    with pytest.raises(ValueError, match="`metaspace` must be one of"):
        CharacterBPESpec.create({"a": 0}, metaspace="often")


@pytest.fixture(scope="module")
def smiles(shared_data):
    path = shared_data / "tokenizer_families" / "smiles_gpt" / "tokenizer.json"
    return tokenizers.Tokenizer.from_file(str(path)), TFGPT2Tokenizer.from_pretrained(path.parent)


MOLECULES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C ",
    "  C#N\n",
    "é C",
    "[Na+].[Cl-]",
]


def test_the_real_smiles_tokenizer(smiles):
    theirs, layer = smiles
    assert count_differences(layer, [*NASTY, *MOLECULES], theirs) == (0, [])
    assert (layer.spec.prefix_ids, layer.spec.suffix_ids, layer.eos_token_id) == ([1], [2], 2)
    host = GPT2Tokenizer.from_tokenizer(layer)
    for text in MOLECULES:
        assert host(text).input_ids == theirs.encode(text).ids
        assert host(text, "CC").input_ids == theirs.encode(text, "CC").ids
        ids = theirs.encode(text.strip()).ids
        assert layer.detokenize([ids], skip_special_tokens=True).numpy()[0].decode() == (
            theirs.decode(ids))  # fmt: skip


def test_spaces_are_never_taken_for_byte_level_silently(tmp_path):
    """vocab.json and merges.txt of a metaspace BPE, without the file that says which steps."""
    model = json.loads(trained().to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(map(" ".join, model["merges"])))
    with pytest.raises(ValueError, match="marks spaces differently from byte-level BPE"):
        files.read(tmp_path, FAMILIES)


@pytest.mark.long
@pytest.mark.parametrize("options", [{}, {"scheme": None, "fuse": True}, {"unk": None}])
def test_every_code_point_in_context(options):
    theirs = trained(**options)
    layer = TFGPT2Tokenizer.from_tokenizer(theirs)
    texts = (f"a{c}b 안{c} {c}" for c in all_code_points())
    assert [count_differences(layer, part, theirs) for part in batches(texts)] == [(0, [])] * 23


@pytest.mark.long
def test_a_million_fuzzed_texts(smiles):
    theirs = trained()
    layer = TFGPT2Tokenizer.from_tokenizer(theirs)
    for part in batches(fuzzed_texts(500_000, 21, WORDS)):
        assert count_differences(layer, part, theirs) == (0, [])
    theirs, layer = smiles
    for part in batches(fuzzed_texts(500_000, 22, ["CC", "(=O)", "c1", "Cl", "[N+]", " "])):
        assert count_differences(layer, part, theirs) == (0, [])
