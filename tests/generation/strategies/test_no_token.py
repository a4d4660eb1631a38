"""Rows all of whose tokens are ruled out end without one; generation of no rows at all."""

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2 import GenerationConfig

V = 23
ALL = list(range(V))
STRATEGIES = {
    "greedy": {},
    "sampling": {"do_sample": True, "seed": 1},
    "hot": {"do_sample": True, "seed": 1, "temperature": 1e6, "top_k": 3, "top_p": 0.5},
    "cold": {"do_sample": True, "seed": 1, "temperature": 1e-9, "typical_p": 0.5},
    "normalized": {"do_sample": True, "seed": 1, "renormalize_logits": True},
    "n-best": {"do_sample": True, "seed": 1, "num_return_sequences": 2},
    "best of": {"do_sample": True, "seed": 1, "best_of": 2},
    "lookup": {"prompt_lookup_num_tokens": 2},
    "deadline": {"max_time": 1e3},
    "scores": {"output_scores": True, "output_logits": True, "top_logprobs": 2},
    "without cache": {"use_cache": False},
    "guided": {"guidance_scale": 1.5},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beam sampling": {"num_beams": 2, "do_sample": True, "seed": 1, "renormalize_logits": True},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
}
QUICK = ("greedy", "sampling", "beams")
FORBIDDING = {
    "suppressed": {"suppress_tokens": ALL},
    "biased": {"sequence_bias": {(one,): float("-inf") for one in ALL},
               "repetition_penalty": 1e-3, "encoder_repetition_penalty": 1e3},
    "bad words": {"bad_words_ids": [[one] for one in ALL]},
    "infinitely": {"logits_processor": lambda ids, mask, scores: scores - float("inf")},
}  # fmt: skip


