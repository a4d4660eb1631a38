"""SentencePiece families in files, in `tokenizer.json`, in a generator, and what is refused."""

import base64
import json

import keras
import pytest
import sentencepiece
import sentencepiece.sentencepiece_model_pb2 as sentencepiece_proto
import tensorflow as tf
import tokenizers

from tests.support import slow_sentencepiece as slow
from tests.support.saved_model_files import run_in_clean_process
from tfgpt2 import GPT2Config, GPT2Tokenizer, TextGenerator, TFGPT2LMHeadModel, TFGPT2Tokenizer
from tfgpt2.tokenizers import files
from tfgpt2.tokenizers.registry import FAMILIES

CONFIG = "tokenizer_config.json"
TEXTS = ["Speak the speech, 12,3", "", "``é''  e\u0301\u0327 x", "ﬁ Ａ </s>b [SEP]"]


@pytest.fixture(scope="module")
def model():
    return slow.train(
        slow.CORPUS,
        vocab_size=200,
        hard_vocab_limit=False,
        control_symbols=["[PAD]", "[CLS]", "[SEP]", "[MASK]"],
    )


@pytest.fixture(scope="module")
def proto(model):
    return sentencepiece_proto.ModelProto.FromString(model)


def write(folder, model, config=None, name="spiece.model", **others):
    (folder / name).write_bytes(model)
    for filename, content in {CONFIG: config, **others}.items():
        if content is not None:
            (folder / filename).write_text(json.dumps(content), encoding="utf-8")
    return folder


CLASSES = {
    "BertGenerationTokenizer": "sentencepiece", "T5Tokenizer": "t5", "T5TokenizerFast": "t5",
    "MT5Tokenizer": "t5", "AlbertTokenizer": "albert", "AlbertTokenizerFast": "albert",
    "GPTSw3Tokenizer": "gpt_sw3",
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_the_class_decides_the_family(tmp_path, model, name):
    write(tmp_path, model, {"tokenizer_class": name, "do_lower_case": True})
    ours = TFGPT2Tokenizer.from_pretrained(tmp_path)
    assert type(ours.spec) is FAMILIES[CLASSES[name]] and ours.spec.do_lower_case
    assert ours.unk_token_id == 0 and ours.spec.model == model
    out = tmp_path / "out"
    ours.save_pretrained(out)
    assert (out / "spiece.model").read_bytes() == model
    assert {path.name for path in out.iterdir()} == {
        "spiece.model", CONFIG, "special_tokens_map.json"}  # fmt: skip
    for again in (TFGPT2Tokenizer.from_pretrained(out), GPT2Tokenizer.from_pretrained(out)):
        assert again.spec == ours.spec
    config = json.loads(json.dumps(ours.get_config()))
    assert TFGPT2Tokenizer.from_config(config).get_config() == ours.get_config()


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.model"])
def test_no_class(tmp_path, model, name):
    ours = TFGPT2Tokenizer.from_pretrained(write(tmp_path, model, name=name))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert ours.tokenize(TEXTS[:3]).to_list() == [processor.encode(text) for text in TEXTS[:3]]
    assert ours.spec.text_template.tokens == ()


def test_special_tokens_of_each_class(tmp_path, model):
    def row(name, **config):
        write(tmp_path, model, {"tokenizer_class": name, **config})
        layer = TFGPT2Tokenizer.from_pretrained(tmp_path)
        host = GPT2Tokenizer.from_pretrained(tmp_path)
        ids = layer("speak")["input_ids"].numpy()[0].tolist()
        assert host("speak")["input_ids"] == ids
        pair = [layer.id_to_token(i) for i in host("a", "b")["input_ids"]]
        prompt = layer.tokenize_prompts(tf.constant(["speak"])).to_list()[0]
        keep = set(layer.spec.text_template.tokens)
        names = ([layer.id_to_token(i) for i in some] for some in (ids, prompt))
        return [[t for t in some if t in keep] for some in (*names, pair)]

    assert row("T5Tokenizer") == [["</s>"], [], ["</s>", "</s>"]]
    assert row("AlbertTokenizer") == [["[CLS]", "[SEP]"], ["[CLS]"], ["[CLS]", "[SEP]", "[SEP]"]]
    assert row("BertGenerationTokenizer") == row("GPTSw3Tokenizer") == [[], [], []]


def test_extra_ids_and_the_mask_token(tmp_path, model, proto):
    size = len(proto.pieces)
    write(tmp_path, model, {"tokenizer_class": "T5Tokenizer", "extra_ids": 3})
    ours = TFGPT2Tokenizer.from_pretrained(tmp_path)
    assert [ours.token_to_id(f"<extra_id_{i}>") for i in range(3)] == [size + 2, size + 1, size]
    ours.save_pretrained(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert saved["extra_ids"] == 3 and saved["legacy"] is True
    assert files.read(tmp_path / "out", FAMILIES) == ours.spec
    write(tmp_path, model, {"tokenizer_class": "AlbertTokenizer", "keep_accents": True})
    albert = TFGPT2Tokenizer.from_pretrained(tmp_path)
    mask = albert.token_to_id("[MASK]")
    assert albert.tokenize("a  [MASK]").numpy().tolist()[-1] == mask
    assert albert.tokenize("a  [MASK]").shape == albert.tokenize("a[MASK]").shape


def test_the_model_wins_over_tokenizer_json(tmp_path, model):
    other = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0))
    write(tmp_path, model, {"tokenizer_class": "T5Tokenizer"})
    other.save(str(tmp_path / "tokenizer.json"))
    assert TFGPT2Tokenizer.from_pretrained(tmp_path).spec.model == model


