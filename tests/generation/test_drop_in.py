"""`generate` and its configuration behave as in transformers 4.57 where programs depend on it."""

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2 import GenerationConfig
from tfgpt2.generation import output_classes

OFF = {"max_new_tokens": 4, "eos_token_id": None, "jit_compile": False}
FULL = OFF | {"return_dict_in_generate": True}


@pytest.mark.parametrize("options", [
    {"bad_words_ids": [[1], [2, 3]]},
    {"sequence_bias": [[[1, 2], -1.5], [[3], 2.0]]},
    {"sequence_bias": {(1, 2): -1.5, (3,): 2.0}},
    {"sequence_bias": [[[[1, 2], -1.5]], []]},
    {"choices": [["a"], ["b", "c"]]},
    {"suppress_tokens": np.array([1, 2])},
    {"exponential_decay_length_penalty": (5, 1.1)},
], ids=str)  # fmt: skip
def test_lists_are_saved(options, tmp_path, model):
    GenerationConfig(**options).save_pretrained(tmp_path)
    ((name, value),) = options.items()
    expected = [[list(k), v] for k, v in value.items()] if isinstance(value, dict) else value
    expected = list(expected) if isinstance(value, (tuple, np.ndarray)) else expected
    assert getattr(GenerationConfig.from_pretrained(tmp_path), name) == expected
    before, model.generation_config = model.generation_config, GenerationConfig(**options)
    try:
        model.save_pretrained(tmp_path / "model")
    finally:
        model.generation_config = before
    loaded = tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path / "model")
    assert getattr(loaded.generation_config, name) == expected


def test_options_replace_those_of_the_file(tmp_path):
    GenerationConfig(do_sample=True, top_p=0.5).save_pretrained(tmp_path)
    config = GenerationConfig.from_pretrained(tmp_path, max_new_tokens=3, local_files_only=True)
    assert (config.max_new_tokens, config.top_p) == (3, 0.5)
    with pytest.raises(TypeError, match="max_new_token"):
        GenerationConfig.from_pretrained(tmp_path, max_new_token=3)


@pytest.mark.long
@pytest.mark.parametrize("options, name, first", [
    ({}, "GreedySearch", ("sequences", "scores", "logits", "attentions", "hidden_states")),
    pytest.param({"num_beams": 2}, "BeamSearch", ("sequences", "sequences_scores", "beam_indices"),
                 marks=pytest.mark.long),
])  # fmt: skip
def test_results_come_in_the_order_of_transformers(model, options, name, first):
    if not options:
        reports = ("scores", "logits", "attentions", "hidden_states")
        options = {f"output_{name}": True for name in reports}
    out = model.generate([[1, 2, 3]], **FULL, **options)
    kind = getattr(output_classes, f"TF{name}DecoderOnlyOutput")
    assert type(out) is kind and isinstance(out, output_classes.TFGenerateOutput)
    assert tuple(out)[: len(first)] == first
    assert out[1] is out[first[1]]


def test_each_method_has_its_class():
    for options, name in (({"do_sample": True}, "Sample"), ({"penalty_alpha": 0.6}, "Contrastive"),
                          ({"num_beams": 2, "do_sample": True}, "BeamSample")):  # fmt: skip
        kind = output_classes.output_class(GenerationConfig(**options))
        assert kind.__name__.startswith(f"TF{name}") and kind.fields()[0] == "sequences"


@pytest.mark.long
def test_token_types(model):
    """Types are added to the prompt, and new tokens have that of the last one."""
    ids, types = [[1, 2, 3], [0, 4, 5]], [[6, 6, 7], [0, 6, 8]]
    mask = [[1, 1, 1], [0, 1, 1]]
    named = {"attention_mask": mask, "token_type_ids": types}
    greedy = model.generate(ids, **named, **OFF).numpy()
    assert model.generate(ids, **named, **OFF, num_beams=2).shape == (2, 7)
    later = [[*row, *[row[-1]] * 4] for row in types]
    whole = np.concatenate([mask, np.ones([2, 4])], axis=1).astype(int)
    logits = model(
        greedy, attention_mask=whole, token_type_ids=later,
        position_ids=np.maximum(whole.cumsum(1) - 1, 0),
    ).logits  # fmt: skip
    np.testing.assert_array_equal(greedy[:, 3:], tf.argmax(logits[:, 2:-1], axis=-1))
    uncached = model.generate(ids, **named, **OFF, use_cache=False).numpy()
    np.testing.assert_array_equal(uncached, greedy)
    assert np.any(model.generate(ids, attention_mask=mask, **OFF).numpy() != greedy)
    out = model.generate(ids, **named, **FULL, output_hidden_states=True)
    assert len(out.hidden_states) == 4
    with pytest.raises(ValueError, match="token_type_ids"):
        model.generate(ids, token_type_ids=[[1]], **OFF)


