"""The SavedModel: its files, its contract, and its answers in a process without the package."""

import json
import os
import shutil
import signal
import stat
import tempfile

import numpy as np
import pytest
import tensorflow as tf

from tests.support import saved_model_files as files
from tests.support import toy_text
from tfgpt2 import GenerationConfig, TextGenerator
from tfgpt2.generation.options import ROW_OPTIONS
from tfgpt2.serving import Batching, next_version
from tfgpt2.serving.export import allowed_ops as operations
from tfgpt2.serving.export import publish as publishing
from tfgpt2.serving.export import storage
from tfgpt2.serving.export.batching import PARAMETERS_FILE
from tfgpt2.serving.export.signatures import registry as signatures

DEFAULTS = GenerationConfig(max_new_tokens=6, do_sample=True, temperature=0.5, top_k=7, seed=3,
                            stop_strings=["zz", "é"])  # fmt: skip
INTEGERS = ("num_tokens", "prompt_tokens", "truncated")
OUTPUTS = {
    "generate": {
        "text": (tf.string, 1), "text_bytes": (tf.string, 1), "token_ids": (tf.int32, 2),
        "logprob": (tf.float32, 1), "token_logprobs": (tf.float32, 2),
        "finish_reason": (tf.string, 1), **{name: (tf.int32, 1) for name in INTEGERS},
    },
    "score": {
        "logprob": (tf.float32, 1), "num_tokens": (tf.int32, 1), "perplexity": (tf.float32, 1),
        "token_logprobs": (tf.float32, 2), "truncated": (tf.int32, 1),
    },
    "next_token": {
        "token_ids": (tf.int32, 2), "tokens": (tf.string, 2), "token_bytes": (tf.string, 2),
        "probabilities": (tf.float32, 2), "logprobs": (tf.float32, 2),
        "prompt_tokens": (tf.int32, 1), "truncated": (tf.int32, 1),
    },
    "embed": {
        "last": (tf.float32, 2), "mean": (tf.float32, 2), "num_tokens": (tf.int32, 1),
        "truncated": (tf.int32, 1),
    },
    "inspect": {
        "token_bytes": (tf.string, 2), "token_logprobs": (tf.float32, 2), "ranks": (tf.int32, 2),
        "top_bytes": (tf.string, 3), "top_probabilities": (tf.float32, 3),
        "num_tokens": (tf.int32, 1), "truncated": (tf.int32, 1),
    },
    "tokenize": {"ids": (tf.int32, 2), "num_tokens": (tf.int32, 1)},
    "detokenize": {"text": (tf.string, 1), "text_bytes": (tf.string, 1)},
}  # fmt: skip
OUTPUTS["serving_default"] = OUTPUTS["generate"]


@pytest.fixture(scope="module")
def gen():
    return toy_text.generator(generation_config=DEFAULTS, jit_compile=False)


@pytest.fixture(scope="module")
def made(gen, tmp_path_factory):
    """An export without XLA, checked: the report, and the live functions it was checked with."""
    path, kept, build = tmp_path_factory.mktemp("models") / "toy" / "1", {}, signatures.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signatures, "build", lambda *args: kept.update(build(*args)) or kept)
        return gen.export(path, jit_compile=False), kept


@pytest.fixture(scope="module")
def exported(made):
    return made[0]


@pytest.fixture(scope="module")
def live(made):
    return made[1]


@pytest.fixture(scope="module")
def served(exported):
    """Its signatures, loaded here."""
    return tf.saved_model.load(exported.path).signatures


def settings(rows=1, **values):
    options = {}
    for name in signatures.INPUTS:
        one = ROW_OPTIONS[name]
        value = np.broadcast_to(values.get(name, one.off), [rows])
        options[name] = tf.constant(value, one.dtype)
    return options | {"stop": tf.constant(values.get("stop", [[""]]), tf.string)}


def as_lists(outputs):
    return {name: value.numpy().tolist() for name, value in outputs.items()}


def test_report(exported):
    assert exported.checked and exported.signatures == signatures.SIGNATURES
    assert (exported.weights, exported.programs, exported.batch_sizes) == ("float32", {}, None)
    assert set(exported.operations) == files.operations(exported.path)
    found = sum(file.stat().st_size for file in exported.path.rglob("*") if file.is_file())
    assert exported.megabytes == pytest.approx(found / 1e6)
    assert {entry.name for entry in exported.path.parent.iterdir()} == {"1"}  # nothing beside it
    assert stat.S_IMODE(exported.path.stat().st_mode) == 0o755