def unigram_json(proto, steps=(), template=None, pre=None):
    """Returns a `tokenizer.json` as transformers 4 makes one from a SentencePiece model."""
    # Albert splits commas off digits: transformers 4 makes such pieces too unlikely.
    pieces = [
        (p.piece, p.score - 100 * (p.piece[-1] == "," and p.piece[-2:-1].isdigit()))
        for p in proto.pieces
    ]
    result = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 0))
    charsmap = tokenizers.normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    spaces = tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    result.normalizer = tokenizers.normalizers.Sequence([*steps, charsmap, spaces])
    result.pre_tokenizer = pre or tokenizers.pre_tokenizers.Metaspace()
    result.decoder = tokenizers.decoders.Metaspace()
    special = [p.piece for p in proto.pieces if p.type in (2, 3)]
    result.add_special_tokens(
        [tokenizers.AddedToken(t, normalized=False, special=True) for t in special]
    )
    if template:
        tokens = [(t, result.token_to_id(t)) for t in special]
        result.post_processor = tokenizers.processors.TemplateProcessing(
            single=template, special_tokens=tokens
        )
    return result


def quotes():
    return [tokenizers.normalizers.Replace(text, '"') for text in ("``", "''")]


@pytest.mark.parametrize(
    ("family", "steps", "template"),
    [
        ("sentencepiece", [], None),
        ("t5", [], "$A </s>"),
        ("t5", [tokenizers.normalizers.Lowercase()], "$A </s>"),
        ("albert", quotes(), "[CLS] $A [SEP]"),
    ],
)
def test_tokenizer_json(tmp_path, proto, family, steps, template):
    theirs = unigram_json(proto, steps, template)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = TFGPT2Tokenizer.from_pretrained(tmp_path)
    assert type(ours.spec) is FAMILIES[family]
    texts = ["Speak the speech, 12,3", "", "``é''  x", "a</s>b[SEP]", *slow.CORPUS[:8]]
    texts = texts if steps else [text.lower() for text in texts]
    assert ours.tokenize(texts).to_list() == [
        theirs.encode(text, add_special_tokens=False).ids for text in texts
    ]
    assert ours("speak")["input_ids"].numpy()[0].tolist() == theirs.encode("speak").ids
    # Where the two differ, SentencePiece is followed: `tokenizers` looks up whole clusters of a
    # letter and its marks, and keeps white space at the end.
    reference = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    for text in ("x e\u0301\u0327 \u1100\u1161\u0301", "speak  ", " \u3000speak"):
        expected = reference.encode(text)
        assert ours.tokenize(text).numpy().tolist() == expected
        if text[0] != " ":
            assert theirs.encode(text, add_special_tokens=False).ids != expected
    assert TFGPT2Tokenizer.from_tokenizer(theirs).spec == ours.spec
    ours.save_pretrained(tmp_path / "out")
    again = TFGPT2Tokenizer.from_pretrained(tmp_path / "out")
    assert again.tokenize(texts).to_list() == ours.tokenize(texts).to_list()
    assert again.spec.text_template == ours.spec.text_template


