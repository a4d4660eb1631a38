"""GGUF: files that llama.cpp's own package wrote; see `tests/golden/gguf/make_gguf.py`."""

import importlib.util
import struct
import sys
import tarfile
import types

import numpy as np
import pytest
import tokenizers

from tests.support.checkpoint_loading import load_language_model
from tests.support.paths import GOLDEN
from tfgpt2 import TextGenerator, TFGPT2Tokenizer, convert
from tfgpt2.checkpoints.readers import gguf_blocks
from tfgpt2.checkpoints.readers.gguf import GGUFReader

FOLDER = GOLDEN / "gguf"
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder with the files and the logits."""
    folder = tmp_path_factory.mktemp("gguf")
    with tarfile.open(FOLDER / "gguf.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def made():
    """The module that made the files, without the package that wrote them."""
    stand_in = types.ModuleType("gguf")
    stand_in.GGMLQuantizationType = types.SimpleNamespace(**dict.fromkeys(TYPES))
    stand_in.quants = None
    spec = importlib.util.spec_from_file_location("make_gguf", FOLDER / "make_gguf.py")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get("gguf")
    sys.modules["gguf"] = stand_in
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["gguf"]
        if before is not None:
            sys.modules["gguf"] = before
    return module


@pytest.mark.parametrize("kind", sorted(gguf_blocks.QUANTISED))
def test_blocks(kind):
    name = gguf_blocks.NAMES[kind]
    stored = np.load(FOLDER / "blocks.npz")
    np.testing.assert_array_equal(
        gguf_blocks.QUANTISED[kind].values(stored[name]), stored[f"{name}.values"]
    )


@pytest.mark.parametrize("kind", TYPES)
def test_logits(files, made, kind):
    model = load_language_model(files / f"{kind}.gguf")
    found = model(made.IDS).logits.numpy()
    np.testing.assert_allclose(found, np.load(files / f"{kind}.npy"), atol=3e-5, rtol=0)


def test_numbers_keep_their_type(files, made):
    weights = made.weights()
    for kind, dtype in {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.items():
        reader = GGUFReader(files / f"{kind}.gguf")
        key = "transformer.h.1.mlp.c_fc.weight"
        assert reader.dtype(key).name == reader.read(key).dtype.name == dtype
        np.testing.assert_array_equal(reader.read(key).astype("f4"), weights[key].T)


def test_configuration(files, made):
    config = load_language_model(files / "F16.gguf", attn_pdrop=0.25).config
    for name, value in made.CONFIG.items():
        assert getattr(config, name) == value, name
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (29, 29, None)
    assert (config.layer_norm_epsilon, config.inner_size) == (1e-5, 128)
    assert config.tie_word_embeddings and config.attn_pdrop == 0.25


def test_an_output_matrix_of_its_own(files, tmp_path):
    path = files / "F32.gguf"
    content = bytearray(path.read_bytes())
    start = GGUFReader(path)._entries["lm_head.weight"].info.start
    content[start : start + 4] = struct.pack("<f", 7)
    (tmp_path / "model.gguf").write_bytes(content)
    model = load_language_model(tmp_path)  # the name that a directory has it under
    assert not model.config.tie_word_embeddings
    assert model.lm_head.weight.numpy()[0, 0] == 7


def test_tokenizer(files):
    tokenizer = TFGPT2Tokenizer.from_pretrained(files / "F32.gguf")
    assert tokenizer("the the<|endoftext|>ab")["input_ids"].numpy().tolist() == [[27, 28, 29, 0, 1]]
    assert tokenizer("a<user>b")["input_ids"].numpy().tolist() == [[0, 30, 1]]
    assert (tokenizer.spec.roles["eos_token"], tokenizer.bos_token_id) == ("<|endoftext|>", 29)
    assert "[PAD33]" not in tokenizer.spec.vocab


@pytest.mark.long
def test_text_from_a_directory_by_the_name_of_the_file(files):
    generator = TextGenerator.from_pretrained(files, gguf_file="Q8_0.gguf", jit_compile=False)
    whole = TextGenerator.from_pretrained(files / "Q8_0.gguf", jit_compile=False)
    texts = [g.generate("the", temperature=0, max_new_tokens=4) for g in (generator, whole)]
    assert texts[0] == texts[1]
    with pytest.raises(FileNotFoundError, match="no file 'Q2.gguf'"):
        load_language_model(files, gguf_file="Q2.gguf")


@pytest.mark.parametrize("format", ["safetensors", "keras_hub"])
def test_conversion_keeps_the_tokenizer(files, made, tmp_path, format):
    report = convert(files / "Q8_0.gguf", tmp_path / "new", to=format, progress=False)
    assert (report.source_format, report.notes[:1]) == ("gguf", report.notes)
    model = load_language_model(tmp_path / "new")
    logits = model(made.IDS).logits.numpy()
    np.testing.assert_allclose(logits, np.load(files / "Q8_0.npy"), atol=3e-5, rtol=0)
    old, new = (TFGPT2Tokenizer.from_pretrained(p) for p in (files / "F32.gguf", tmp_path / "new"))
    text = "the tea, the thé"
    assert new(text)["input_ids"].numpy().tolist() == old(text)["input_ids"].numpy().tolist()
    if format == "safetensors":
        library = tokenizers.Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
        assert library.encode(text).ids == old(text)["input_ids"].numpy()[0].tolist()


# Bad input ----------------------------------------------------------------------------------------


def changed(files, path, *changes):
    """Writes a copy of the small file in which bytes are replaced by as many others."""
    content = (files / "Q4_0.gguf").read_bytes()
    for old, new in changes:
        assert old in content and len(old) == len(new)
        content = content.replace(old, new, 1)
    path.write_bytes(content)
    return path


def _text(value):
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ((_text(b"gpt2"), _text(b"rwkv")), "another architecture.*architecture='rwkv'.*'gpt2'"),
        ((b"GGUF\x03", b"GGUF\x01"), "version 2 or 3.*version=1.*Convert the model again"),
        ((b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03"), "version 2 or 3, in little-endian order"),
        ((b"gpt2.block_count", b"gpt2.block_cxunt"), "metadata lack gpt2.block_count"),
        ((b"general.architecture", b"general.architecturx"), "another architecture"),
    ],
)
def test_other_files(files, tmp_path, change, part):
    path = changed(files, tmp_path / "x.gguf", change)
    with pytest.raises(ValueError, match=part) as caught:
        load_language_model(path)
    assert "x.gguf" in str(caught.value)


def test_an_unsupported_type_and_a_part_of_a_model(files, tmp_path):
    name = _text(b"blk.1.ffn_up.weight")
    content = (files / "Q4_0.gguf").read_bytes()
    place = content.index(name) + len(name) + 4 + 16
    assert content[place] == 2
    path = tmp_path / "x.gguf"
    path.write_bytes(content[:place] + bytes([16]) + content[place + 1 :])
    with pytest.raises(
        ValueError, match="of the type IQ2_XXS; supported are F32.*Q6_K.*x.gguf.*llama-quantize"
    ):
        load_language_model(path)
    count = _text(b"split.count") + struct.pack("<IH", 2, 3)
    more = struct.pack("<Q", struct.unpack("<Q", content[16:24])[0] + 1)
    path.write_bytes(content[:16] + more + count + content[24:] + bytes(32))
    with pytest.raises(ValueError, match="one of several.*x.gguf.*llama-gguf-split --merge"):
        load_language_model(path)


def test_other_tokenizers_leave_the_weights_readable(files, tmp_path):
    key = b"tokenizer.ggml.model" + struct.pack("<I", 8)
    path = changed(files, tmp_path / "x.gguf", (key + _text(b"gpt2"), key + _text(b"bert")))
    assert load_language_model(path).config.vocab_size == 34
    with pytest.raises(ValueError, match="not GPT-2's byte-level BPE.*model='bert'.*Pass ids"):
        TFGPT2Tokenizer.from_pretrained(path)


def test_cut_short_and_damaged(files, tmp_path):
    """Every file that ends early, and lengths that ask for more than there is."""
    content = (files / "Q4_0.gguf").read_bytes()
    path = tmp_path / "x.gguf"
    for size in [*range(4, 1200, 37), len(content) // 2, len(content) - 40]:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="x.gguf is not a readable checkpoint"):
            GGUFReader(path)
    for place in (8, 16, 24, 24 + 8 + 20 + 4):
        path.write_bytes(content[:place] + b"\xff" * 8 + content[place + 8 :])
        with pytest.raises(ValueError, match="x.gguf is not a readable checkpoint"):
            GGUFReader(path)


def test_a_file_of_no_known_format(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x07onnx")
    with pytest.raises(ValueError, match="no weights in a known format.*model.onnx.*Name the dir"):
        load_language_model(path)
