"""`model.generate` with each option, token for token as PyTorch transformers."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.support import torch_strategies  # noqa: E402

LENGTHS = (7, 4, 2)
# Options of one call, under transformers' names. Each must change what is generated.
GREEDY = {
    "repetition_penalty": {"repetition_penalty": 1.6},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 0.4},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[3], [7], [12, 5], [1, 2, 4], [20], [15, 15]]},
    "sequence_bias": {"sequence_bias": [[[4], 9.0], [[4, 11], 12.0], [[15], -30.0]]},
    "suppress_tokens": {"suppress_tokens": list(range(0, 23, 2))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(1, 23, 2))},
    "forced_eos_token_id": {"forced_eos_token_id": 9},
    "decay": {"exponential_decay_length_penalty": (3, 1.8), "eos_token_id": 5},
    "min_length": {"min_length": 14, "eos_token_id": [1, 2, 3, 4, 5, 6, 7, 8]},
    "min_new_tokens": {"min_new_tokens": 6, "eos_token_id": [1, 2, 3, 4, 5, 6, 7, 8]},
    "ends": {"eos_token_id": [3, 9, 20, 15, 4, 11]},
    "guidance": {"guidance_scale": 2.5},
    "negative_prompt": {"guidance_scale": 1.8, "negative_prompt_ids": [[5, 1], [7, 8], [2, 9]]},
    "several": {
        "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "suppress_tokens": [1, 5],
        "bad_words_ids": [[8], [2, 3]], "min_new_tokens": 4, "eos_token_id": [4, 6],
        "forced_eos_token_id": 4, "sequence_bias": [[[10], 3.0]],
    },
}  # fmt: skip
JITTED = ("several", "negative_prompt", "encoder_no_repeat_ngram_size")
QUICK_GREEDY, QUICK_BEAMS = ("several",), ()
PAD = 22  # transformers' beams take 0 for "no pad token" and fill up with the first end token


def some(cases, quick):
    """Names of cases; all but the quick ones are long proofs."""
    return [pytest.param(n, marks=() if n in quick else pytest.mark.long) for n in cases]


def both(build, options, lengths=LENGTHS, seed=3, *, fields=None, jit_compile=False, **ours):
    """Sequences of PyTorch and of the package."""
    ids, mask = torch_strategies.prompts(lengths, seed)
    options = {"max_new_tokens": 16, "eos_token_id": None, "pad_token_id": PAD} | options
    theirs = torch_strategies.model(seed, **(fields or {}))
    expected = torch_strategies.run(theirs, ids, mask, **options).sequences.numpy()
    found = build(seed=seed, **(fields or {})).generate(
        ids, attention_mask=mask, jit_compile=jit_compile, **options, **ours
    )
    return expected, found.numpy()


@pytest.mark.parametrize("name", some(GREEDY, QUICK_GREEDY))
def test_greedy_with_an_option(build, name):
    expected, found = both(build, GREEDY[name])
    np.testing.assert_array_equal(found, expected)
    plain = {"eos_token_id": GREEDY[name].get("eos_token_id")}
    if name != "ends":
        without, _ = both(build, plain) if plain["eos_token_id"] else both(build, {})
        assert without.shape != expected.shape or np.any(without != expected)


@pytest.mark.long
@pytest.mark.parametrize("name", JITTED)
def test_compiled_greedy_with_an_option(build, name):
    expected, found = both(build, GREEDY[name], jit_compile=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.long
def test_forced_first_token_after_a_single_one(build):
    expected, found = both(build, {"forced_bos_token_id": 6}, lengths=(1, 1))
    np.testing.assert_array_equal(found, expected)
    assert (found[:, 1] == 6).all()


BEAMS = {
    "beams": {"num_beams": 4, "eos_token_id": 5},
    "ngrams": {"num_beams": 2, "no_repeat_ngram_size": 2, "length_penalty": 0.5},
    "words": {"num_beams": 4, "bad_words_ids": [[3], [12, 5], [20]], "eos_token_id": [4, 9]},
    "penalty": {"num_beams": 4, "repetition_penalty": 1.5, "early_stopping": True,
                "eos_token_id": [4, 9], "num_return_sequences": 3},
    "forced": {"num_beams": 2, "forced_eos_token_id": 4, "suppress_tokens": [1, 2, 3],
               "eos_token_id": 4, "length_penalty": 2.0},
    "bias": {"num_beams": 4, "sequence_bias": [[[4, 11], 12.0], [[15], -30.0]], "min_length": 12,
             "eos_token_id": [3, 9, 20]},
    "decay": {"num_beams": 2, "exponential_decay_length_penalty": (4, 1.5), "eos_token_id": 7},
    "guidance": {"num_beams": 2, "guidance_scale": 1.6},
    "more guidance": {"num_beams": 4, "guidance_scale": 2.5, "eos_token_id": [4, 9]},
}  # fmt: skip


@pytest.mark.parametrize("name", some(BEAMS, QUICK_BEAMS))
def test_beams_with_an_option(build, name):
    """Guidance: of the texts as they are, where transformers' processor mixes beams up."""
    expected, found = both(build, BEAMS[name])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.long
