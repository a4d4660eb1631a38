"""The files of an export: types, shapes, defaults, operations and weights."""

import stat

import numpy as np
import pytest
import tensorflow as tf

from tests.support.saved_model_files import (
    has_compiled_functions,
    list_operations,
    read_meta_graph,
)
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.serving.export.signatures.registry import SIGNATURES

INTEGERS = ("num_tokens", "prompt_tokens", "truncated")
OUTPUTS = {
    "generate": {
        "text": (tf.string, 1), "text_bytes": (tf.string, 1), "token_ids": (tf.int32, 2),
        "logprob": (tf.float32, 1), "token_logprobs": (tf.float32, 2),
        "finish_reason": (tf.string, 1), **{name: (tf.int32, 1) for name in INTEGERS},
    },
    "score": {
        "logprob": (tf.float32, 1), "num_tokens": (tf.int32, 1), "perplexity": (tf.float32, 1),
        "token_logprobs": (tf.float32, 2), "text_tokens": (tf.int32, 1),
        "truncated": (tf.int32, 1),
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
    "inspect_ids": {
        "token_bytes": (tf.string, 2), "text_sizes": (tf.int32, 2),
        "token_logprobs": (tf.float32, 2), "ranks": (tf.int32, 2), "top_ids": (tf.int32, 3),
        "top_bytes": (tf.string, 3), "top_logprobs": (tf.float32, 3),
        "num_tokens": (tf.int32, 1), "truncated": (tf.int32, 1),
    },
    "tokenize": {"ids": (tf.int32, 2), "num_tokens": (tf.int32, 1)},
    "detokenize": {"text": (tf.string, 1), "text_bytes": (tf.string, 1)},
}  # fmt: skip
OUTPUTS["serving_default"] = OUTPUTS["generate_ids"] = OUTPUTS["generate"]


def test_report(report):
    assert report.checked and report.signatures == tuple(SIGNATURES)
    assert (report.weights, report.programs, report.batch_sizes) == ("float32", {}, None)
    assert set(report.operations) == list_operations(report.path)
    found = sum(file.stat().st_size for file in report.path.rglob("*") if file.is_file())
    assert report.megabytes == pytest.approx(found / 1e6)
    assert {entry.name for entry in report.path.parent.iterdir()} == {"1"}  # nothing beside it
    assert stat.S_IMODE(report.path.stat().st_mode) == 0o755


def test_types_and_shapes(report):
    meta = read_meta_graph(report.path)
    for name, outputs in OUTPUTS.items():
        signature = meta.signature_def[name]
        found = {key: (tf.dtypes.as_dtype(info.dtype), info.tensor_shape)
                 for key, info in signature.outputs.items()}  # fmt: skip
        assert found.keys() == outputs.keys()
        for key, (dtype, rank) in outputs.items():
            assert (found[key][0], len(found[key][1].dim)) == (dtype, rank), key
        for key, info in signature.inputs.items():
            rank = 2 if key == "stop" or name == "detokenize" else 1
            assert [dim.size for dim in info.tensor_shape.dim] == [-1] * rank
    inputs = {key: tf.dtypes.as_dtype(info.dtype)
              for key, info in meta.signature_def["generate"].inputs.items()}  # fmt: skip
    types = {name: tf.dtypes.as_dtype(REQUEST_OPTIONS[name].dtype) for name in REQUEST_OPTIONS}
    assert inputs == types | {"text": tf.string, "stop": tf.string}
    assert list(meta.signature_def["serving_default"].inputs) == ["text"]


def test_defaults_for_grpc(report):
    defaults = read_meta_graph(report.path).signature_def["generate"].defaults
    found = {name: tf.make_ndarray(value).tolist() for name, value in defaults.items()}
    assert found == {
        "max_new_tokens": [6], "min_new_tokens": [0], "temperature": [0.5], "top_k": [7],
        "top_p": [1.0], "min_p": [0.0], "repetition_penalty": [1.0], "seed": [3],
        "stop": [[b"zz", "é".encode()]],
    }  # fmt: skip


def test_operations_are_those_of_tensorflow_and_tensorflow_text(report):
    found = list_operations(report.path)
    core = {name for name in found if hasattr(tf.raw_ops, name)}
    functions = {"PartitionedCall", "StatefulPartitionedCall", "Placeholder", "NoOp"}
    assert found - core - functions <= {"SentencepieceOp", "SentencepieceTokenizeOp"}
    assert not [name for name in found if name.startswith("Xla")]
    assert not has_compiled_functions(report.path)
    # Operations that serving before 2.20 lacks.
    assert not [n for n in found if n.startswith(("RoundRobin", "Utf8Binarize", "TFText"))]


def test_weights_are_stored_once(report, gen):
    size = sum(np.prod(weight.shape) * 4 for weight in gen.model.weights)
    stored = sum(file.stat().st_size for file in (report.path / "variables").iterdir())
    assert size <= stored <= size * 1.05 + 20_000


@pytest.mark.long
def test_compiled_export(gen, tmp_path):
    """With XLA: the marked functions are there, and the check has compared the answers."""
    report = gen.export(
        tmp_path, version="next", jit_compile=True, weights="float16", max_new_tokens=20,
        signatures=["generate", "score"], stop_limits=(4, 16),
    )  # fmt: skip
    assert report.checked and has_compiled_functions(report.path) and report.path == tmp_path / "1"
    assert report.batch_sizes == (1, 2, 4, 8, 16, 32) and report.output_buckets == (16, 20)
    counts = {name: programs.most for name, programs in report.programs.items()}
    # Batch sizes, buckets 16, 32 and 64 of the prompt, those of the output, 1 or 4 stop strings.
    assert counts == {"generate": 6 * 3 * 2 * 2, "score": 6 * 3}
    assert report.most_programs == 90
    # Half the bytes, and the names that come with each variable.
    size = sum(np.prod(weight.shape) * 2 for weight in gen.model.weights)
    stored = sum(file.stat().st_size for file in (report.path / "variables").iterdir())
    assert report.weights == "float16" and size <= stored <= size * 1.05 + 20_000
    found = list_operations(report.path)
    core = {name for name in found if hasattr(tf.raw_ops, name)}
    allowed = {"SentencepieceOp", "SentencepieceTokenizeOp", "PartitionedCall",
               "StatefulPartitionedCall", "Placeholder", "NoOp",
               "XlaDynamicUpdateSlice", "XlaOptimizationBarrier"}  # fmt: skip
    assert found - core <= allowed
