"""Generation with random options: an explained error, or a consistent result.

The functions run eagerly, without XLA, so each combination is cheap.
"""

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2 import GPT2Config, TFGPT2LMHeadModel

V, CONTEXT = 13, 24
BAD = [-1, 0, 2.5, "x", True, None, float("nan"), [], [1, 2, 3], -(10**12), {}]
GOOD = {
    "max_new_tokens": [0, 1, 3, 5, [2, 4]],
    "max_length": [6, 9, 24],
    "min_new_tokens": [0, 2],
    "min_length": [0, 7],
    "do_sample": [True, False],
    "num_beams": [1, 2, 3],
    "num_beam_groups": [1, 2],
    "penalty_alpha": [None, 0.6],
    "prompt_lookup_num_tokens": [None, 2],
    "temperature": [0.0, 0.5, 1.0, [0.7, 1.2]],
    "top_k": [0, 1, 4, 50, [2, 3]],
    "top_p": [0.1, 0.9, 1.0],
    "min_p": [0.0, 0.2],
    "typical_p": [0.5, 1.0],
    "epsilon_cutoff": [0.0, 0.01],
    "eta_cutoff": [0.0, 0.01],
    "seed": [0, 7, [1, 2]],
    "repetition_penalty": [1.0, 1.7, 0.5],
    "presence_penalty": [0.0, 1.0],
    "frequency_penalty": [0.0, -1.0],
    "no_repeat_ngram_size": [0, 1, 2],
    "bad_words_ids": [[[1]], [[2, 3], [4]]],
    "suppress_tokens": [[1, 2], list(range(12))],
    "begin_suppress_tokens": [[1]],
    "forced_bos_token_id": [None, 3],
    "forced_eos_token_id": [None, 5],
    "exponential_decay_length_penalty": [None, (1, 1.5)],
    "guidance_scale": [None, 1.5],
    "renormalize_logits": [True, False],
    "remove_invalid_values": [True, False],
    "length_penalty": [1.0, 0.0, -1.0],
    "early_stopping": [True, False, "never"],
    "diversity_penalty": [0.0, 0.5],
    "num_return_sequences": [1, 2],
    "best_of": [None, 2],
    "eos_token_id": [None, 0, [0, 1, 2]],
    "pad_token_id": [None, 0],
    "output_scores": [True, False],
    "output_logits": [True, False],
    "top_logprobs": [0, 2],
    "use_cache": [True, False],
}


@pytest.fixture(scope="module")
def model():
    import keras

    keras.utils.set_random_seed(0)
    config = GPT2Config(vocab_size=V, n_positions=CONTEXT, n_embd=8, n_layer=1, n_head=2,
                        bos_token_id=0, eos_token_id=0, initializer_range=0.5)  # fmt: skip
    return TFGPT2LMHeadModel(config)


@pytest.fixture(autouse=True)
def eagerly():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def draw_case(draw):
    """Prompts and options, sometimes with an invalid value."""
    rows = int(draw.integers(1, 3))
    ids = draw.integers(0, V, [rows, int(draw.integers(1, 6))])
    mask = np.ones_like(ids)
    if draw.random() < 0.3:
        mask[0, 0] = ids.shape[1] == 1  # padding on the left
    names = draw.choice(list(GOOD), int(draw.integers(0, 6)), replace=False)
    options = {name: GOOD[name][draw.integers(len(GOOD[name]))] for name in map(str, names)}
    options.setdefault("max_new_tokens", 3)
    if "max_length" in options:
        options.pop("max_new_tokens")
    if draw.random() < 0.3:
        options[str(draw.choice(list(GOOD)))] = BAD[draw.integers(len(BAD))]
    return ids, mask, options


def check(model, ids, mask, options, result):
    """Checks the properties of every result."""
    returns = options.get("num_return_sequences") or 1
    rows, prompt = ids.shape
    sequences = result.sequences.numpy()
    assert sequences.dtype == np.int32 and len(sequences) == rows * returns
    assert (sequences[:, :prompt] == ids.repeat(returns, axis=0)).all()
    new, counts = sequences[:, prompt:], result.num_tokens.numpy()
    assert ((new >= 0) & (new < V)).all()
    most = options.get("max_new_tokens")
    most = options["max_length"] - prompt if most is None and options.get("max_length") else most
    limit = np.broadcast_to(20 if most is None else most, rows).repeat(returns)
    assert (counts <= np.minimum(limit, CONTEXT - mask.sum(1).repeat(returns))).all()
    assert new.shape[1] == counts.max(initial=0)
    logprobs = result.token_logprobs.numpy()
    assert np.isfinite(logprobs).all() and (logprobs <= 1e-4).all()
    ended = np.arange(new.shape[1])[None] >= counts[:, None]
    assert (logprobs[ended] == 0).all()
    assert set(result.finish_reason) <= {"length", "eos", "stop", "time", "no_token"}
    assert not np.isin(new[~ended], options.get("suppress_tokens") or []).any()


@pytest.mark.long
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(s, marks=pytest.mark.long) for s in range(1, 11))]
)
def test_an_error_or_a_result(seed, model, generator, amount, count):
    draw, results, errors = generator(seed), 0, 0
    for number in range(amount(100 if seed else 25)):
        ids, mask, options = draw_case(draw)
        where = f"seed {seed}, case {number}: {ids.tolist()} {mask.tolist()} {options}"

        def run(ids=ids, mask=mask, options=options):
            return model.generate(ids, attention_mask=mask, return_dict_in_generate=True,
                                  jit_compile=False, **options)  # fmt: skip

        try:
            result = run()
        except (TypeError, ValueError) as error:
            assert "Received: " in str(error), f"{where}: {error}"
            errors += 1
            continue
        except Exception as error:
            raise AssertionError(where) from error
        try:
            check(model, ids, mask, options, result)
            if options.get("seed") is not None or not options.get("do_sample"):
                again = run()
                np.testing.assert_array_equal(result.sequences, again.sequences)
        except AssertionError as error:
            raise AssertionError(f"{where}\n{error}") from error
        results += 1
    assert results > errors / 10
    count("generations with random options: results", results)
    count("generations with random options: errors that explain", errors)