def edit(folder, change):
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d["model"].update(unk_id=None), "`model.unk_id`.*unknown token.*=None"),
        (lambda d: d["model"].update(vocab=[["a"]], unk_id=0), "list of tokens with scores"),
        (lambda d: d.update(normalizer={"type": "NFC"}), "`normalizer`.*'NFC'.*pass its ids"),
        (lambda d: d.update(pre_tokenizer={"type": "Digits", "individual_digits": True}),
         "`pre_tokenizer`.*Digits"),
        (lambda d: d["pre_tokenizer"].update(prepend_scheme="first"), "`pre_tokenizer`.*first"),
        (lambda d: d["pre_tokenizer"].update(replacement="_"), "`pre_tokenizer`"),
        (lambda d: d["normalizer"]["normalizers"][0].update(precompiled_charsmap="AAAA"),
         "charsmap.*cut short"),
        (lambda d: d["normalizer"]["normalizers"][0].update(precompiled_charsmap="?"),
         "tokenizer.json.*charsmap"),
        (lambda d: d["model"]["vocab"].append(["a", -1.0]), "there twice.*'a'"),
    ],
)  # fmt: skip
def test_tokenizer_json_that_asks_for_more(tmp_path, proto, change, match):
    unigram_json(proto).save(str(tmp_path / "tokenizer.json"))
    edit(tmp_path, change)
    with pytest.raises(ValueError, match=match):
        TFGPT2Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((("model", "vocab", 1), entry) for entry in
          ([{"content": "a"}, 0], [], ["\ud800", 0], ["a", 10**400], "a", ["a", True])),
        (("normalizer",), {"type": "Replace", "pattern": "a", "content": "b"}),
        (("normalizer",), {"type": "Replace", "pattern": {"String": ["a"]}, "content": "b"}),
        (("normalizer",), {"type": "Replace", "pattern": {"String": {}}, "content": "b"}),
        (("added_tokens",), [{"id": 0}]),
        (("post_processor",), {"type": "TemplateProcessing", "single": 3}),
    ],
)  # fmt: skip
def test_damaged_tokenizer_json(tmp_path, proto, place, value):
    unigram_json(proto).save(str(tmp_path / "tokenizer.json"))

    def change(data):
        *parents, last = place
        for key in parents:
            data = data[key]
        data[last] = value

    edit(tmp_path, change)
    with pytest.raises((ValueError, TypeError), match="Received: "):
        files.read(tmp_path, FAMILIES)


def changed(proto, change):
    copy = sentencepiece_proto.ModelProto()
    copy.CopyFrom(proto)
    change(copy)
    return copy.SerializeToString()


def cut_charsmap(copy):
    copy.normalizer_spec.precompiled_charsmap = copy.normalizer_spec.precompiled_charsmap[:-40000]


def cut_trie(copy):
    copy.normalizer_spec.precompiled_charsmap = copy.normalizer_spec.precompiled_charsmap[:999]


def short_texts(copy):
    charsmap = copy.normalizer_spec.precompiled_charsmap
    size = int.from_bytes(charsmap[:4], "little")
    copy.normalizer_spec.precompiled_charsmap = charsmap[: 4 + size] + b"a\0"


def wild_link(copy):
    charsmap = bytearray(copy.normalizer_spec.precompiled_charsmap)
    charsmap[4:8] = (0x3FFFFF << 9).to_bytes(4, "little")
    copy.normalizer_spec.precompiled_charsmap = bytes(charsmap)


