"""`GenerationConfig`: files, foreign keys, contradictions, and values for rows."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2 import GenerationConfig
from tfgpt2.generation.buckets import check_buckets, default_buckets, round_up
from tfgpt2.generation.option_values import check_option
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.params import clamp, option_rows


def test_a_file_survives_a_round_trip(tmp_path):
    values = {"do_sample": True, "top_p": 0.9, "eos_token_id": [1, 2], "transformers_version": "4",
              "_from_model_config": True, "cache_implementation": None, "top_n": 3,
              "penalty_alpha": 0.6}  # fmt: skip
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    config = GenerationConfig.from_pretrained(tmp_path)
    assert config.top_p == 0.9 and config.eos_ids == [1, 2] and config.transformers_version == "4"
    config.save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "generation_config.json").read_text()) == values
    assert GenerationConfig.from_pretrained(tmp_path / "copy") == config
    with pytest.raises(ValueError, match="Contrastive search does not sample"):
        config.updated()  # found when something is generated, not when a model is loaded


def test_pytorch_reads_our_file(tmp_path):
    transformers = pytest.importorskip("transformers")
    GenerationConfig(do_sample=True, temperature=0.7, top_k=0, eos_token_id=3).save_pretrained(
        tmp_path
    )
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert (theirs.do_sample, theirs.temperature, theirs.top_k, theirs.eos_token_id) == (
        True, 0.7, 0, 3)  # fmt: skip
    theirs.save_pretrained(tmp_path / "theirs")
    ours = GenerationConfig.from_pretrained(tmp_path / "theirs")
    assert (ours.do_sample, ours.temperature, ours.top_k, ours.eos_token_id) == (True, 0.7, 0, 3)


def test_arrays_are_written(tmp_path):
    GenerationConfig(temperature=np.array([0.5, 1.0])).save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).temperature == [0.5, 1.0]


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"temperature": "hot"}', '{"top_p": 7}',
                                  '{"eos_token_id": "x"}', b"\xff"])  # fmt: skip
def test_broken_files_are_refused(tmp_path, text):
    path = tmp_path / "generation_config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="(?s)not a readable generation configuration.*path="):
        GenerationConfig.from_json_file(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"generation_config\.json"):
        GenerationConfig.from_pretrained(tmp_path)


def test_misspelled_names_are_refused():
    with pytest.raises(TypeError, match="Did you mean 'top_p'"):
        GenerationConfig(topp=0.5)
    config = GenerationConfig()
    with pytest.raises(AttributeError, match="Did you mean 'temperature'"):
        config.temprature = 0.5
    config.temperature = 0.5
    assert config.temperature == 0.5
    with pytest.raises(AttributeError, match="no attribute 'temprature'"):
        _ = config.temprature
    with pytest.raises(TypeError, match="Did you mean 'top_k'"):
        config.updated(topk=3)
    with pytest.raises(TypeError, match="Did you mean 'top_k'"):
        GenerationConfig.from_dict({}, topk=3)


def test_updating_leaves_the_original_alone():
    config = GenerationConfig(eos_token_id=[1])
    other = config.updated(do_sample=True, top_p=0.5, max_new_tokens=3)
    assert (config.top_p, other.top_p, other.max_new_tokens) == (1.0, 0.5, 3)
    other.eos_token_id.append(2)
    assert config.eos_ids == [1]
    assert config != other and config == GenerationConfig(eos_token_id=[1])


def test_greedy_is_temperature_zero():
    options = GenerationConfig(temperature=0.7, top_p=0.5).request_values()
    assert (options["temperature"], options["top_k"], options["top_p"]) == (0.0, 0, 1.0)
    options = GenerationConfig(do_sample=True, top_k=None, min_p=None).request_values()
    assert (options["temperature"], options["top_k"], options["min_p"]) == (1.0, 0, 0.0)
    assert list(options) == list(REQUEST_OPTIONS)


def test_seeds_are_exact():
    rows = lambda seed, count=3: option_rows(REQUEST_OPTIONS["seed"], seed, count).numpy().tolist()  # noqa: E731
    assert rows(0) == [0, 1, 2]
    assert rows(2**53 + 1) == [2**53 + 1, 2**53 + 2, 2**53 + 3]
    assert rows(2**63 - 2) == [2**63 - 2, 2**63 - 1, 0]
    assert rows([5]) == [5, 5, 5] and rows([5, 6, 7]) == [5, 6, 7]
    assert rows(np.int64(4)) == rows(tf.constant(4)) == [4, 5, 6]
    fresh = rows(-1, 50)
    assert len(set(fresh)) == 50 and min(fresh) >= 0
    assert rows([], 0) == rows(3, 0) == []


def test_values_for_rows():
    found = option_rows(REQUEST_OPTIONS["temperature"], 1, 2)
    assert found.dtype == tf.float32 and found.numpy().tolist() == [1.0, 1.0]
    assert option_rows(REQUEST_OPTIONS["top_k"], np.array([1, 2]), 2).numpy().tolist() == [1, 2]
    assert check_option(REQUEST_OPTIONS["top_p"], 0.5).shape == ()
    with pytest.raises(ValueError, match="one value or 3 values, one for each row"):
        option_rows(REQUEST_OPTIONS["top_k"], [1, 2], 3)
    with pytest.raises(TypeError, match="`top_k` must be an integer"):
        check_option(REQUEST_OPTIONS["top_k"], "3")


def test_graphs_clamp_what_python_refuses():
    inf, nan = float("inf"), float("nan")
    for name, given, expected in (
        ("temperature", [nan, -1, inf, 0.5], [0, 0, 1e6, 0.5]),
        ("top_p", [nan, -1, 2, 0.5], [1, 0, 1, 0.5]),
        ("min_p", [nan, -inf, 2, 0.5], [0, 0, 1, 0.5]),
        ("repetition_penalty", [nan, -1, inf, 1.5], [1, 1e-3, 1e3, 1.5]),
        ("max_new_tokens", [-5, 2**31 - 1, 0, 3], [0, 2**30, 0, 3]),
        ("seed", [-9, -1, 0, 2**63 - 1], [-1, -1, 0, 2**63 - 1]),
    ):
        value = tf.constant(given, REQUEST_OPTIONS[name].dtype)
        np.testing.assert_allclose(
            clamp(REQUEST_OPTIONS[name], value), np.array(expected, value.dtype.name)
        )


def test_buckets():
    assert default_buckets(16) == (16,) and default_buckets(8) == (8,)
    assert default_buckets(1024) == (16, 32, 64, 128, 256, 512, 1024)
    assert check_buckets("b", [32, 8], 64) == (8, 32)
    assert [int(round_up(tf.constant(n), (8, 32))) for n in (0, 8, 9, 32, 33)] == [8, 8, 32, 32, 32]
    for wrong in ([], [0], [65], [8, 8], [8.0], ["8"], [True], None, 8):
        with pytest.raises(ValueError, match=r"`b` must be distinct integers in \[1, 64\].*For ex"):
            check_buckets("b", wrong, 64)