def test_positions_that_follow_from_the_mask(model):
    ids, mask = [[0, 4, 5]], [[0, 1, 1]]
    expected = model.generate(ids, attention_mask=mask, **OFF).numpy()
    found = model.generate(ids, attention_mask=mask, position_ids=[[0, 0, 1]], **OFF).numpy()
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="Leave position_ids out"):
        model.generate(ids, attention_mask=mask, position_ids=[[4, 5, 6]], **OFF)


@pytest.fixture(scope="module")
def shakespeare():
    return tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")


@pytest.mark.long
def test_tokenizers_of_the_host_read_stop_strings_and_constraints(shakespeare):
    """A host tokenizer does what the layer does, also after tokens were added to it."""
    host = tfgpt2.AutoTokenizer.from_pretrained("shakespeare-tiny")
    layer = tfgpt2.TFGPT2Tokenizer.from_tokenizer(host)
    ids = host("ROMEO:\n", return_tensors="tf")["input_ids"]
    for more in ({"stop_strings": ["e"]}, {"choices": ["Ay", "Nay"]}):
        options = {"max_new_tokens": 8, "jit_compile": False, "do_sample": False} | more
        found = shakespeare.generate(ids, tokenizer=host, **options).numpy()
        expected = shakespeare.generate(ids, tokenizer=layer, **options).numpy()
        np.testing.assert_array_equal(found, expected)
    host.add_tokens("zzz")
    again = shakespeare.generate(
        ids,
        tokenizer=host,
        stop_strings=["e"],
        max_new_tokens=8,
        jit_compile=False,
        do_sample=False,
    )
    assert again.shape[0] == 1


def test_modes():
    mode = tfgpt2.GenerationMode
    assert GenerationConfig().get_generation_mode() == mode.GREEDY_SEARCH == "greedy_search"
    assert GenerationConfig().get_generation_mode("model") == mode.ASSISTED_GENERATION
    assert GenerationConfig(penalty_alpha=0.6).get_generation_mode() == mode.CONTRASTIVE_SEARCH
    groups = GenerationConfig(num_beams=2, num_beam_groups=2, diversity_penalty=1.0)
    assert groups.get_generation_mode() == mode.GROUP_BEAM_SEARCH


