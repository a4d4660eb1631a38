"""`LiteRTGenerator` against `TextGenerator`: the same tokens in float32."""

import dataclasses
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy_text
from tests.support.toy_text import CONTEXT
from tfgpt2.litert.contract import MODEL
from tfgpt2.litert.export import make_contract

PROMPTS = ["the her\n\n", "é 😀 t", ""]


def assert_same(live, loaded, prompts, **options):
    expected = live.generate(prompts, details=True, **options)
    found = loaded.generate(prompts, details=True, **options)
    assert len(found) == len(expected)
    for one, other in zip(expected, found, strict=True):
        assert other.token_ids == one.token_ids
        assert other.text == one.text and other.text_bytes == one.text_bytes
        assert other.finish_reason == one.finish_reason
        assert (other.prompt_tokens, other.truncated) == (one.prompt_tokens, one.truncated)
        np.testing.assert_allclose(other.token_logprobs, one.token_logprobs, atol=1e-3)
        assert other.logprob == pytest.approx(one.logprob, abs=1e-2)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        pytest.param({"temperature": 0.8, "seed": 3}, marks=pytest.mark.long),
        {"temperature": [0, 1.3, 0.7], "top_k": [0, 7, 0], "top_p": [1, 0.9, 0.6], "seed": 1},
        {"temperature": 1.0, "min_p": 0.1, "repetition_penalty": [1.0, 1.5, 0.8], "seed": 9},
        {"do_sample": True, "seed": 2**62 + 5, "min_new_tokens": [0, 12, 20]},
    ],
    ids=str,
)
def test_tokens_are_those_of_text_generator(live, loaded, options):
    """Two rows at a time, three prompts of different lengths, and texts that outgrow a cache."""
    assert_same(live, loaded, PROMPTS, max_new_tokens=[40, 9, 14], **options)


def test_long_prompts_take_several_calls_and_rows_that_do_not_fit_together(live, loaded):
    long = "x" * (CONTEXT - 5)
    found = assert_same(live, loaded, ["ab", long], temperature=0, max_new_tokens=30)
    assert found[1].finish_reason == "length" and len(found[1].token_ids) == 5


def test_texts_end_at_stop_strings_and_end_tokens(live, loaded):
    plain = loaded.generate(PROMPTS, temperature=0, max_new_tokens=20, details=True)
    stops = [[one.text_bytes[3:6] or "zzz", "zzz"] for one in plain]  # within tokens, too
    found = assert_same(live, loaded, PROMPTS, temperature=0, max_new_tokens=20, stop=stops)
    assert found[0].finish_reason == "stop"
    for seed in range(20):  # until a row draws the end token
        options = {"temperature": 3.0, "seed": seed * 7, "max_new_tokens": 40}
        if "eos" in {
            one.finish_reason for one in loaded.generate(PROMPTS, details=True, **options)
        }:
            assert_same(live, loaded, PROMPTS, **options)
            return
    raise AssertionError("no row drew the end token")


def test_nothing_is_generated_where_nothing_is_asked_for(live, loaded):
    assert loaded.generate([]) == []
    assert_same(live, loaded, ["a", "b"], temperature=0, max_new_tokens=[0, 3])
    assert "".join(loaded.stream("a", max_new_tokens=0)) == ""


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.2, "seed": 5}], ids=str)
def test_stream_gives_the_text_of_generate(loaded, options):
    options["max_new_tokens"] = 40
    whole = loaded.generate("é 😀", **options)
    pieces = list(loaded.stream("é 😀", **options))
    assert "".join(pieces) == whole and len(pieces) > 3
    stop = loaded.generate("é 😀", details=True, **options).text_bytes[10:13]
    stopped = loaded.generate("é 😀", stop=stop, details=True, **options)
    assert stopped.finish_reason == "stop" and len(stopped.text_bytes) <= 10
    assert "".join(loaded.stream("é 😀", stop=stop, **options)) == stopped.text


def test_a_stream_that_is_left_does_not_disturb_others(loaded):
    first = loaded.stream("the", temperature=0, max_new_tokens=20)
    begun = next(first)
    other = loaded.generate("the", temperature=0, max_new_tokens=20)
    assert begun + "".join(first) == other


def test_threads_share_a_loaded_folder(loaded):
    calls = [{"temperature": 1.0, "seed": seed, "max_new_tokens": 20} for seed in range(4)]
    expected = [loaded.generate("the", **options) for options in calls]
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(lambda options: loaded.generate("the", **options), calls)] == expected


def test_the_last_idle_cache_may_be_taken_by_another_thread(loaded):
    class Taken(list):
        """What another thread empties between a look and the pop."""

        def __bool__(self):
            return True

    idle = loaded._engine._loaded.idle
    (size, kept) = next(iter(idle.items()))
    idle[size] = Taken()
    try:
        assert loaded._engine.acquire(size).keys() == loaded.contract.cache_shapes(size).keys()
    finally:
        idle[size] = kept