DAMAGED = [
    (lambda p: p.SerializeToString()[:-1000], "'spiece.model'.*not a readable.*cut short"),
    (lambda p: p.SerializeToString()[:300], "'spiece.model'.*cut short"),
    (lambda p: b"", "'spiece.model'.*cut short"),
    (lambda p: b"{}", "'spiece.model'.*not a serialized model"),
    (lambda p: changed(p, lambda c: c.ClearField("trainer_spec")), "cut short"),
    (lambda p: changed(p, cut_charsmap), "normalization rules.*cut short"),
    (lambda p: changed(p, cut_trie), "normalization rules.*cut short"),
    (lambda p: changed(p, short_texts), "normalization rules.*cut short"),
    (lambda p: changed(p, wild_link), "normalization rules.*cut short"),
    (lambda p: changed(p, lambda c: setattr(c.trainer_spec, "model_type", 3)),
     "'spiece.model'.*type WORD.*Unigram and BPE.*model_type='WORD'.*pass its ids"),
    (lambda p: changed(p, lambda c: setattr(c.trainer_spec, "model_type", 4)), "type CHAR"),
    (lambda p: changed(p, lambda c: setattr(c.pieces[9], "piece", c.pieces[8].piece)), "twice"),
    (lambda p: changed(p, lambda c: setattr(c.pieces[0], "type", 1)), "one unknown piece"),
    (lambda p: changed(p, lambda c: setattr(c.pieces[9], "score", float("nan"))), "no number"),
    (lambda p: changed(p, lambda c: setattr(c.trainer_spec, "byte_fallback", True)), "256 pieces"),
    (lambda p: changed(p, lambda c: setattr(c.denormalizer_spec, "precompiled_charsmap", b"x")),
     "denormalizer_spec"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "match"), DAMAGED)
def test_damaged_models(tmp_path, proto, damage, match):
    write(tmp_path, damage(proto), {"tokenizer_class": "T5Tokenizer"})
    for cls in (TFGPT2Tokenizer, GPT2Tokenizer):
        with pytest.raises(ValueError, match=match) as raised:
            cls.from_pretrained(tmp_path)
        assert "Received: " in str(raised.value)


def test_options_that_contradict_the_model(tmp_path, model):
    with pytest.raises(ValueError, match="`vocab` is not.*tokens=1, pieces="):
        TFGPT2Tokenizer({"a": 0}, model=model, family="t5")
    with pytest.raises(ValueError, match="in Base64"):
        TFGPT2Tokenizer(model="?", family="t5")
    for key, value, match in [
        ("legacy", False, "`legacy=False`"),
        ("extra_ids", -1, "`extra_ids` must be from 0"),
        ("extra_ids", 10**9, "`extra_ids` must be from 0"),
        ("sp_model_kwargs", {"enable_sampling": True}, "random choice"),
    ]:
        write(tmp_path, model, {"tokenizer_class": "T5Tokenizer", key: value})
        with pytest.raises(ValueError, match=match):
            TFGPT2Tokenizer.from_pretrained(tmp_path)
    write(tmp_path, model, {"tokenizer_class": "XLMRobertaTokenizer"})
    with pytest.raises(ValueError, match="XLMRobertaTokenizer.*no supported family.*t5, albert"):
        TFGPT2Tokenizer.from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def albert(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("albert")
    write(folder, model, {"tokenizer_class": "AlbertTokenizer", "keep_accents": True})
    return folder


def test_special_tokens_that_are_text(albert):
    """Also where a text is nothing but such a token."""
    texts = ["[SEP]", "a[SEP]b", "[CLS] x [MASK]", *TEXTS]
    host = GPT2Tokenizer.from_pretrained(albert, split_special_tokens=True)
    layer = TFGPT2Tokenizer.from_pretrained(albert, split_special_tokens=True)
    expected = layer.tokenize(texts).to_list()
    assert host(texts, add_special_tokens=False)["input_ids"] == expected
    found = {token_id for ids in expected for token_id in ids}
    assert not found & {host.sep_token_id, host.cls_token_id, host.mask_token_id}


def test_in_datasets_and_keras_files(albert, tmp_path):
    layer = TFGPT2Tokenizer.from_pretrained(albert, padding_side="left")
    expected = layer(TEXTS)["input_ids"].numpy().tolist()
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS).batch(4).map(layer)
    assert next(iter(dataset))["input_ids"].numpy().tolist() == expected
    text = keras.Input((), dtype="string")
    keras.Model(text, layer(text)).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded(tf.constant(TEXTS))["input_ids"].numpy().tolist() == expected