def test_types_and_shapes(exported):
    meta = files.graph(exported.path)
    for name, outputs in OUTPUTS.items():
        signature = meta.signature_def[name]
        found = {key: (tf.dtypes.as_dtype(info.dtype), info.tensor_shape)
                 for key, info in signature.outputs.items()}  # fmt: skip
        assert found.keys() == outputs.keys()
        for key, (dtype, rank) in outputs.items():
            assert (found[key][0], len(found[key][1].dim)) == (dtype, rank), key
        for key, info in signature.inputs.items():
            rank = 2 if key in ("stop", "ids") else 1
            assert [dim.size for dim in info.tensor_shape.dim] == [-1] * rank
    inputs = {key: tf.dtypes.as_dtype(info.dtype)
              for key, info in meta.signature_def["generate"].inputs.items()}  # fmt: skip
    types = {name: tf.dtypes.as_dtype(ROW_OPTIONS[name].dtype) for name in signatures.INPUTS}
    assert inputs == types | {"text": tf.string, "stop": tf.string}
    assert list(meta.signature_def["serving_default"].inputs) == ["text"]


def test_defaults_for_grpc(exported):
    defaults = files.graph(exported.path).signature_def["generate"].defaults
    found = {name: tf.make_ndarray(value).tolist() for name, value in defaults.items()}
    assert found == {
        "max_new_tokens": [6], "min_new_tokens": [0], "temperature": [0.5], "top_k": [7],
        "top_p": [1.0], "min_p": [0.0], "repetition_penalty": [1.0], "seed": [3],
        "stop": [[b"zz", "é".encode()]],
    }  # fmt: skip


def test_operations_are_those_of_tensorflow_and_tensorflow_text(exported):
    found = files.operations(exported.path)
    core = {name for name in found if hasattr(tf.raw_ops, name)}
    functions = {"PartitionedCall", "StatefulPartitionedCall", "Placeholder", "NoOp"}
    assert found - core - functions <= {"SentencepieceOp", "SentencepieceTokenizeOp"}
    assert not [name for name in found if name.startswith("Xla")]
    assert not files.compiled(exported.path)
    # Operations that serving before 2.20 lacks.
    assert not [n for n in found if n.startswith(("RoundRobin", "Utf8Binarize", "TFText"))]


def test_weights_are_stored_once(exported, gen):
    size = sum(np.prod(weight.shape) * 4 for weight in gen.model.weights)
    stored = sum(file.stat().st_size for file in (exported.path / "variables").iterdir())
    assert size <= stored <= size * 1.05 + 20_000


@pytest.mark.long
def test_a_process_without_the_package_gives_the_same(exported, live):
    text = ["abc", "é the", ""]
    options = {"max_new_tokens": [3, 9, 5], "temperature": [0.0, 1.0, 0.7], "seed": [1, 2, 3]}
    values = settings(3, **options, stop=[["e"], ["a"], [""]])
    asked = {name: value.numpy().tolist() for name, value in values.items()}
    asked["stop"] = [["e"], ["a"], [""]]
    requests = {
        "mixed": ("generate", {"text": text} | asked),
        "default": ("serving_default", {"text": text}),
        "score": ("score", {"text": text}),
        "tokenize": ("tokenize", {"text": text}),
        "detokenize": ("detokenize", {"ids": [[97, 98, 267], [256, 0, -5]]}),
        "nothing": ("serving_default", {"text": []}),
    }
    answers = files.run(exported.path, requests)
    for name, (signature, inputs) in requests.items():
        arguments = {"ids": tf.constant(inputs["ids"])} if "ids" in inputs else {
            "text": tf.constant(text if inputs["text"] else [], tf.string),
            **(values if name == "mixed" else {}),
        }  # fmt: skip
        for key, value in live[signature](**arguments).items():
            dtype, shape, found = answers[name][key]
            assert (dtype, shape) == (value.dtype.name, list(value.shape)), (name, key)
            if value.dtype == tf.float32:
                np.testing.assert_allclose(np.reshape(found, shape), value, atol=1e-4, rtol=1e-4)
            else:
                raw = json.loads(
                    json.dumps(value.numpy().tolist(), default=lambda b: b.decode("latin-1"))
                )
                assert found == raw, (name, key)


def test_one_value_or_one_per_row(served):
    text = tf.constant(["abc"] * 3)
    one = as_lists(
        served["generate"](text=text, **settings(seed=5, temperature=1.0, max_new_tokens=9))
    )
    many = as_lists(
        served["generate"](text=text, **settings(3, seed=5, temperature=1.0, max_new_tokens=9))
    )
    assert one == many and len(set(one["text"])) == 1  # [1] is the same seed for all rows
    other = as_lists(served["generate"](text=text, **settings(
        3, seed=[5, 6, 5], temperature=[1.0, 1.0, 0.0], max_new_tokens=[9, 9, 2])))  # fmt: skip
    assert other["text"][0] == one["text"][0] != other["text"][1]
    assert other["num_tokens"] == [9, 9, 2]
    fresh = served["generate"](text=text, **settings(temperature=1.0, max_new_tokens=20))
    assert len(set(as_lists(fresh)["text"])) == 3  # seed -1