@pytest.fixture(autouse=True)
def eagerly():
    """Nothing is compiled: each case is cheap."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def run(model, ids, how, **options):
    options = {"eos_token_id": None, "max_new_tokens": 6, "pad_token_id": 0} | options
    return model.generate(ids, jit_compile=False, return_dict_in_generate=True,
                          **STRATEGIES[how], **options)  # fmt: skip


def check_finite(out):
    for value in (out.token_logprobs, out.sequences_scores, out.top_logprobs):
        assert value is None or np.isfinite(value).all()


@pytest.mark.parametrize(("how", "why"), [
    *((how, "suppressed") for how in STRATEGIES),
    *((how, why) for how in ("hot", "normalized", "beam sampling", "contrastive")
      for why in FORBIDDING if why != "suppressed"),
])  # fmt: skip
def test_no_token_is_written(model, how, why):
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    out = run(model, ids, how, **FORBIDDING[why])
    assert set(out.finish_reason) == {"no_token"} and not out.num_tokens.numpy().any()
    rows = len(out.finish_reason) // 2
    np.testing.assert_array_equal(out.sequences, ids.repeat(rows, axis=0))
    check_finite(out)


@pytest.mark.parametrize("how", [
    pytest.param(how, marks=[] if how in QUICK else pytest.mark.long) for how in STRATEGIES
])  # fmt: skip
def test_a_row_ends_where_nothing_is_left(model, how):
    """The first row after two tokens; the second goes on as if it were alone."""

    def forbid(ids, mask, scores):
        first = tf.reduce_any((ids == 20) & (mask > 0), axis=1)  # the row whose prompt holds 20
        ended = first & (tf.reduce_sum(mask, axis=1) >= 5)
        return tf.where(ended[:, None], -1e30, scores)

    ids = np.array([[20, 2, 3], [4, 5, 6]])
    never = {"suppress_tokens": [20]}
    out = run(model, ids, how, logits_processor=forbid, **never)
    alone = run(model, ids, how, **never)
    rows = len(out.finish_reason) // 2
    best = out.finish_reason[0], out.finish_reason[rows]
    assert best == ("no_token", "length")
    assert out.num_tokens.numpy()[[0, rows]].tolist() == [2, 6]
    assert out.sequences[0, 5:].numpy().tolist() == [0] * 4
    np.testing.assert_array_equal(out.sequences[rows], alone.sequences[rows])
    check_finite(out)


def test_an_assistant_and_a_streamer(model):
    class Streamer:
        put_ids, ended = 0, False

        def put(self, ids):
            self.put_ids += ids.size

        def end(self):
            self.ended = True

    streamer = Streamer()
    out = run(model, [[1, 2, 3]], "greedy", suppress_tokens=ALL, streamer=streamer)
    assert out.finish_reason == ["no_token"] and (streamer.put_ids, streamer.ended) == (3, True)
    out = run(model, [[1, 2, 3]], "greedy", suppress_tokens=ALL, assistant_model=model)
    assert out.finish_reason == ["no_token"] and int(out.num_tokens[0]) == 0


def test_a_constraint_that_the_empty_text_fulfils(model):
    letters = tfgpt2.TFGPT2Tokenizer({chr(97 + i): i for i in range(V)}, [])
    out = run(model, [[1, 2, 3]], "greedy", choices=[""], tokenizer=letters)
    assert out.finish_reason == ["stop"] and int(out.num_tokens[0]) == 0


def test_missing_hypotheses(model):
    """Fewer texts match than there are beams: the places without one say so."""
    letters = tfgpt2.TFGPT2Tokenizer({chr(97 + i): i for i in range(V)}, [])
    out = run(model, [[1, 2, 3]], "beams", choices=["a"], tokenizer=letters, eos_token_id=5)
    assert out.finish_reason[1] == "no_token" and int(out.num_tokens[1]) == 0
    check_finite(out)


def test_broken_weights_are_still_an_error(build):
    model = build(seed=77)
    before = model.transformer.ln_f.bias.numpy()
    model.transformer.ln_f.bias.assign(np.full_like(before, np.nan))
    for how in ("greedy", "beams", "contrastive"):
        with pytest.raises(ValueError, match="scores are not numbers"):
            run(model, [[1, 2, 3]], how)
    model.transformer.ln_f.bias.assign(before)


@pytest.mark.parametrize("how", STRATEGIES)
def test_no_rows(model, how):
    given = STRATEGIES[how]
    returns = {"output_attentions": True, "output_hidden_states": True}
    out = run(model, np.zeros([0, 3], int), how, **returns, seed=[]) if "seed" not in given else (
        run(model, np.zeros([0, 3], int), how, **returns))  # fmt: skip
    assert out.sequences.shape == (0, 3) and out.sequences.dtype == tf.int32
    assert out.token_logprobs.shape == (0, 0) and out.num_tokens.shape == (0,)
    assert out.finish_reason == [] and out.attentions == () == out.hidden_states
    if given.get("num_beams"):
        assert out.sequences_scores.shape == (0,) and out.beam_indices.shape == (0, 0)
    else:
        assert out.sequences_scores is None is out.beam_indices
    if how == "scores":
        assert out.scores == () == out.logits
        assert out.top_ids.shape == out.top_logprobs.shape == (0, 0, 2)


def test_no_rows_with_values_per_row_and_constraints(model):
    letters = tfgpt2.TFGPT2Tokenizer({chr(97 + i): i for i in range(V)}, [])
    none = np.zeros([0, 3], int)
    for options in ({"max_new_tokens": [], "regex": "b+", "tokenizer": letters},
                    {"stop_strings": [], "min_new_tokens": []}, {"stop_strings": "a"},
                    {"guidance_scale": 1.5, "negative_prompt_ids": [[1]]},
                    {"max_new_tokens": []}):  # fmt: skip
        options = {"tokenizer": letters, "jit_compile": False} | options
        assert model.generate(none, **options).shape == (0, 3)
    assert model.generate(none, GenerationConfig(num_beams=2), top_k=None).shape == (0, 3)