def test_scores_are_those_of_text_generator(live, loaded):
    texts = ["the her\n\n the the", "", "é", "y" * (CONTEXT + 9)]
    expected = live.pipeline.score(tf.constant(texts))
    for row, found in enumerate(loaded.score(texts)):
        assert found.num_tokens == int(expected["num_tokens"][row])
        assert found.truncated == int(expected["truncated"][row])
        assert found.logprob == pytest.approx(float(expected["logprob"][row]), abs=1e-2)
        assert found.perplexity == pytest.approx(float(expected["perplexity"][row]), rel=1e-3)
        logprobs = expected["token_logprobs"][row].numpy()[: len(found.token_logprobs)]
        np.testing.assert_allclose(found.token_logprobs, logprobs, atol=1e-3)
    assert loaded.score("é").num_tokens == 0


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"num_beams": 2}, TypeError, "no option 'num_beams'"),
        ({"top_kk": 2}, TypeError, "Did you mean 'top_k'"),
        ({"top_p": 2}, ValueError, r"a number in \[0, 1\]"),
        ({"temperature": [1, 2, 3]}, ValueError, "one value or 2 values"),
        ({"do_sample": False, "top_p": 0.5}, ValueError, "acts on sampling only"),
        ({"do_sample": "yes"}, TypeError, "True or False"),
        ({"stop": 3}, TypeError, "`stop` must be"),
    ],
    ids=str,
)
def test_wrong_options_raise(loaded, options, error, text):
    with pytest.raises(error, match=text):
        loaded.generate(["a", "b"], **options)


def test_wrong_prompts_raise(live, loaded):
    with pytest.raises(TypeError, match="a string or a list of strings"):
        loaded.generate([1, 2])
    with pytest.raises(TypeError, match="one text"):
        loaded.stream(["a"])
    with pytest.raises(ValueError, match="leaves no room in the model's context of 64"):
        loaded.generate(["a", "x" * CONTEXT])


@pytest.mark.long
def test_tokens_before_every_text(live, exported, tmp_path):
    """They count, are read first, and stay when a prompt is cut."""
    from tfgpt2 import TextGenerator
    from tfgpt2.litert import LiteRTGenerator

    tokens = toy_text.tokenizer(add_bos_token=True)
    other = TextGenerator(live.model, tokens, on_long_prompt="truncate_left", jit_compile=False)
    folder = shutil.copytree(exported[0], tmp_path / "copy")
    contract = make_contract(other, None, 2, None, [4, 16]).with_model_bytes(
        (folder / MODEL).stat().st_size
    )
    assert contract.prefix_ids == (tokens.bos_token_id,)
    dataclasses.replace(contract, cache_sizes=(24, CONTEXT)).write(folder)
    small = LiteRTGenerator.from_pretrained(folder, cache_dir=tmp_path)
    assert_same(other, small, ["the her", "", "é" * CONTEXT], temperature=0, max_new_tokens=9)
    live_score, score = other.pipeline.score(tf.constant(["the her"])), small.score("the her")
    assert score.logprob == pytest.approx(float(live_score["logprob"][0]), abs=1e-3)


@pytest.mark.long
def test_truncation_keeps_the_end(live, exported, tmp_path):
    from tfgpt2.litert import LiteRTGenerator

    other = LiteRTGenerator.from_pretrained(
        exported[0], on_long_prompt="truncate_left", cache_dir=tmp_path, threads=1
    )
    cutting = toy_text.generator(on_long_prompt="truncate_left", jit_compile=False)
    found = assert_same(cutting, other, ["ab" * CONTEXT, "a"], temperature=0, max_new_tokens=9)
    assert found[0].truncated == 2 * CONTEXT - (CONTEXT - 9)


_PROGRAM = """
import json, sys, time
sys.modules |= dict.fromkeys(["tensorflow", "tensorflow_text", "sentencepiece", "h5py"])
start = time.monotonic()
from tfgpt2.litert import LiteRTGenerator
seconds = time.monotonic() - start
generator = LiteRTGenerator.from_pretrained(sys.argv[1], cache_dir=sys.argv[2])
texts = generator.generate(json.loads(sys.argv[3]), temperature=0, max_new_tokens=12)
print(json.dumps([texts, seconds]))
"""


def test_a_process_without_tensorflow_generates(live, exported, tmp_path, figure):
    command = [sys.executable, "-c", _PROGRAM, exported[0], tmp_path, json.dumps(PROMPTS)]
    for _ in range(2):  # without and with the stored form of the weights
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        texts, seconds = json.loads(done.stdout)
        assert texts == live.generate(PROMPTS, temperature=0, max_new_tokens=12)
    figure("seconds to import tfgpt2.litert", seconds)
    assert len(list(tmp_path.iterdir())) == 1
