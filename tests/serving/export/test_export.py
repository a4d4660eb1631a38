"""The answers of an export, here and in a process without the package."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy_text
from tests.support.saved_model_files import run_in_clean_process
from tfgpt2 import GenerationConfig, TextGenerator
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.serving import Batching
from tfgpt2.serving.export.signatures.registry import SIGNATURES


def settings(rows=1, **values):
    options = {}
    for name in REQUEST_OPTIONS:
        one = REQUEST_OPTIONS[name]
        value = np.broadcast_to(values.get(name, one.off), [rows])
        options[name] = tf.constant(value, one.dtype)
    return options | {"stop": tf.constant(values.get("stop", [[""]]), tf.string)}


def as_lists(outputs):
    return {name: value.numpy().tolist() for name, value in outputs.items()}


@pytest.mark.long
def test_a_process_without_the_package_gives_the_same(report, live):
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
    answers = run_in_clean_process(report.path, requests)
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


def test_one_value_or_one_per_row(loaded):
    text = tf.constant(["abc"] * 3)
    one = as_lists(
        loaded["generate"](text=text, **settings(seed=5, temperature=1.0, max_new_tokens=9))
    )
    many = as_lists(
        loaded["generate"](text=text, **settings(3, seed=5, temperature=1.0, max_new_tokens=9))
    )
    assert one == many and len(set(one["text"])) == 1  # [1] is the same seed for all rows
    other = as_lists(loaded["generate"](text=text, **settings(
        3, seed=[5, 6, 5], temperature=[1.0, 1.0, 0.0], max_new_tokens=[9, 9, 2])))  # fmt: skip
    assert other["text"][0] == one["text"][0] != other["text"][1]
    assert other["num_tokens"] == [9, 9, 2]
    fresh = loaded["generate"](text=text, **settings(temperature=1.0, max_new_tokens=20))
    assert len(set(as_lists(fresh)["text"])) == 3  # seed -1


def test_rows_are_what_they_are_alone(loaded):
    text = tf.constant(["abc", "the longest", "é"])
    values = settings(3, max_new_tokens=[2, 9, 5], temperature=[0, 1, 1], seed=[1, 2, 3])
    together = as_lists(loaded["generate"](text=text, **values))
    for row in range(3):
        alone = as_lists(loaded["generate"](
            text=text[row : row + 1],
            **{k: v[row : row + 1] if v.shape[0] == 3 else v for k, v in values.items()},
        ))  # fmt: skip
        for name in ("text", "finish_reason", "num_tokens", "prompt_tokens"):
            assert alone[name][0] == together[name][row]


def test_every_output_has_one_row_per_text(loaded):
    ids = tf.constant([[1, 2]] * 4)
    for count in (0, 1, 4):
        text = tf.fill([count], "abc")
        for name in SIGNATURES:
            if name.startswith("engine_"):  # states
                continue
            inputs = {"ids": ids[:count]} if name == "detokenize" else {"text": text}
            if name.endswith("_ids"):
                inputs = {"ids": tf.fill([count], "1 2")}
            inputs |= settings() if name in ("generate", "generate_ids") else {}
            for value in loaded[name](**inputs).values():
                assert value.shape.rank >= 1 and value.shape[0] == count, name


EXTREMES = {
    "temperature": [np.nan, -1.0, np.inf, 1e-38], "top_k": [-5, 2**31 - 1, 0, 1],
    "top_p": [np.nan, -1.0, 2.0, 0.0], "min_p": [np.inf, -1.0, np.nan, 1.0],
    "repetition_penalty": [0.0, np.nan, -1.0, np.inf], "seed": [-7, 2**63 - 1, 0, -1],
    "max_new_tokens": [-1, 2**31 - 1, 5, 5], "min_new_tokens": [-1, 2**31 - 1, 3, 0],
}  # fmt: skip


def test_extreme_values_have_defined_results(loaded):
    text = tf.constant([b"\xff\xfe\x00", b"a" * 500, b"", "é😀".encode()])
    for shift in range(4):
        values = {name: np.roll(value, shift) for name, value in EXTREMES.items()}
        out = loaded["generate"](text=text, **settings(4, **values, stop=[["x" * 300, "a"]]))
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
        scores = loaded["score"](text=text)
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


def test_python_can_call_it_with_defaults(report):
    loaded = tf.saved_model.load(report.path)
    text = tf.constant(["abc"])
    assert as_lists(loaded.generate(text)) == as_lists(loaded.serving_default(text))
    assert loaded.generate(text, max_new_tokens=tf.constant([2]))["num_tokens"].numpy() == [2]


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
        ({"batch_sizes": "some"}, ValueError, "`batch_sizes` must be.*'auto' or None"),
        ({"batching": "grap"}, ValueError, "`batching` must be.*Did you mean 'graph'"),
        ({"batching": 3}, TypeError, "`batching` must be"),
        (
            {"batching": Batching(num_batch_threads=0)},
            ValueError,
            "`num_batch_threads` of batching must be",
        ),
        ({"stop_limits": (65, 16)}, ValueError, r"`stop_limits\[0\]` must be"),
        ({"top": 0}, ValueError, "`top` must be an integer in"),
        ({"max_new_tokens": 65}, ValueError, r"`max_new_tokens` of an export.*\[1, 64\]"),
    ):
        with pytest.raises(error, match=message):
            gen.export(tmp_path / "1", **options)
    assert not os.listdir(tmp_path)