IDS = tf.constant([[1, 2, 3, 1], [4, 2, 4, 2]])
SCORES = tf.constant(np.random.RandomState(0).randn(2, 8), tf.float32)
# A processor, columns of the text, and the ids that it rules out in the two rows.
PROCESSORS = {
    "TFTopKLogitsWarper": ((2,), None),
    "TFTopPLogitsWarper": ((0.3,), None),
    "TFMinLengthLogitsProcessor": ((5, 7), [{7}, {7}]),
    "TFNoBadWordsLogitsProcessor": (([[5], [1, 6], [2, 0]], 7), [{5, 6}, {5, 0}]),
    "TFNoRepeatNGramLogitsProcessor": ((2,), [{2}, {4}]),
    "TFSuppressTokensLogitsProcessor": (([3, 99],), [{3}, {3}]),
    "TFSuppressTokensAtBeginLogitsProcessor": (([3], 4), [{3}, {3}]),
    "TFForcedEOSTokenLogitsProcessor": ((5, 2), [{0, 1, 3, 4, 5, 6, 7}] * 2),
    "TFForceTokensLogitsProcessor": (([[4, 2]],), [{0, 1, 3, 4, 5, 6, 7}] * 2),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors_are_called_on_scores(name):
    arguments, ruled_out = PROCESSORS[name]
    processor = getattr(tfgpt2, name)(*arguments)
    padded = tf.pad(IDS, [[0, 0], [0, 3]], constant_values=6)
    found = processor(padded, SCORES, 4).numpy()
    np.testing.assert_array_equal(found, processor(IDS, SCORES, 4))
    if ruled_out is None:
        best = SCORES.numpy().argmax(-1)
        assert (np.isinf(found).sum(-1) >= 5).all() and np.isfinite(found[[0, 1], best]).all()
    else:
        assert [set(np.flatnonzero(np.isinf(row))) for row in found] == ruled_out
    early = processor(IDS[:, :1], SCORES, 1).numpy()
    if name.startswith(("TFForce", "TFSuppressTokensAt")):
        np.testing.assert_array_equal(early, SCORES)


def test_penalties_and_lists_of_processors():
    twice = tfgpt2.TFLogitsProcessorList(
        [tfgpt2.TFTemperatureLogitsWarper(2.0), tfgpt2.TFTemperatureLogitsWarper(0.25)]
    )
    np.testing.assert_allclose(twice(IDS, SCORES, 4), SCORES * 2, rtol=1e-6)
    found = tfgpt2.TFRepetitionPenaltyLogitsProcessor(2.0)(IDS, SCORES, 4).numpy()
    assert (found[0, [1, 2, 3]] < SCORES.numpy()[0, [1, 2, 3]]).all() and found[0, 0] == SCORES[
        0, 0
    ]
    biased = tfgpt2.SequenceBiasLogitsProcessor([[[1, 5], 3.0]])
    assert biased.sequence_bias == {(1, 5): 3.0}
    assert (
        biased(IDS, SCORES)[0, 5] == SCORES[0, 5] + 3 and biased(IDS, SCORES)[1, 5] == SCORES[1, 5]
    )
    with pytest.raises(ValueError, match="above 0"):
        tfgpt2.TFTopKLogitsWarper(0)


class Only(tfgpt2.TFLogitsProcessor):
    """Allows the id that is the length of the text; records what it was given."""

    def __call__(self, input_ids, scores, cur_len):
        return tf.where(tf.range(scores.shape[-1])[None] == cur_len, scores, -1e9)


@pytest.mark.long
def test_processors_of_transformers_act_in_generate(model):
    ids, mask = [[1, 2, 3], [0, 4, 5]], [[1, 1, 1], [0, 1, 1]]
    found = model.generate(ids, attention_mask=mask, logits_processor=[Only()], **OFF)
    assert found[:, 3:].numpy().tolist() == [[3, 4, 5, 6]] * 2
    options = OFF | {"max_new_tokens": 6, "attention_mask": mask}
    processors = tfgpt2.TFLogitsProcessorList(
        [tfgpt2.TFNoRepeatNGramLogitsProcessor(1), tfgpt2.TFSuppressTokensLogitsProcessor([7])]
    )
    found = model.generate(ids, logits_processor=processors, **options).numpy()
    expected = model.generate(ids, no_repeat_ngram_size=1, suppress_tokens=[7], **options).numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.long
def test_stop_strings_may_begin_in_the_prompt(shakespeare):
    """As in transformers: the text so far counts, where new text completes the string."""
    host = tfgpt2.AutoTokenizer.from_pretrained("shakespeare-tiny")
    options = {"max_new_tokens": 8, "do_sample": False, "jit_compile": False, "tokenizer": host}
    ids = host("ROMEO:\nO, I", return_tensors="tf")["input_ids"]
    free = shakespeare.generate(ids, **options).numpy()[0]
    first = host.decode(free[ids.shape[1] : ids.shape[1] + 1])
    for stop, new in (("I" + first[:1], 1), ("O, I" + first, 1), ("ROMEO", 8), (first, 1)):
        for more in ({}, {"num_beams": 2, "max_new_tokens": 3}):
            found = shakespeare.generate(ids, stop_strings=stop, **options | more)
            if not more or new == 8:
                assert found.shape[1] - ids.shape[1] == (3 if more else new), (stop, more)


def test_none_resolves_as_in_transformers(model):
    """None switches a filter off, takes an option of the configuration back, and is no greedy."""
    ids, draw = [[1, 2, 3]] * 3, OFF | {"max_new_tokens": 8, "do_sample": True, "seed": 3}
    expected = model.generate(ids, **draw, temperature=1.0, top_k=0).numpy()
    assert len(np.unique(expected, axis=0)) == 3
    found = model.generate(ids, **draw, temperature=None, top_k=None).numpy()
    np.testing.assert_array_equal(found, expected)
    config = GenerationConfig(do_sample=True, seed=4, top_k=1, max_new_tokens=2, max_length=99)
    found = model.generate(ids, config, **draw, top_k=None).numpy()
    np.testing.assert_array_equal(found, expected)  # an argument wins over the configuration
    for name in ("repetition_penalty", "top_p", "min_p", "typical_p", "num_beams", "max_length",
                 "num_return_sequences", "length_penalty", "no_repeat_ngram_size"):  # fmt: skip
        same = model.generate(ids, **draw, top_k=0, **{name: None}).numpy()
        np.testing.assert_array_equal(same, expected)
    pair = model.generate(ids, **draw | {"seed": [42, 7]}).numpy()  # one seed, as in transformers
    np.testing.assert_array_equal(model.generate(ids, **draw | {"seed": [42, 7]}), pair)


GRAPHS = {
    "greedy": {},
    "sampling": {"do_sample": True, "seed": [7, 0], "top_k": 5},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "penalties": {"no_repeat_ngram_size": 2, "bad_words_ids": [[3], [4, 5]]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "max_length": {"max_new_tokens": None, "max_length": 9},
}


QUICK = ("greedy",)
RUNS = [
    pytest.param(name, jit, marks=pytest.mark.long if jit or name not in QUICK else ())
    for name in GRAPHS
    for jit in (False, True)
]


@pytest.mark.long
@pytest.mark.parametrize("name, jit", RUNS)
def test_generate_in_a_function(model, name, jit):
    """The pattern of transformers' XLA guide; rows are padded to the most new tokens."""
    ids, mask = tf.constant([[1, 2, 3], [0, 4, 5]]), tf.constant([[1, 1, 1], [0, 1, 1]])
    options = {"max_new_tokens": 6, "eos_token_id": 2, "pad_token_id": 0} | GRAPHS[name]
    xla_generate = tf.function(model.generate, jit_compile=jit)
    found = xla_generate(input_ids=ids, attention_mask=mask, **options).numpy()
    expected = model.generate(ids, attention_mask=mask, jit_compile=jit, **options).numpy()
    assert found.shape[1] == 9
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    assert (found[:, expected.shape[1] :] == 0).all()


SIGNATURE = [tf.TensorSpec([None, 4], tf.int32, n) for n in ("input_ids", "attention_mask")]


@pytest.mark.long
def test_a_module_with_a_signature(model, tmp_path):
    """`generate` in an exported `tf.Module` with open shapes, as in transformers' guide."""

    class Served(tf.Module):
        @tf.function(input_signature=SIGNATURE)
        def serving(self, input_ids, attention_mask):
            out = model.generate(
                input_ids=input_ids, attention_mask=attention_mask, max_new_tokens=3,
                eos_token_id=None, return_dict_in_generate=True, jit_compile=False,
            )  # fmt: skip
            return {"sequences": out["sequences"], "logprobs": out.token_logprobs}

    served = Served()
    served.model = model
    ids = tf.constant([[1, 2, 3, 4], [0, 0, 4, 5]])
    mask = tf.cast(ids > 0, tf.int32)
    expected = model.generate(ids, attention_mask=mask, **OFF | {"max_new_tokens": 3}).numpy()
    np.testing.assert_array_equal(served.serving(ids, mask)["sequences"], expected)
    tf.saved_model.save(served, str(tmp_path), signatures={"serving_default": served.serving})
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    out = loaded(input_ids=ids, attention_mask=mask)
    np.testing.assert_array_equal(out["sequences"], expected)


def test_what_a_graph_cannot_do(model):
    run = tf.function(model.generate)
    for options in ({"max_time": 1.0}, {"prefix": "x"}, {"inputs_embeds": tf.zeros([1, 2, 24])}):
        with pytest.raises(TypeError, match=f"cannot use `{next(iter(options))}` inside"):
            run(tf.constant([[1, 2]]), **options)
