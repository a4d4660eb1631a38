"""The export: what it writes, what it refuses, and that its self-check sees differences."""

import os
import re
import subprocess
import sys
from unittest.mock import create_autospec

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from typer.testing import CliRunner

import tfgpt2
from tests.support import toy_text
from tfgpt2 import GenerationConfig, extras
from tfgpt2.cli.main import app
from tfgpt2.litert import LiteRTGenerator, converter, export, int4, litert_lm, self_check
from tfgpt2.litert.contract import MASKED, MODEL, Contract
from tfgpt2.litert.graph import LiteRTGraph


def test_the_folder_and_its_report(exported):
    folder, report = exported
    assert report.path == folder and report.quantize is None and report.difference < 1e-4
    assert report.megabytes == (folder / MODEL).stat().st_size / 1e6
    assert report.signatures == (
        "cache_24_prefill_4", "cache_24_prefill_16", "cache_24_decode",
        "prefill_4", "prefill_16", "decode", "score_64",
    )  # fmt: skip
    text = (folder / "README.md").read_text()
    assert "`prefill_N`, N in 4, 16" in text and "cache_24_" in text and "`score_64`" in text
    assert Contract.read(folder).heads == (2, 2)


@pytest.fixture(scope="module")
def flatbuffer(exported):
    return schema.ModelT.InitFromPackedBuf((exported[0] / MODEL).read_bytes(), 0)


def test_the_file_has_built_in_operations_only(flatbuffer):
    codes = {max(one.builtinCode, one.deprecatedBuiltinCode) for one in flatbuffer.operatorCodes}
    assert schema.BuiltinOperator.CUSTOM not in codes
    assert not any(one.customCode for one in flatbuffer.operatorCodes)
    assert schema.BuiltinOperator.DYNAMIC_UPDATE_SLICE in codes


def test_no_slice_drops_an_axis(flatbuffer):
    """GPU delegates refuse such slices, and LiteRT-LM runs nothing that is on the GPU in part."""
    slices = [
        one.builtinOptions
        for graph in flatbuffer.subgraphs
        for one in graph.operators
        if isinstance(one.builtinOptions, schema.StridedSliceOptionsT)
    ]
    assert all(one.shrinkAxisMask == 0 for one in slices)


def test_masks_of_other_runtimes(live):
    """LiteRT-LM masks with -45824 on GPUs, and with -2.4e38 elsewhere."""
    graph, found = LiteRTGraph(live.model, 8), []
    shapes = {f"kv_cache_{kind}_{i}": (1, 2, 8, 12) for i in range(2) for kind in "kv"}
    cache = {name: tf.zeros(shape) for name, shape in shapes.items()}
    tokens, columns = tf.constant([[5, 6, 7]]), tf.range(3)
    for masked in (MASKED, -45824.0, -0.7 * np.finfo(np.float32).max):
        mask = np.where(np.tri(3, 8), np.float32(0), np.float32(masked))[None, None]
        found.append(graph.run(tokens, columns, tf.constant(mask), cache)[0].numpy())
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_weights_are_stored_once(live, flatbuffer):
    numbers = sum(int(np.prod(weight.shape)) for weight in live.model.weights)
    stored = sum(len(one.data) for one in flatbuffer.buffers if one.data is not None)
    assert 4 * numbers * 0.9 < stored < 4 * numbers * 1.4  # shapes and the like are constants, too


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"quantize": "int7"}, "`quantize` must be"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"context": toy_text.CONTEXT + 1}, "`context` must be at most 64"),
        ({"context": 1}, "`context` must be"),
        ({"context": 16, "prompt_buckets": [17]}, "`prompt_buckets` must be"),
    ],
    ids=str,
)
def test_wrong_options_raise(live, tmp_path, options, text):
    with pytest.raises(ValueError, match=text):
        live.export_litert(tmp_path / "x", **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "values",
    [
        {"num_beams": 2},
        {"presence_penalty": 0.5},
        {"max_time": 3.0},
        {"do_sample": True, "typical_p": 0.5},
        {"do_sample": True, "num_return_sequences": 2},
        {"regex": "a+"},
        {"guidance_scale": 2.0},
        {"top_logprobs": 3},
    ],
    ids=lambda values: [*values][-1],
)
def test_configurations_that_litert_does_not_have_raise(live, tmp_path, values):
    config = GenerationConfig(eos_token_id=live.generation_config.eos_token_id, **values)
    other = tfgpt2.TextGenerator(live.model, live.tokenizer, config)
    with pytest.raises(ValueError, match="A LiteRT export has greedy decoding and sampling"):
        other.export_litert(tmp_path / "x")