def test_rows_are_what_they_are_alone(served):
    text = tf.constant(["abc", "the longest", "é"])
    values = settings(3, max_new_tokens=[2, 9, 5], temperature=[0, 1, 1], seed=[1, 2, 3])
    together = as_lists(served["generate"](text=text, **values))
    for row in range(3):
        alone = as_lists(served["generate"](
            text=text[row : row + 1],
            **{k: v[row : row + 1] if v.shape[0] == 3 else v for k, v in values.items()},
        ))  # fmt: skip
        for name in ("text", "finish_reason", "num_tokens", "prompt_tokens"):
            assert alone[name][0] == together[name][row]


def test_every_output_has_one_row_per_text(served):
    ids = tf.constant([[1, 2]] * 4)
    for count in (0, 1, 4):
        text = tf.fill([count], "abc")
        for name in signatures.SIGNATURES:
            inputs = {"ids": ids[:count]} if name == "detokenize" else {"text": text}
            inputs |= settings() if name == "generate" else {}
            for value in served[name](**inputs).values():
                assert value.shape.rank >= 1 and value.shape[0] == count, name


EXTREMES = {
    "temperature": [np.nan, -1.0, np.inf, 1e-38], "top_k": [-5, 2**31 - 1, 0, 1],
    "top_p": [np.nan, -1.0, 2.0, 0.0], "min_p": [np.inf, -1.0, np.nan, 1.0],
    "repetition_penalty": [0.0, np.nan, -1.0, np.inf], "seed": [-7, 2**63 - 1, 0, -1],
    "max_new_tokens": [-1, 2**31 - 1, 5, 5], "min_new_tokens": [-1, 2**31 - 1, 3, 0],
}  # fmt: skip


def test_extreme_values_have_defined_results(served):
    text = tf.constant([b"\xff\xfe\x00", b"a" * 500, b"", "é😀".encode()])
    for shift in range(4):
        values = {name: np.roll(value, shift) for name, value in EXTREMES.items()}
        out = served["generate"](text=text, **settings(4, **values, stop=[["x" * 300, "a"]]))
        for name, value in out.items():
            if value.dtype == tf.float32:
                assert np.isfinite(value).all(), name
        for raw in out["text"].numpy():
            raw.decode()
        assert set(out["finish_reason"].numpy()) <= {b"length", b"eos", b"stop"}
        limit = np.clip(values["max_new_tokens"], 0, 64 - out["prompt_tokens"].numpy())
        assert np.all(out["num_tokens"].numpy() <= limit)
        assert (
            np.all(out["truncated"].numpy()[[0, 2, 3]] == 0) and out["truncated"].numpy()[1] > 400
        )
        scores = served["score"](text=text)
        assert all(
            np.isfinite(scores[k]).all() for k in ("logprob", "perplexity", "token_logprobs")
        )


def test_a_graph_reports_what_python_refuses(gen, tmp_path):
    tokens = gen.tokenizer
    model = toy_text.model(tokens)
    model.config.bos_token_id = model.config.eos_token_id = None
    bare = TextGenerator(model, tokens, GenerationConfig(max_new_tokens=4), jit_compile=False)
    path = tmp_path / "new" / "7"
    bare.export(path, on_long_prompt="error", jit_compile=False, check=False,
                signatures=["serving_default"])  # fmt: skip
    out = as_lists(tf.saved_model.load(path).signatures["serving_default"](
        tf.constant(["a", "", "b" * 64, "c" * 63])))  # fmt: skip
    assert out["finish_reason"] == [b"length", b"empty_prompt", b"prompt_too_long", b"length"]
    assert out["num_tokens"] == [4, 0, 0, 1] and out["text"][1:3] == [b"", b""]
    assert out["prompt_tokens"] == [1, 0, 0, 63] and out["truncated"] == [0] * 4


def test_python_can_call_it_with_defaults(exported):
    loaded = tf.saved_model.load(exported.path)
    text = tf.constant(["abc"])
    assert as_lists(loaded.generate(text)) == as_lists(loaded.serving_default(text))
    assert loaded.generate(text, max_new_tokens=tf.constant([2]))["num_tokens"].numpy() == [2]


