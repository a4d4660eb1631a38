"""`convert`: the weights are the same, other libraries load them, and nothing is left half done."""

import json
import shutil

import numpy as np
import pytest

import tfgpt2
from tests.support.checkpoint_loading import find_in, first_output, load_model
from tfgpt2.checkpoints.detection import open_checkpoint
from tfgpt2.checkpoints.names import with_prefix
from tfgpt2.checkpoints.registry import WRITERS
from tfgpt2.checkpoints.writers import h5
from tfgpt2.conversion import verification
from tfgpt2.conversion.convert import convert, load_keras_hub

SOURCES = ["torch_zip", "torch_base", "tf_lm", "tf_safetensors", "flax", "tf1", "keras_hub"]
FORMATS = ["safetensors", "h5", "keras_hub"]


def test_formats():
    assert list(WRITERS) == FORMATS


@pytest.mark.parametrize(
    ("case", "to"),
    [(case, "safetensors") for case in SOURCES] + [("torch_base", to) for to in FORMATS[1:]],
)
def test_every_format_goes_in_and_out(case, to, golden, tmp_path, model):
    report = convert(golden / case, tmp_path / "dst", to=to, progress=False)
    assert report.format == to and report.difference == 0 and report.tensors == 28
    assert set(report.files) == {
        str(path.relative_to(report.path)) for path in report.path.rglob("*") if path.is_file()
    }
    built = load_model(getattr(tfgpt2, report.model), tmp_path / "dst")
    wanted = np.load(golden / "torch_zip" / "logits.npy")
    np.testing.assert_allclose(first_output(built, model.IDS), wanted, atol=5e-6, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["dst"]


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("tf_base", "TFGPT2Model"),
        ("tf_double_heads", "TFGPT2DoubleHeadsModel"),
        ("tf_sharded", "TFGPT2ForSequenceClassification"),
    ],
)
@pytest.mark.parametrize("to", ["safetensors", "h5"])
def test_heads_are_converted(case, kind, to, golden, tmp_path, model):
    report = convert(golden / case, tmp_path / "dst", to=to, progress=False)
    assert report.model == kind and report.difference == 0
    built = load_model(getattr(tfgpt2, kind), tmp_path / "dst")
    wanted = np.load(golden / case / "logits.npy")
    np.testing.assert_allclose(first_output(built, model.IDS), wanted, atol=5e-6, rtol=0)
    config = json.loads((tmp_path / "dst" / "config.json").read_text())
    assert config["architectures"] == [kind.removeprefix("TF")]


@pytest.mark.parametrize(
    ("to", "dtype"),
    [("safetensors", "bfloat16"), ("safetensors", "float16"), ("h5", "float16"),
     ("keras_hub", "bfloat16"), ("keras_hub", "float16")],
)  # fmt: skip
def test_types(to, dtype, golden, tmp_path, weights):
    report = convert(golden / "torch_zip", tmp_path / "dst", to=to, dtype=dtype, progress=False)
    assert 0 < report.difference < 0.1
    reader = open_checkpoint(find_in(report.path))
    for key in reader.keys():
        found = reader.read(key)
        assert found.dtype.name == dtype
        np.testing.assert_array_equal(found, weights[with_prefix(key)].astype(found.dtype))


def test_the_type_of_the_source_is_kept(golden, tmp_path):
    for to, dtype in (("safetensors", "bfloat16"), ("h5", "float32"), ("keras_hub", "bfloat16")):
        report = convert(golden / "torch_bfloat16", tmp_path / to, to=to, progress=False)
        reader = open_checkpoint(find_in(report.path))
        assert {reader.dtype(key).name for key in reader.keys()} == {dtype}
        assert report.difference == 0


def test_tokenizer_and_generation_files(golden, tmp_path, model):
    source = tmp_path / "src"
    shutil.copytree(golden / "torch_zip", source)
    settings = {"temperature": 0.7, "eos_token_id": 28}
    (source / "generation_config.json").write_text(json.dumps(settings))
    texts = {
        "vocab.json": json.dumps(model.VOCABULARY),
        "merges.txt": "#version: 0.2\n" + "\n".join(model.MERGES) + "\n",
        "tokenizer_config.json": '{"model_max_length": 16}',
        "special_tokens_map.json": '{"eos_token": "<|endoftext|>"}',
    }
    for name, text in texts.items():
        (source / name).write_text(text)
    for to in FORMATS:
        report = convert(source, tmp_path / to, to=to, progress=False)
        assert not report.notes
        written = json.loads((report.path / "generation_config.json").read_text())
        assert written["temperature"] == 0.7
        if to == "keras_hub":
            found = json.loads((report.path / "assets/tokenizer/vocabulary.json").read_text())
            assert found == model.VOCABULARY
        else:
            assert all((report.path / name).read_text() == text for name, text in texts.items())