@pytest.mark.parametrize("name", ["ngrams", "penalty"])
def test_compiled_beams_with_an_option(build, name):
    expected, found = both(build, BEAMS[name], jit_compile=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.long
@pytest.mark.parametrize("beams", [1, 2])
def test_without_a_cache(build, beams):
    expected, found = both(build, {"use_cache": False, "num_beams": beams})
    np.testing.assert_array_equal(found, expected)


@pytest.mark.long
@pytest.mark.parametrize("beams", [1, 2])
def test_embeddings_in_place_of_ids(build, beams):
    theirs, ours = torch_strategies.model(3), build(seed=3)
    _, mask = torch_strategies.prompts(LENGTHS, 3)
    embeds = np.random.RandomState(1).standard_normal((3, 7, 16)).astype(np.float32)
    options = {"inputs_embeds": embeds, "max_new_tokens": 12, "num_beams": beams}
    expected = torch_strategies.run(theirs, None, mask, **options).sequences.numpy()
    found = ours.generate(attention_mask=mask, eos_token_id=None, jit_compile=False, **options)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.long
def test_from_a_past(build, width):
    """PyTorch goes on from a cache of all but the last `width` columns."""
    theirs, ours = torch_strategies.model(3), build(seed=3)
    ids, mask = torch_strategies.prompts((7, 7), 3)
    with torch.no_grad():
        past = theirs(torch.tensor(ids[:, :-width]), use_cache=True).past_key_values
    options = {"max_new_tokens": 12, "repetition_penalty": 1.3}
    expected = torch_strategies.run(theirs, ids, mask, past_key_values=past, **options)
    past = ours(ids[:, :-width], use_cache=True).past_key_values
    found = ours.generate(
        ids, attention_mask=mask, past_key_values=past, eos_token_id=None, jit_compile=False,
        **options,
    )  # fmt: skip
    np.testing.assert_array_equal(found, expected.sequences.numpy())


def test_cross_attention_against_a_plain_loop(build):
    """The whole text through PyTorch's forward pass for each token: nothing is remembered."""
    fields = {"add_cross_attention": True}
    theirs, ours = torch_strategies.model(5, **fields), build(seed=5, **fields)
    ids, _ = torch_strategies.prompts((6, 6), 5)
    states = np.random.RandomState(7).standard_normal((2, 4, 16)).astype(np.float32)
    visible = np.array([[1, 1, 1, 1], [0, 1, 1, 0]])
    text = torch.tensor(ids)
    with torch.no_grad():
        for _ in range(12):
            logits = theirs(
                text,
                encoder_hidden_states=torch.tensor(states),
                encoder_attention_mask=torch.tensor(visible),
                use_cache=False,
            ).logits[:, -1]
            text = torch.cat([text, logits.argmax(-1, keepdim=True)], dim=1)
    new = {"max_new_tokens": 12, "eos_token_id": None, "jit_compile": False}
    given = {"encoder_hidden_states": states, "encoder_attention_mask": visible}
    found = ours.generate(ids, **new, **given).numpy()
    np.testing.assert_array_equal(found, text.numpy())
    blind = ours.generate(ids, **new, encoder_hidden_states=states * 0).numpy()
    assert np.any(found != blind)


OUTPUTS = ("scores", "logits", "attentions", "hidden_states")


@pytest.mark.long
def test_records_of_a_generation(build):
    """Scores, logits, attention and hidden states have PyTorch's shapes and values."""
    ids, mask = torch_strategies.prompts(LENGTHS, 3)
    asked = {f"output_{name}": True for name in OUTPUTS}
    options = {"max_new_tokens": 5, "repetition_penalty": 1.6, **asked}
    expected = torch_strategies.run(torch_strategies.model(3), ids, mask, **options)
    found = build(seed=3).generate(
        ids, attention_mask=mask, eos_token_id=None, jit_compile=False,
        return_dict_in_generate=True, **options,
    )  # fmt: skip
    np.testing.assert_array_equal(found.sequences, expected.sequences.numpy())
    for name in OUTPUTS:
        theirs, ours = expected[name], found[name]
        assert len(theirs) == len(ours) == 5
        for token, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
            for layer, (torch_value, value) in enumerate(pairs):
                assert tuple(torch_value.shape) == tuple(value.shape), (name, token, layer)
                # The first row has no padding, of which the results mean nothing.
                np.testing.assert_allclose(
                    value[0], torch_value[0].numpy(), atol=2e-4, err_msg=f"{name} {token} {layer}"
                )
        np.testing.assert_allclose(  # and the token before the last one, in padded rows
            np.asarray(found.logits[-1]), expected.logits[-1].numpy(), atol=2e-4
        )


@pytest.mark.long
def test_scores_of_sampling_are_those_drawn_from(build):
    ids, mask = torch_strategies.prompts(LENGTHS, 3)
    options = {"max_new_tokens": 1, "output_scores": True, "do_sample": True, "top_k": 5,
               "temperature": 0.7, "repetition_penalty": 1.6}  # fmt: skip
    expected = torch_strategies.run(torch_strategies.model(3), ids, mask, **options).scores[0]
    found = build(seed=3).generate(
        ids, attention_mask=mask, eos_token_id=None, jit_compile=False,
        return_dict_in_generate=True, **options,
    ).scores[0].numpy()  # fmt: skip
    kept = np.isfinite(expected.numpy())
    np.testing.assert_allclose(found[kept], expected.numpy()[kept], atol=1e-4)
    assert (found[~kept] <= -1e29).all()


@pytest.mark.long
def test_right_padding_gives_what_left_padding_gives(build):
    """PyTorch cannot do the first; the tokens must be those of the second."""
    options = GREEDY["several"] | {"max_new_tokens": 16}
    expected, _ = both(build, options)
    ids, mask = torch_strategies.prompts(LENGTHS, 3)
    right = np.zeros_like(ids), np.zeros_like(mask)
    for row, length in enumerate(LENGTHS):
        right[0][row, :length], right[1][row, :length] = ids[row, -length:], 1
    found = build(seed=3).generate(
        right[0], attention_mask=right[1], pad_token_id=PAD, jit_compile=False, **options
    )
    np.testing.assert_array_equal(found[:, 7:], expected[:, 7:])


TRAINED = {
    "plain": {},
    "ngrams": {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
    "words": {"bad_words_ids": [[11], [13, 12], [3, 4, 5]], "suppress_tokens": [1, 2, 3, 30]},
    "forced": {"forced_eos_token_id": 9, "begin_suppress_tokens": list(range(0, 4000, 3))},
    "guidance": {"guidance_scale": 1.5},
    "beams 2": {"num_beams": 2, "eos_token_id": [10, 12], "early_stopping": "never"},
    "beams 4": {"num_beams": 4, "no_repeat_ngram_size": 3, "length_penalty": 0.7,
                "eos_token_id": [10, 12]},
    "uncached": {"use_cache": False, "repetition_penalty": 1.1},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(request):
    """A trained checkpoint in both frameworks, by name."""
    made = {}

    def load(which):
        if which not in made:
            import transformers

            folder = Path(tfgpt2.__file__).parent / "assets" / which
            if which == "slm4096":
                folder = request.getfixturevalue("shared_data") / "checkpoints" / which
            theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
            made[which] = theirs.eval(), tfgpt2.TFGPT2LMHeadModel.from_pretrained(folder)
        return made[which]

    return load


@pytest.mark.long
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("which", ["shakespeare-tiny", "slm4096"])
def test_trained_models(trained, which, name):
    theirs, ours = trained(which)
    size = ours.config.vocab_size
    ids, mask = torch_strategies.prompts((9, 4, 6), 3, size)
    words = TRAINED[name].get("begin_suppress_tokens")
    chosen = TRAINED[name] | ({"begin_suppress_tokens": [w for w in words if w < size]}
                              if words else {})  # fmt: skip
    options = {"max_new_tokens": 40, "eos_token_id": None, "do_sample": False} | chosen
    options["pad_token_id"] = PAD
    expected = torch_strategies.run(theirs, ids, mask, **options).sequences.numpy()
    found = ours.generate(tf.constant(ids), attention_mask=mask, jit_compile=False, **options)
    np.testing.assert_array_equal(found, expected)