@pytest.mark.long
def test_compiled_export(gen, tmp_path):
    """With XLA: the marked functions are there, and the check has compared the answers."""
    report = gen.export(
        tmp_path, version="next", jit_compile=True, weights="float16", max_new_tokens=20,
        signatures=["generate", "score"], stop_limits=(4, 16),
    )  # fmt: skip
    assert report.checked and files.compiled(report.path) and report.path == tmp_path / "1"
    assert report.batch_sizes == (1, 2, 4, 8, 16, 32) and report.output_buckets == (16, 20)
    counts = {name: programs.most for name, programs in report.programs.items()}
    # Batch sizes, buckets 16, 32 and 64 of the prompt, those of the output, 1 or 4 stop strings.
    assert counts == {"generate": 6 * 3 * 2 * 2, "score": 6 * 3}
    assert report.most_programs == 90
    # Half the bytes, and the names that come with each variable.
    size = sum(np.prod(weight.shape) * 2 for weight in gen.model.weights)
    stored = sum(file.stat().st_size for file in (report.path / "variables").iterdir())
    assert report.weights == "float16" and size <= stored <= size * 1.05 + 20_000
    found = files.operations(report.path)
    core = {name for name in found if hasattr(tf.raw_ops, name)}
    allowed = {"SentencepieceOp", "SentencepieceTokenizeOp", "PartitionedCall",
               "StatefulPartitionedCall", "Placeholder", "NoOp",
               "XlaDynamicUpdateSlice"}  # fmt: skip
    assert found - core <= allowed


# What fails leaves nothing behind ---------------------------------------------------------------