@pytest.mark.long
def test_notes(golden, tmp_path):
    report = convert(golden / "torch_zip", tmp_path / "a", progress=False)
    assert report.notes == ("The source has no tokenizer.",)
    source = tmp_path / "src"
    shutil.copytree(golden / "tf1", source)
    (source / "encoder.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (source / "vocab.bpe").write_text("a b\n")
    report = convert(source, tmp_path / "b", to="keras_hub", progress=False)
    assert "needs <|endoftext|>" in report.notes[0]
    config = json.loads((golden / "torch_zip" / "config.json").read_text())
    shutil.copytree(golden / "torch_zip", tmp_path / "c")
    (tmp_path / "c" / "config.json").write_text(json.dumps(config | {"attn_pdrop": 0.0}))
    report = convert(tmp_path / "c", tmp_path / "d", to="keras_hub", progress=False)
    assert "one dropout rate" in report.notes[0]


# KerasHub itself --------------------------------------------------------------------------------


def test_keras_hub_loads_the_preset(golden, tmp_path, model):
    models = pytest.importorskip("keras_hub").models
    convert(golden / "tf1", tmp_path / "dst", to="keras_hub", progress=False)
    ids = np.asarray(model.IDS)
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    wanted = np.load(golden / "keras_hub" / "logits.npy")
    backbone = models.GPT2Backbone.from_preset(str(tmp_path / "dst"))
    logits = backbone.token_embedding(backbone(inputs), reverse=True)
    np.testing.assert_allclose(logits, wanted, atol=5e-6, rtol=0)
    task = models.GPT2CausalLM.from_preset(str(tmp_path / "dst"))
    np.testing.assert_allclose(task(inputs), wanted, atol=5e-6, rtol=0)
    assert task.preprocessor.tokenizer.get_vocabulary() == model.VOCABULARY.keys()
    for theirs in (backbone, task):
        ours = load_keras_hub(theirs)
        np.testing.assert_allclose(first_output(ours, ids), wanted, atol=5e-6, rtol=0)
    assert ours.config.eos_token_id == 28
    with pytest.raises(TypeError, match="GPT2Backbone"):
        load_keras_hub(task.preprocessor)


def test_torch_loads_the_safetensors(golden, tmp_path, model):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    convert(golden / "keras_hub", tmp_path / "dst", progress=False)
    built = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "dst").eval()
    with torch.no_grad():
        logits = built(torch.tensor(model.IDS)).logits.numpy()
    wanted = np.load(golden / "torch_zip" / "logits.npy")
    np.testing.assert_allclose(logits, wanted, atol=5e-6, rtol=0)


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "options", "error", "part"),
    [
        ("torch_zip", {"to": "safetensor"}, ValueError, "Did you mean 'safetensors'"),
        ("torch_zip", {"to": "pickle"}, ValueError, "format that can be written"),
        ("torch_zip", {"dtype": "int8"}, ValueError, "floating-point type"),
        ("torch_zip", {"to": "h5", "dtype": "bfloat16"}, ValueError, "Received: dtype='bfloat16'"),
        ("torch_untied", {"to": "h5"}, ValueError, "key='lm_head.weight'"),
        ("torch_untied", {"to": "keras_hub"}, ValueError, "tie_word_embeddings=False"),
        ("tf_classifier", {"to": "keras_hub"}, ValueError, "no head for this model"),
        ("nothing/here", {}, (FileNotFoundError, ConnectionError), "nothing/here"),
    ],
)
def test_refusals_leave_nothing_behind(case, options, error, part, golden, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = golden / case if (golden / case).exists() else case
    with pytest.raises(error, match=part):
        convert(source, tmp_path / "dst", progress=False, **options)
    assert not list(tmp_path.iterdir())


def test_the_destination_must_be_free(golden, tmp_path):
    (tmp_path / "mine").write_text("x")
    for dst in (tmp_path, tmp_path / "mine"):
        with pytest.raises(FileExistsError, match="does not exist yet"):
            convert(golden / "torch_zip", dst, progress=False)
    (tmp_path / "empty").mkdir()
    convert(golden / "torch_zip", tmp_path / "empty", progress=False)
    assert (tmp_path / "empty" / "model.safetensors").exists()


@pytest.mark.parametrize("wrong", ["weight", "logits"])
def test_what_is_written_wrongly_is_removed(golden, tmp_path, monkeypatch, wrong):
    write_file = h5.write_file

    def spoil(tensors, path):
        if wrong == "logits":
            tensors = [tensor._replace(read=_scaled(tensor.read)) for tensor in tensors]
            monkeypatch.setattr(verification, "_identical", lambda one, other: True)
        write_file(tensors, path)
        if wrong == "weight":
            with h5.h5py.File(path, "a") as file:
                name = "transformer/tfgpt2lm_head_model/transformer/ln_f/gamma:0"
                file[name][0] += 1e-6

    monkeypatch.setattr(h5, "write_file", spoil)
    with pytest.raises(RuntimeError, match="other logits" if wrong == "logits" else "ln_f.weight"):
        convert(golden / "torch_zip", tmp_path / "dst", to="h5", progress=False)
    assert not list(tmp_path.iterdir())


def _scaled(read):
    return lambda: read() * np.float32(1.01)


def test_a_vocabulary_of_another_model(golden, tmp_path):
    source = tmp_path / "src"
    shutil.copytree(golden / "tf1", source)
    (source / "encoder.json").write_text('{"a": 0, "b": 5000}')
    with pytest.raises(ValueError, match="encoder.json.*ids up to 5000.*key='b'"):
        convert(source, tmp_path / "dst", progress=False)
    assert not (tmp_path / "dst").exists()


def test_the_progress_bar_goes_to_standard_error(golden, tmp_path, capfd):
    convert(golden / "flax", tmp_path / "dst", to="h5")
    out, err = capfd.readouterr()
    assert out == ""
    for stage in ("Reading", "Writing", "Checking"):
        assert stage in err
    assert "28/28" in err