def test_generators_that_litert_does_not_have_raise(live, tmp_path):
    other = tfgpt2.TextGenerator(live.model, live.tokenizer, prefix="ab c")
    with pytest.raises(ValueError, match="not `prefix`"):
        other.export_litert(tmp_path / "x")
    small = toy_text.generator()
    small.model.quantize("int8")
    with pytest.raises(ValueError, match="needs a float model"):
        small.export_litert(tmp_path / "x")


def test_tokenizers_without_an_exact_tokenizer_json_raise(live, tmp_path, monkeypatch):
    """Such as SentencePiece models: the folder would lack the file that its runtime reads."""
    monkeypatch.setattr(type(live.tokenizer.spec), "has_tokenizer_json", False)
    monkeypatch.setattr(litert_lm, "import_builder", lambda: None)
    for write in (live.export_litert, live.export_litertlm):
        with pytest.raises(ValueError, match="none is exact for this tokenizer"):
            write(tmp_path / "x.litertlm")
    assert not any(tmp_path.iterdir())


def test_an_export_overwrites_nothing(live, exported):
    with pytest.raises(FileExistsError, match="never overwrites"):
        live.export_litert(exported[0])


def test_files_of_more_than_two_gigabytes_are_refused():
    converter.check_size(1_558_000_000, "int8")  # gpt2-xl
    with pytest.raises(ValueError, match=r"at most 2 GB.*quantize='int8'"):
        converter.check_size(774_000_000, None)
    with pytest.raises(ValueError, match=r"float32 file that int4 is made of.*quantize='int8'"):
        converter.check_size(774_000_000, "int4")
    with pytest.raises(ValueError, match="Export a smaller model"):
        converter.check_size(3_000_000_000, "int8")


def test_the_self_check_sees_differences(live, exported):
    contract = Contract.read(exported[0])
    calls, *texts = self_check.probe_runs(contract)[0]
    expected = export._expected(live.model, calls, *texts)
    assert self_check.check(exported[0] / MODEL, [calls], [expected], None) < 1e-4
    expected["logits"] = expected["logits"] + 0.01 * np.sin(np.arange(contract.vocab_size))
    with pytest.raises(RuntimeError, match="'cache_24_decode' does not compute what the model"):
        self_check.check(exported[0] / MODEL, [calls], [expected], None)