@pytest.mark.parametrize("what", ["directory", "file", "dangling link"])
def test_an_existing_path_is_refused(gen, tmp_path, what):
    path = tmp_path / "1"
    {"directory": path.mkdir, "file": path.touch, "dangling link": lambda: path.symlink_to("x")}[
        what
    ]()
    with pytest.raises(
        FileExistsError, match="(?s)never overwrites.*Received: path=.*next version"
    ):
        gen.export(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def quick(exported, live, monkeypatch):
    """Makes `export` copy what was exported before; returns the functions it then checks."""
    functions = {name: live[name] for name in ("score", "tokenize")}

    def write(functions, resources, directory):
        shutil.copytree(exported.path, directory, dirs_exist_ok=True)

    monkeypatch.setattr(publishing, "_write", write)
    monkeypatch.setattr(signatures, "build", lambda generator, options: functions)
    return functions


def test_a_difference_is_found_and_nothing_stays(gen, quick, tmp_path, monkeypatch):
    def other(**inputs):
        outputs = dict(right(**inputs))
        outputs["token_logprobs"] += 0.01
        return outputs

    right, scratch = quick["score"], tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    quick["score"] = other
    with pytest.raises(RuntimeError, match="(?s)'score' does not answer like.*token_logprobs"):
        gen.export(tmp_path / "1", jit_compile=False)
    assert list(tmp_path.iterdir()) == [scratch] and not list(scratch.iterdir())


def test_a_process_that_dies_is_reported(gen, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "_PROGRAM", tmp_path / "no_such_program.py")
    with pytest.raises(RuntimeError, match="(?s)does not run in a clean process.*no_such_program"):
        gen.export(tmp_path / "1", jit_compile=False)
    assert not list(tmp_path.iterdir())


def test_scores_that_are_no_numbers_are_refused(gen, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "_answers", lambda probe: [{}, {}])
    monkeypatch.setattr(publishing, "_PROGRAM", "-V")  # a process that ends at once
    right = quick["score"]
    quick["score"] = lambda **inputs: {n: v * np.nan if n == "token_logprobs" else v
                                       for n, v in right(**inputs).items()}  # fmt: skip
    with pytest.raises(ValueError, match="scores are not numbers"):
        gen.export(tmp_path / "1", jit_compile=False)
    assert not list(tmp_path.iterdir())


def test_a_kill_in_the_middle_leaves_nothing_that_a_server_loads(quick, tmp_path, monkeypatch):
    """A server takes the directories whose names are numbers."""

    def die(directory):
        assert (directory / "saved_model.pb").is_file()
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:  # only copies files and dies: TensorFlow's threads do not survive a fork
        try:
            publishing.publish(tmp_path / "1", {}, [], None, compiled=False, add_files=die)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = [entry.name for entry in tmp_path.iterdir()]
    assert len(left) == 1 and not left[0].isdecimal() and left[0].startswith(".1.")
    assert next_version(tmp_path) == 1


def test_an_operation_that_servers_lack_is_refused(gen, quick, tmp_path, monkeypatch):
    strange = ("MatMul", "SentencepieceOp", "TFText>RoundRobinTrim", "MyOwnOp")
    monkeypatch.setattr(publishing, "read_operations", lambda directory: strange)
    with pytest.raises(
        RuntimeError, match=r"(?s)does not know.*\['TFText>RoundRobinTrim', 'MyOwnOp'\]"
    ):
        gen.export(tmp_path / "1", jit_compile=False, check=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="XlaDynamicUpdateSlice"):
        operations.check_operations(("XlaDynamicUpdateSlice",), compiled=False)
    operations.check_operations(("XlaDynamicUpdateSlice",), compiled=True)
    # TF Text is loaded here, and is still no part of TensorFlow itself.
    with pytest.raises(RuntimeError, match="Utf8Binarize"):
        operations.check_operations(("TFText>Utf8Binarize",), compiled=True)


def test_versions_are_numbered(gen, quick, tmp_path):
    for version, expected in (("next", "1"), (7, "7"), ("next", "8")):
        (tmp_path / ".9.x").mkdir(exist_ok=True)  # what a killed export left
        report = gen.export(tmp_path, version=version, jit_compile=False, check=False)
        assert report.path == tmp_path / expected and report.path.is_dir()
    for wrong in (0, "last", 1.5):
        with pytest.raises(ValueError, match="`version` must be a number of 1 or more"):
            gen.export(tmp_path, version=wrong)


def test_the_servers_batching_file(gen, quick, tmp_path):
    gathering = Batching("server", timeout_micros=7, threads=3, waiting=9)
    report = gen.export(tmp_path / "1", jit_compile=False, check=False, batch_sizes=[4, 1],
                        batching=gathering)  # fmt: skip
    assert report.batching == "server" and report.batch_sizes == (1, 4)
    lines = (tmp_path / "1" / PARAMETERS_FILE).read_text().splitlines()
    assert lines == [
        "max_batch_size { value: 4 }", "batch_timeout_micros { value: 7 }",
        "max_enqueued_batches { value: 9 }", "num_batch_threads { value: 3 }",
        "allowed_batch_sizes: 1", "allowed_batch_sizes: 4",
    ]  # fmt: skip


def test_weights_too_large_for_the_type(gen):
    model = toy_text.model(gen.tokenizer)
    model.weights[0].assign(model.weights[0] * 1e6)
    with pytest.raises(ValueError, match="too large for float16.*wte"):
        storage.convert(model, "float16")
    copy, _ = storage.convert(model, "bfloat16")
    rounded = tf.cast(tf.cast(model.weights[0].value, tf.bfloat16), tf.float32)
    np.testing.assert_array_equal(copy.weights[0], rounded)
    assert storage.convert(model, "float32")[0] is model  # as it is


def test_wrong_settings_are_refused(gen, tmp_path):
    for options, error, message in (
        ({"on_long_prompt": "cut"}, ValueError, "`on_long_prompt` must be one of"),
        ({"prompt_buckets": [0]}, ValueError, "`prompt_buckets` must be"),
        ({"output_buckets": []}, ValueError, "`output_buckets` must be"),
        ({"generation_config": {"top_k": 1}}, TypeError, "must be a tfgpt2.GenerationConfig"),
        ({"signatures": ["generat"]}, ValueError, "`signatures` must be.*Did you mean 'generate'"),
        ({"signatures": []}, ValueError, "`signatures` must hold at least one"),
        ({"inputs": ["top_k", "top_k"]}, ValueError, "`inputs` must be distinct"),
        ({"weights": "int4"}, ValueError, "must be one of float32, float16, bfloat16, int8"),
        ({"weights": "float61"}, ValueError, "`weights` must be.*Did you mean 'float16'"),
        ({"batch_sizes": [0]}, ValueError, "`batch_sizes` must be distinct integers"),
        ({"batch_sizes": "some"}, ValueError, "`batch_sizes` must be numbers of rows"),
        ({"batching": "grap"}, ValueError, "`batching` must be.*Did you mean 'graph'"),
        ({"batching": 3}, TypeError, "`batching` must be"),
        ({"batching": Batching(threads=0)}, ValueError, "`threads` of batching must be"),
        ({"stop_limits": (65, 16)}, ValueError, r"`stop_limits\[0\]` must be"),
        ({"top": 0}, ValueError, "`top` must be an integer in"),
        ({"max_new_tokens": 65}, ValueError, r"`max_new_tokens` of an export.*\[1, 64\]"),
    ):
        with pytest.raises(error, match=message):
            gen.export(tmp_path / "1", **options)
    assert not os.listdir(tmp_path)
