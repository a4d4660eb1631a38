"""Token DFAs in the graph: masks, batches of different DFAs, and random decoding."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.constraint_cases import (
    CASES,
    SCHEMA,
    TOY,
    generate_randomly,
    load_gpt2,
    satisfies,
    token_bytes_of,
)
from tfgpt2.generation.constraints.compile import compile_constraint
from tfgpt2.generation.constraints.masking import (
    FREE,
    advance,
    batch_dfas,
    is_complete,
    mask_logits,
)
from tfgpt2.generation.constraints.token_dfa import fewest_tokens
from tfgpt2.tokenizers.host import GPT2Tokenizer


@pytest.mark.parametrize("name", CASES)
def test_random_decoding_ends_in_a_match(name):
    case = CASES[name]
    dfa = compile_constraint(TOY, **case)
    least = fewest_tokens(dfa)
    limits = np.array([max(least, 1) + more for more in (0, 0, 1, 2, 3, 5, 8, 40, 200)])
    constraint = batch_dfas([dfa] * len(limits), len(TOY))
    for eos in (-1, 0):
        texts, count, reasons = generate_randomly(constraint, TOY, limits, eos=eos)
        assert (count <= limits).all()
        for text in texts:
            assert satisfies(case, text), text
        assert "complete" in reasons or "eos" in reasons


@pytest.mark.long
def test_random_decoding_with_the_bundled_and_gpt2_vocabularies(shared_data):
    bundled = GPT2Tokenizer.from_pretrained("shakespeare-tiny")
    gpt2, tokenizer = load_gpt2(shared_data / "gpt2_vocab")
    assert len(gpt2) == 50257
    for token_bytes, eos in (
        (token_bytes_of(bundled), bundled.eos_token_id),
        (gpt2, tokenizer.eos_token_id),
    ):
        for name in ("choices", "date", "unicode", "schema"):
            dfa = compile_constraint(token_bytes, **CASES[name])
            least = max(1, fewest_tokens(dfa))
            limits = np.array([least, least + 1, least + 4, 90])
            constraint = batch_dfas([dfa] * 4, len(token_bytes))
            texts, _, _ = generate_randomly(constraint, token_bytes, limits, eos=eos)
            for text in texts:
                assert satisfies(CASES[name], text), text


@pytest.mark.long
def test_random_decoding_of_a_schema_with_many_seeds(shared_data):
    token_bytes, tokenizer = load_gpt2(shared_data / "gpt2_vocab")
    dfa = compile_constraint(token_bytes, json_schema=SCHEMA)
    constraint = batch_dfas([dfa] * 16, len(token_bytes))
    for seed in range(12):
        limits = np.random.RandomState(seed).randint(fewest_tokens(dfa), 120, 16)
        eos = tokenizer.eos_token_id
        texts, _, _ = generate_randomly(constraint, token_bytes, limits, eos, seed)
        for text in texts:
            assert satisfies(CASES["schema"], text), text


def mixed_batch():
    """Rows with different DFAs, one of them twice, and free rows."""
    cases = [CASES["choices"], None, CASES["date"], CASES["letters"], CASES["date"], None]
    dfas = [case and compile_constraint(TOY, **case) for case in cases]
    return cases, batch_dfas(dfas, len(TOY) + 3)


def test_rows_with_different_dfas():
    cases, constraint = mixed_batch()
    assert constraint.start.shape == [6] and constraint.token_class.shape == [4, len(TOY) + 3]
    assert constraint.start[1] == constraint.start[5] == FREE
    assert constraint.start[2] == constraint.start[4] != constraint.start[0]
    token_bytes = [*TOY, b"<1>", b"<2>", b"<3>"]
    texts, _, reasons = generate_randomly(constraint, token_bytes, 30, eos=0, seed=4)
    for case, text in zip(cases, texts, strict=True):
        assert case is None or satisfies(case, text), text
    assert {reasons[1], reasons[5]} <= {"eos", "length"}
    # The mask of a row does not depend on the other rows.
    logits = tf.random.stateless_uniform([6, len(token_bytes)], [1, 2])
    eos, remaining = tf.fill([6, 1], 0), tf.fill([6], 9)
    batched = mask_logits(logits, constraint, constraint.start, eos, remaining)
    single = batch_dfas([compile_constraint(TOY, **CASES["date"])], len(token_bytes))
    alone = mask_logits(logits[2:3], single, single.start, eos[2:3], remaining[2:3])
    np.testing.assert_array_equal(batched[2], alone[0])
    np.testing.assert_array_equal(batched[1], logits[1])


def test_eager_graph_and_xla_agree_at_any_batch_size(run_as):
    _, constraint = mixed_batch()
    run_mask, run_advance, run_complete = map(run_as, (mask_logits, advance, is_complete))
    random = np.random.RandomState(0)
    state = constraint.start
    for limit in (9, 3, 2, 1):
        rows = [0, 2, 3, 4, 1, 5][: 3 + limit % 4]
        logits = tf.constant(random.randn(6, len(TOY) + 3), tf.float32)
        remaining, eos = tf.fill([6], limit), tf.constant([[0, -1, 16]] * 6)
        masked = run_mask(logits, constraint, state, eos, remaining)
        np.testing.assert_array_equal(
            masked, mask_logits(logits, constraint, state, eos, remaining)
        )
        part = run_mask(*(tf.gather(x, rows) if x is not constraint else x
                          for x in (logits, constraint, state, eos, remaining)))  # fmt: skip
        np.testing.assert_array_equal(part, tf.gather(masked, rows))
        token = tf.argmax(masked, axis=1, output_type=tf.int32)
        after = run_advance(constraint, state, token)
        np.testing.assert_array_equal(after, advance(constraint, state, token))
        np.testing.assert_array_equal(
            run_complete(constraint, after, remaining), is_complete(constraint, after, remaining)
        )
        state = after


def allowed_tokens(dfa, state, remaining, eos=(-1,), size=None):
    size = size or len(dfa.token_class)
    constraint = batch_dfas([dfa], size)
    state = constraint.start + state
    masked = mask_logits(
        tf.zeros([1, size]), constraint, state, tf.constant([eos]), tf.constant([remaining])
    )
    return set(np.flatnonzero(masked[0].numpy() == 0).tolist())


def test_known_masks():
    dfa = compile_constraint([b"", b"a", b"b", b"ab", b"abb"], regex="a(bb)?")
    assert allowed_tokens(dfa, 0, 9) == {1, 3, 4}
    assert allowed_tokens(dfa, 0, 9, size=7) == {1, 3, 4}  # ids beyond the vocabulary
    assert allowed_tokens(dfa, 0, 1) == {1, 4}  # after "ab" one more token is needed
    middle = dfa.next_state[0, dfa.token_class[1]]
    assert allowed_tokens(dfa, middle, 9, eos=(0,)) == {0, 2}
    assert allowed_tokens(dfa, middle, 1, eos=(0,)) == {0}
    assert allowed_tokens(dfa, middle, 1) == {0, 1, 2, 3, 4}  # complete, without an end token
    assert allowed_tokens(dfa, 0, 0) == {1, 4}  # limit too tight: a shortest path
    constraint = batch_dfas([dfa, None], 5)
    for state, remaining, expected in [
        (dfa.next_state[middle, dfa.token_class[2]], 9, False),
        (dfa.next_state[0, dfa.token_class[4]], 2**31 - 1, True),
        (0, 9, False), (middle, 9, False), (middle, 2, False), (middle, 1, True),
        (middle, 0, True),
    ]:  # fmt: skip
        states = tf.stack([constraint.start[0] + state, FREE])
        done = is_complete(constraint, states, tf.fill([2], remaining))
        assert done.numpy().tolist() == [expected, False]


def test_end_tokens_that_have_bytes():
    token_bytes = [b"", b"a", b"b", b"\n"]
    dfa = compile_constraint(token_bytes, regex="a*b", end_ids=[3])
    assert allowed_tokens(dfa, 0, 9, eos=(0, 3)) == {1, 2}
    with pytest.raises(ValueError, match="No text"):
        compile_constraint(token_bytes, regex="a\n", end_ids=[3])
    # If it was not forbidden at compile time, it is text where nothing else is allowed.
    dfa = compile_constraint(token_bytes, regex="\n")
    assert allowed_tokens(dfa, 0, 9, eos=(3, 3, 99)) == {3}
    dfa = compile_constraint(token_bytes, regex="[a\n]")
    assert allowed_tokens(dfa, 0, 9, eos=(3, -1)) == {1}
    assert allowed_tokens(dfa, 0, 9, eos=(1, 3, 1)) == {1, 3}


def test_output_is_cut_where_the_limit_is_too_tight():
    dfa = compile_constraint(TOY, choices=["zzzz", "zzzzz"])
    assert fewest_tokens(dfa) == 4
    texts, _, reasons = generate_randomly(batch_dfas([dfa], len(TOY)), TOY, 2)
    assert (texts, reasons) == ([b"zz"], ["length"])


def test_free_rows_only():
    constraint = batch_dfas([None, None], 10)
    logits = tf.random.stateless_uniform([2, 10], [1, 2])
    eos, remaining = tf.constant([[3], [3]]), tf.fill([2], 1)
    masked = mask_logits(logits, constraint, constraint.start, eos, remaining)
    np.testing.assert_array_equal(masked, logits)
    assert advance(constraint, constraint.start, tf.constant([4, 9])).numpy().tolist() == [0, 0]


def test_tables_are_padded_to_few_sizes():
    shapes = set()
    for most in range(1, 120, 7):
        dfa = compile_constraint(TOY, regex=f"[a-d]{{1,{most}}}")
        constraint = batch_dfas([dfa], len(TOY))
        shapes.add((*constraint.next_state.shape, *constraint.token_class.shape))
    assert shapes == {(64, 64, 1, len(TOY)), (256, 64, 1, len(TOY))}


def test_batching_checks_rows_and_vocabulary():
    dfa = compile_constraint(TOY, regex="a")
    for dfas, size in (([dfa], len(TOY) - 1), ([], 5)):
        with pytest.raises(ValueError, match="one item per row"):
            batch_dfas(dfas, size)