@pytest.fixture(scope="module")
def checkpoint(albert):
    """A tiny checkpoint with an Albert tokenizer, as goldfish models have one."""
    size = TFGPT2Tokenizer.from_pretrained(albert).vocab_size
    config = GPT2Config(
        vocab_size=size, n_positions=32, n_embd=8, n_layer=1, n_head=2, activation_function="gelu"
    )
    keras.utils.set_random_seed(3)
    TFGPT2LMHeadModel(config).save_pretrained(albert)
    return albert


@pytest.mark.long
def test_string_in_string_out(checkpoint):
    generator = TextGenerator.from_pretrained(checkpoint, jit_compile=False)
    tokenizer, spec = generator.tokenizer, generator.tokenizer.spec
    one = generator.generate("Speak the", max_new_tokens=6, details=True)
    prompt = tokenizer.tokenize("speak the").numpy().tolist()
    ids = tf.constant([[*spec.prefix_ids, *prompt]])
    out = generator.model.generate(ids, max_new_tokens=6, eos_token_id=spec.end_id)
    assert one.token_ids == out[0, ids.shape[1] :].numpy().tolist()
    assert one.prompt_tokens == ids.shape[1]
    shown = [t for t in one.token_ids if t not in spec.special_ids]
    assert one.text.encode() == b"".join(spec.token_bytes[t] for t in shown)


@pytest.mark.long
def test_streams_and_stop_strings(checkpoint):
    generator = TextGenerator.from_pretrained(checkpoint, jit_compile=False)
    spec = generator.tokenizer.spec
    one = generator.generate("Speak the", max_new_tokens=6, details=True)
    shown = [t for t in one.token_ids if t not in spec.special_ids]
    assert "".join(generator.stream("Speak the", max_new_tokens=6)) == one.text
    # A stop string sees the space that a piece begins with.
    piece = next((t for t in shown if spec.token_bytes[t].startswith(b" ")), shown[0])
    stop = spec.token_bytes[piece].decode()
    stopped = generator.generate("Speak the", max_new_tokens=6, stop=[stop], details=True)
    assert stopped.finish_reason == "stop" and stop not in stopped.text


@pytest.mark.long
def test_a_saved_model_in_a_clean_process(checkpoint, tmp_path):
    generator = TextGenerator.from_pretrained(checkpoint, jit_compile=False)
    generator.export(tmp_path / "1")
    texts = ["Speak the", "9,9 ``quoted''"]
    rows = generator.tokenizer.tokenize(texts).to_tensor(-1).numpy().tolist()
    answers = run_in_clean_process(
        tmp_path / "1",
        {
            "text": ["generate", {"text": texts, "max_new_tokens": [5]}],
            "ids": ["tokenize", {"text": texts}],
            "back": ["detokenize", {"ids": rows}],
        },
    )  # fmt: skip
    expected = generator.generate(texts, max_new_tokens=5)
    assert [raw.encode("latin-1").decode() for raw in answers["text"]["text"][2]] == expected
    ids = generator.tokenizer.tokenize_prompts(texts)  # with `[CLS]`
    assert answers["ids"]["num_tokens"][2] == ids.row_lengths().numpy().tolist()
    ids = generator.tokenizer.tokenize(texts)
    texts = generator.tokenizer.detokenize(ids, skip_special_tokens=True).numpy()
    back = [text.decode() for text in texts]
    assert [raw.encode("latin-1").decode() for raw in answers["back"]["text"][2]] == back


def test_conversion_keeps_the_tokenizer(checkpoint, tmp_path):
    from tfgpt2.conversion.convert import convert

    convert(checkpoint, tmp_path / "out", to="safetensors")
    assert (tmp_path / "out" / "spiece.model").is_file()
    loaded = TFGPT2Tokenizer.from_pretrained(tmp_path / "out")
    assert loaded.spec == TFGPT2Tokenizer.from_pretrained(checkpoint).spec


def test_base64_of_the_model(model):
    text = base64.b64encode(model).decode()
    assert TFGPT2Tokenizer(model=text, family="albert").spec.model == model