def test_int4_needs_its_library_and_whole_blocks(live, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(extras.MODULES, "int4", ("ai_edge_litert", "no_such_quantizer"))
        with pytest.raises(ImportError, match=r"needs no_such_quantizer.*'tfgpt2\[int4\]'"):
            live.export_litert(tmp_path / "x", quantize="int4")
    monkeypatch.setitem(extras.MODULES, "int4", ())
    assert live.model.config.n_embd % int4.BLOCK
    with pytest.raises(ValueError, match="multiples of 32.*quantize='int8'"):
        live.export_litert(tmp_path / "x", quantize="int4")
    assert not any(tmp_path.iterdir())


def test_the_runtime_is_looked_for_before_anything_is_converted(live, tmp_path, monkeypatch):
    monkeypatch.setitem(extras.MODULES, "litert", ("no_such_runtime",))
    with pytest.raises(ImportError, match=r"needs no_such_runtime.*'tfgpt2\[litert\]'"):
        live.export_litert(tmp_path / "x")


def test_a_failed_check_leaves_nothing(live, tmp_path, monkeypatch):
    monkeypatch.setattr(
        converter, "convert", create_autospec(converter.convert, return_value=b"no model")
    )
    with pytest.raises(RuntimeError, match="does not run in a clean process"):
        live.export_litert(tmp_path / "x", context=8)
    assert not any(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.parametrize("quantize", ["int8", "float16", "int4"])
def test_smaller_files_score_like_the_model(tmp_path, quantize, figure):
    if quantize == "int4":
        pytest.importorskip("ai_edge_quantizer")
    text = "To be, or not to be, that is the question.\n\nROMEO:\nWhat say you to my suit?\n" * 2
    generator = tfgpt2.TextGenerator.from_pretrained("shakespeare-tiny")
    report = generator.export_litert(
        tmp_path / "x", quantize=quantize, context=128, prompt_buckets=[16]
    )
    numbers = sum(int(np.prod(weight.shape)) for weight in generator.model.weights)
    per_number = {"int8": 1, "float16": 2, "int4": 0.55}[quantize]
    assert report.megabytes * 1e6 < numbers * per_number * 1.5
    loaded = LiteRTGenerator.from_pretrained(tmp_path / "x", cache_dir=tmp_path)
    found = loaded.score(text)
    live = generator.pipeline.score(tf.constant([text]))
    ratio = found.perplexity / float(live["perplexity"][0])
    figure(f"perplexity of {quantize} / float32", ratio)
    assert abs(ratio - 1) < {"int8": 0.005, "float16": 0.001, "int4": 0.02}[quantize]


def test_the_command_line_generates(exported, loaded, tmp_path):
    """The program imports no TensorFlow, and writes nothing but the text."""
    folder, program = str(exported[0]), "import sys; sys.modules['tensorflow'] = None\n"
    program += "from tfgpt2.cli.main import main; main()"
    options = ["-m", folder, "--runtime", "litert", "-n", "9", "--temperature", "0"]
    command = [sys.executable, "-c", program, "generate", "the", *options]
    home = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=home)
    assert len(list((tmp_path / "tfgpt2" / "litert").iterdir())) == 1
    text = loaded.generate("the", max_new_tokens=9, temperature=0)
    assert (done.returncode, done.stdout) == (0, f"the{text}\n"), done.stderr
    assert "INFO" not in done.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "This folder is a LiteRT export.*Add --runtime litert"),
        (["--runtime", "litert", "-i"], "A conversation needs the runtime tensorflow"),
        (["--runtime", "onnx"], "`runtime` must be one of"),
        (["--runtime", "litert", "--num-beams", "2"], "no option 'num_beams'"),
    ],
    ids=str,
)
def test_the_command_line_refuses(exported, tmp_path, monkeypatch, options, text):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["generate", "the", "-m", str(exported[0]), *options])
    assert isinstance(result.exception, (TypeError, ValueError))
    assert re.search(text, str(result.exception))


def test_options_of_the_other_format_raise(tmp_path):
    for options, name in (
        (["--format", "litert", "--warmup"], "--warmup"),
        (["--format", "litert", "--next"], "--next"),
        (["--context", "5"], "--context"),
        (["--format", "onnx"], "`format` must be"),
    ):
        result = CliRunner().invoke(app, ["export", str(tmp_path / "x"), *options])
        assert isinstance(result.exception, ValueError) and name in str(result.exception)


@pytest.mark.long
def test_the_command_line_exports(tmp_path):
    options = ["--format", "litert", "--context", "64", "--prompt-buckets", "16", "--quantize"]
    result = CliRunner().invoke(app, ["export", str(tmp_path / "phone"), *options, "int8"])
    assert result.exit_code == 0 and "by LiteRT in a clean process" in result.stdout
    contract = Contract.read(tmp_path / "phone")
    assert (contract.context, contract.prefill, contract.quantize) == (64, (16,), "int8")
    assert contract.on_long_prompt == "truncate_left"  # as of a SavedModel
