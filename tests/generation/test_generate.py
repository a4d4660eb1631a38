"""`model.generate`: PyTorch's tokens, transformers' meaning of the arguments, and refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tests.support import greedy_cases
from tests.support.paths import GOLDEN as GOLDEN_FILES
from tfgpt2 import GenerationConfig

GOLDEN = json.loads((GOLDEN_FILES / "generation.json").read_text())


def greedy(build, case, **options):
    model = build(seed=case.seed, **case.config)
    ids, mask = greedy_cases.prompts(case)
    options = {"pad_token_id": 0, "jit_compile": False, **case.options, **options}
    return model.generate(ids, attention_mask=mask, **options)


SLOW = (
    "deep",
    "padded",
    "wide",
    "reward",
    "end",
    "length",
    "ends",
    "plain",
)  # the others take the same paths


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.long if name in SLOW else ())
    for name in greedy_cases.CASES
])  # fmt: skip
def test_greedy_equals_the_golden_file(build, name):
    found = greedy(build, greedy_cases.CASES[name])
    assert found.numpy().tolist() == GOLDEN["sequences"][name]


@pytest.mark.parametrize("name", ["ends", pytest.param("penalty", marks=pytest.mark.long)])
def test_compiled_greedy_equals_the_golden_file(build, name):
    found = greedy(build, greedy_cases.CASES[name], jit_compile=True)
    assert found.numpy().tolist() == GOLDEN["sequences"][name]


@pytest.mark.parametrize("name", greedy_cases.CASES)
def test_greedy_equals_pytorch(name):
    pytest.importorskip("torch")
    from tests.support import torch_generation

    found = torch_generation.run(greedy_cases.CASES[name])
    assert found == GOLDEN["sequences"][name]


@pytest.mark.long
@pytest.mark.parametrize("which", ["slm4096", "shakespeare-tiny"])
def test_trained_models_equal_pytorch(which, request):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = Path(tfgpt2.__file__).parent / "assets" / which
    if which == "slm4096":
        folder = request.getfixturevalue("shared_data") / "checkpoints" / which
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    ours = tfgpt2.TFGPT2LMHeadModel.from_pretrained(folder)
    size = ours.config.vocab_size
    ids = np.random.RandomState(0).randint(0, size, (3, 8))
    mask = (np.arange(8) >= np.array([[0], [3], [7]])).astype(int)
    options = {"max_new_tokens": 60, "eos_token_id": None, "pad_token_id": 0, "do_sample": False}
    with torch.no_grad():
        expected = theirs.generate(
            torch.tensor(ids * mask), attention_mask=torch.tensor(mask), **options
        )
    found = ours.generate(ids * mask, attention_mask=mask, **options)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.long
def test_padding_side_and_holes_do_not_matter(model):
    """The same tokens on the left, on the right, with holes, and alone give the same."""
    tokens, new = [3, 8, 1, 20], {"max_new_tokens": 8, "eos_token_id": None, "jit_compile": False}
    ids = np.full([4, 7], 9)
    mask = np.array([[1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0, 1],
                     [0, 1, 1, 0, 0, 1, 1]])  # fmt: skip
    ids[mask > 0] = tokens * 4
    found = model.generate(ids, attention_mask=mask, **new).numpy()
    alone = model.generate([tokens], **new).numpy()
    np.testing.assert_array_equal(found[:, 7:], alone[:, 4:].repeat(4, 0))
    np.testing.assert_array_equal(found[:, :7], ids)  # prompts come back as they were
    sampled = new | {"do_sample": True, "seed": [5] * 4}
    found = model.generate(ids, attention_mask=mask, **sampled).numpy()
    assert len(np.unique(found[:, 7:], axis=0)) == 1


def test_results_in_full(model):
    out = model.generate(
        [[1, 2], [3, 4]], max_new_tokens=[5, 2], eos_token_id=None, return_dict_in_generate=True,
        jit_compile=False,
    )  # fmt: skip
    assert out.sequences.shape == (2, 7) and out.num_tokens.numpy().tolist() == [5, 2]
    assert out.finish_reason == ["length", "length"]
    assert out.sequences[1, 4:].numpy().tolist() == [0, 0, 0]
    logits = model(out.sequences[:1]).logits.numpy()[0, 1:-1].astype(float)  # [T, V]
    chosen = logits[np.arange(5), out.sequences[0, 2:]]
    expected = chosen - np.log(np.exp(logits).sum(-1))
    np.testing.assert_allclose(out.token_logprobs[0], expected, atol=1e-4)
    assert out.token_logprobs[1, 2:].numpy().tolist() == [0, 0, 0]


def test_lengths_mean_what_they_mean_in_transformers(model):
    def new(**options):
        out = model.generate([[1, 2, 3]], eos_token_id=None, jit_compile=False, **options)
        return out.shape[1] - 3

    assert new() == 20
    assert new(max_length=10) == 7
    assert new(max_length=10, max_new_tokens=4) == 4
    assert new(max_new_tokens=0) == 0
    assert new(max_new_tokens=1000) == 45  # the context ends there
    assert new(max_length=None) == 20
    ends = {"eos_token_id": list(range(23)), "jit_compile": False}
    assert model.generate([[1, 2, 3]], **ends).shape[1] == 4


@pytest.mark.long
def test_sampling_arguments(model):
    ids, off = [[1, 2, 3]] * 4, {"max_new_tokens": 12, "eos_token_id": None, "jit_compile": False}
    sample = lambda **o: model.generate(ids, **off, **o).numpy()  # noqa: E731
    greedy = sample()
    assert len(np.unique(greedy, axis=0)) == 1
    drawn = sample(do_sample=True, seed=1)
    assert len(np.unique(drawn, axis=0)) == 4  # row i uses seed + i
    np.testing.assert_array_equal(sample(do_sample=True, seed=[1, 2, 3, 4]), drawn)
    np.testing.assert_array_equal(sample(do_sample=True, seed=1, top_k=50), drawn)  # V is 23
    np.testing.assert_array_equal(sample(do_sample=True, seed=1, top_k=1), greedy)
    np.testing.assert_array_equal(sample(do_sample=True, seed=1, temperature=0.0), greedy)
    np.testing.assert_array_equal(sample(do_sample=True, seed=1, top_p=0.0), greedy)
    np.testing.assert_array_equal(sample(do_sample=True, seed=1, min_p=1.0), greedy)
    mixed = sample(do_sample=True, seed=1, temperature=np.array([0.0, 1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(mixed[[0, 2]], greedy[[0, 2]])
    np.testing.assert_array_equal(mixed[[1, 3]], drawn[[1, 3]])
    for seed in (None, -1, [-1] * 4, np.array([-1] * 4)):
        rows = np.concatenate([sample(do_sample=True, seed=seed) for _ in range(2)])
        assert len(np.unique(rows, axis=0)) == 8  # fresh each time, for each row
    some = [sample(do_sample=True, seed=[5, -1, 5, -1]) for _ in range(2)]
    np.testing.assert_array_equal(some[0][[0, 2]], some[1][[0, 2]])
    assert np.any(some[0][1] != some[1][1])
    np.testing.assert_array_equal(  # options that are off say nothing
        sample(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, num_beams=1), greedy
    )


def test_ways_to_pass_the_prompt(model):
    off = {"max_new_tokens": 3, "eos_token_id": None, "jit_compile": False}
    ids = [[1, 2, 3]]
    expected = model.generate(ids, **off).numpy()
    for given in (tf.constant(ids), np.array(ids, np.int64), {"input_ids": ids},
                  {"input_ids": ids, "attention_mask": [[1, 1, 1]]}):  # fmt: skip
        np.testing.assert_array_equal(model.generate(given, **off), expected)
    np.testing.assert_array_equal(model.generate(input_ids=ids, **off), expected)
    np.testing.assert_array_equal(
        model.generate(None, GenerationConfig(max_new_tokens=3), input_ids=ids, jit_compile=False),
        expected,
    )
    start = model.generate(**off)  # from the start token
    np.testing.assert_array_equal(start, model.generate([[0]], **off))
    assert model.generate(np.zeros([0, 3], int), **off).shape == (0, 3)
    empty = model.generate(np.zeros([0, 3], int), return_dict_in_generate=True, seed=[], **off)
    assert empty.sequences.shape == (0, 3) and empty.finish_reason == []


def test_a_pad_token_that_cannot_be_text_is_padding(model):
    off = {"max_new_tokens": 3, "jit_compile": False}
    padded = model.generate([[9, 9, 1, 2]], pad_token_id=9, eos_token_id=None, **off)
    alone = model.generate([[1, 2]], eos_token_id=None, **off)
    np.testing.assert_array_equal(padded[:, 4:], alone[:, 2:])
    as_text = model.generate([[9, 9, 1, 2]], pad_token_id=9, eos_token_id=9, **off).numpy()
    masked = model.generate([[9, 9, 1, 2]], attention_mask=[[1] * 4], pad_token_id=9,
                            eos_token_id=9, **off).numpy()  # fmt: skip
    np.testing.assert_array_equal(as_text, masked)


@pytest.fixture(scope="module")
def letters():
    """A tokenizer whose 23 ids are letters."""
    return tfgpt2.TFGPT2Tokenizer({chr(97 + i): i for i in range(23)}, [])


def test_stop_strings(model, letters):
    off = {"max_new_tokens": 12, "eos_token_id": None, "jit_compile": False}
    ids = [[1, 2, 3], [4, 5, 6]]
    free = model.generate(ids, **off).numpy()[:, 3:]
    texts = ["".join(chr(97 + i) for i in row) for row in free]
    stops = [text[3:6] for text in texts]
    out = model.generate(ids, stop_strings=stops, tokenizer=letters, return_dict_in_generate=True,
                         **off)  # fmt: skip
    for row, text in enumerate(texts):
        end = min(text.find(stop) + 3 for stop in stops if stop in text)
        assert out.num_tokens[row] == end and out.finish_reason[row] == "stop"
    one = model.generate(ids, stop_strings=[[stops[0]], []], tokenizer=letters,
                         return_dict_in_generate=True, **off)  # fmt: skip
    assert one.finish_reason == ["stop", "length"]
    np.testing.assert_array_equal(model.generate(ids, stop_strings=[], **off)[:, 3:], free)


@pytest.mark.long
def test_ids_beyond_the_tokenizer_have_no_text(model):
    few = tfgpt2.TFGPT2Tokenizer({"a": 0, "b": 1}, [])
    out = model.generate([[1, 2]], stop_strings="zz", tokenizer=few, max_new_tokens=5,
                         eos_token_id=None, jit_compile=False)  # fmt: skip
    assert out.shape == (1, 7)


REFUSED = [
    ({"temprature": 0.5}, TypeError, r"no generation option.*temprature=0.5.*mean 'temperature'"),
    ({"temperature": -1.0}, ValueError, r"`temperature` must be a number of 0.*temperature=-1"),
    ({"temperature": "hot"}, TypeError, r"`temperature` must be a number.*temperature='hot'"),
    ({"temperature": float("nan")}, ValueError, r"`temperature` must be"),
    ({"top_p": 1.5}, ValueError, r"`top_p` must be a number in \[0, 1\].*Received: top_p=1.5"),
    ({"top_k": -1}, ValueError, r"`top_k` must be an integer"),
    ({"top_k": 2.5}, TypeError, r"`top_k` must be an integer"),
    ({"repetition_penalty": 0.0}, ValueError, r"`repetition_penalty` must be a number in"),
    ({"max_new_tokens": -1}, ValueError, r"`max_new_tokens` must be an integer of 0"),
    ({"max_new_tokens": True}, TypeError, r"`max_new_tokens` must be an integer of 0"),
    ({"max_new_tokens": [1, 2, 3]}, ValueError, r"`max_new_tokens` must be one value or 2 values"),
    ({"max_new_tokens": [[1], [2]]}, ValueError, r"`max_new_tokens` must be an integer"),
    ({"max_new_tokens": [[1], [2, 3]]}, TypeError, r"`max_new_tokens` must be an integer"),
    ({"seed": -2}, ValueError, r"`seed` must be an integer of 0 or more; -1 is a fresh one"),
    ({"seed": 2**63}, ValueError, r"`seed` must be"),
    ({"seed": 2**70}, TypeError, r"`seed` must be"),
    ({"max_length": 3}, ValueError, r"`max_length` includes the prompt, which has 3.*max_length=3"),
    ({"max_length": "long"}, ValueError, r"`max_length` must be an integer of 0 or more"),
    ({"min_length": -1}, ValueError, r"`min_length` must be an integer of 0 or more"),
    ({"eos_token_id": "end"}, ValueError, r"`eos_token_id` must be an integer"),
    ({"eos_token_id": [1, -1]}, ValueError, r"`eos_token_id` must be an integer"),
    ({"pad_token_id": 0.5}, ValueError, r"`pad_token_id` must be an integer"),
    ({"do_sample": "yes"}, TypeError, r"`do_sample` must be True or False"),
    ({"top_p": 0.9}, ValueError, r"`top_p` acts on sampling only.*top_p=0.9.*do_sample=True"),
    ({"temperature": np.array([0.5, 1.0])}, ValueError, r"`temperature` acts on sampling only"),
    ({"num_beam_groups": 4}, ValueError, r"`num_beams` must be a multiple of.*groups=4"),
    ({"bad_words_ids": [[99]]}, ValueError, r"`bad_words_ids` must hold ids in \[0, 23\)"),
    ({"stop_strings": "a"}, ValueError, r"`stop_strings` are matched on text.*tokenizer=None"),
    ({"input_ids": [[1]]}, ValueError, r"Token ids were given twice"),
    ({"generation_config": {"top_k": 5}}, TypeError, r"must be a tfgpt2.GenerationConfig"),
    ({"attention_mask": [[1, 1]]}, ValueError, r"`attention_mask` have the same shape"),
    ({"attention_mask": [[1, 1, 1], [0, 0, 0]]}, ValueError, r"at least one token.*row=1"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
def test_options_that_are_refused(model, options, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        model.generate([[1, 2, 3], [4, 5, 6]], **options)


@pytest.mark.parametrize(("inputs", "error", "message"), [
    ("text", ValueError, r"`input_ids` must be integers \[B, P\].*Received: input_ids='<U4"),
    ([1, 2], ValueError, r"must be integers \[B, P\].*\[2\]"),
    ([[1.0, 2.0]], ValueError, r"must be integers \[B, P\].*float64"),
    ([[1], [2, 3]], ValueError, r"must be a rectangle"),
    ([[]], ValueError, r"must be integers|at least one token"),
    ([[23]], ValueError, r"must be in \[0, 23\).*Received: input_ids=\[23, 23\]"),
    ([[-1]], ValueError, r"must be in \[0, 23\)"),
    ([[1] * 48], ValueError, r"leaves no room in the model's context of 48.*tokens=48"),
    ([[1] * 99], ValueError, r"leaves no room in the model's context of 48.*tokens=99"),
    ({"ids": [[1]]}, TypeError, r"no input 'ids'.*Known names: attention_mask, input_ids"),
])  # fmt: skip
def test_prompts_that_are_refused(model, inputs, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        model.generate(inputs)


@pytest.mark.long
def test_other_refusals(model, build):
    with pytest.raises(ValueError, match="there is no start token"):
        model.generate(generation_config=GenerationConfig())
    broken = build(seed=98)
    broken.transformer.ln_f.bias.assign(np.full(16, np.nan))
    with pytest.raises(ValueError, match=r"scores are not numbers.*Received: logprobs=\[nan"):
        broken.generate([[1]], jit_compile=False)
