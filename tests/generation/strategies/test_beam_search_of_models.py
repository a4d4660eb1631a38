"""Beam search of models, through `generate`: PyTorch's texts and scores, results, refusals."""

import json

import numpy as np
import pytest

import tfgpt2
from tests.support import beam_cases
from tests.support.paths import GOLDEN as GOLDEN_FILES
from tfgpt2 import GenerationConfig

GOLDEN = json.loads((GOLDEN_FILES / "beam.json").read_text())["found"]
COMPILED = ("deep",)  # golden cases that run compiled; the others run as graphs
TOLERANCE = 1e-4  # of scores, as asked of the package


def search(build, name, **options):
    case, (ids, mask) = beam_cases.CASES[name], beam_cases.prompts(name)
    options = {"jit_compile": False, "return_dict_in_generate": True, **case.options, **options}
    return build(seed=case.seed, **case.config).generate(ids, attention_mask=mask, **options)


def check(found, expected):
    np.testing.assert_array_equal(found.sequences, expected["sequences"])
    np.testing.assert_allclose(found.sequences_scores, expected["scores"], atol=TOLERANCE)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name == "no_end" else pytest.mark.long)
    for name in beam_cases.CASES
])  # fmt: skip
def test_texts_and_scores_equal_the_golden_file(build, name):
    check(search(build, name, jit_compile=name in COMPILED), GOLDEN[name])


@pytest.mark.parametrize("name", list(beam_cases.CASES)[::6])
def test_pytorch_equals_the_golden_file(name):
    pytest.importorskip("torch")
    from tests.support import torch_beam

    found = torch_beam.run(name)
    assert found["sequences"] == GOLDEN[name]["sequences"]
    np.testing.assert_allclose(found["scores"], GOLDEN[name]["scores"], atol=TOLERANCE)


@pytest.fixture(scope="module")
def trained(shared_data):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = shared_data / "checkpoints" / "slm4096"
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    return tfgpt2.TFGPT2LMHeadModel.from_pretrained(folder), theirs


@pytest.mark.long
@pytest.mark.parametrize(("beams", "power", "early", "compiled"), [
    (2, 1.0, False, False), (4, 0.0, "never", True), (4, 1.0, True, True), (4, 2.0, False, True),
    (2, 0.7, "never", False), (2, -0.5, True, False),
])  # fmt: skip
def test_a_trained_model_equals_pytorch(trained, figure, beams, power, early, compiled):
    from tests.support import torch_beam

    ours, theirs = trained
    random = np.random.RandomState(beams)
    mask = (np.arange(8) >= np.array([[0], [3], [6]])).astype(int)
    ids = np.where(mask > 0, random.randint(0, ours.config.vocab_size, mask.shape), 1)
    # Frequent tokens end texts here, so that early stopping has something to decide.
    likely = ours(ids[:1]).logits[0, -1].numpy().argsort()[::-1]
    options = {"max_new_tokens": 24, "num_beams": beams, "num_return_sequences": 2,
               "length_penalty": power, "early_stopping": early, "pad_token_id": 1,
               "eos_token_id": likely[1:5].tolist()}  # fmt: skip
    expected = torch_beam.search(theirs, ids, mask, options)
    found = ours.generate(ids, attention_mask=mask, return_dict_in_generate=True,
                          jit_compile=compiled, **options)  # fmt: skip
    check(found, expected)
    error = np.abs(found.sequences_scores - np.array(expected["scores"])).max()
    figure("beam search on slm4096: difference of scores from PyTorch", error)


@pytest.mark.long
def test_results_in_full(model):
    prompts, beams = [[1, 2, 3], [4, 5, 6]], {"num_beams": 4, "num_return_sequences": 3}
    options = {"max_new_tokens": [7, 2], "eos_token_id": None, "jit_compile": False} | beams
    out = model.generate(prompts, return_dict_in_generate=True, **options)
    np.testing.assert_array_equal(out.sequences, model.generate(prompts, **options))
    assert out.sequences.shape == (6, 10)
    assert out.num_tokens.numpy().tolist() == [7, 7, 7, 2, 2, 2]
    np.testing.assert_array_equal(out.sequences[:, :3], np.repeat(prompts, 3, axis=0))
    assert out.finish_reason == ["length"] * 6
    sums = out.token_logprobs.numpy().sum(axis=1) / out.num_tokens.numpy()
    np.testing.assert_allclose(out.sequences_scores, sums, atol=1e-5)
    assert (np.diff(out.sequences_scores.numpy().reshape(2, 3)) <= 0).all()
    one = model.generate(prompts, num_beams=4, **{k: options[k] for k in list(options)[:3]})
    np.testing.assert_array_equal(one, out.sequences[::3])
    nothing = model.generate(prompts, return_dict_in_generate=True,
                             **options | {"max_new_tokens": 0})  # fmt: skip
    assert nothing.sequences.shape == (6, 3) and not nothing.sequences_scores.numpy().any()
    empty = model.generate(np.zeros([0, 3], int), return_dict_in_generate=True,
                           **options | {"max_new_tokens": 3})  # fmt: skip
    assert empty.sequences.shape == (0, 3) and empty.sequences_scores.shape == (0,)


@pytest.mark.long
def test_beam_sampling_through_generate(model):
    options = {"max_new_tokens": 8, "eos_token_id": None, "jit_compile": False, "num_beams": 4}
    ids = [[1, 2, 3]] * 3
    draw = lambda **o: model.generate(ids, do_sample=True, **options, **o).numpy()  # noqa: E731
    found = draw(seed=1)
    np.testing.assert_array_equal(found, draw(seed=[1, 2, 3]))
    assert len(np.unique(found, axis=0)) > 1
    np.testing.assert_array_equal(
        draw(seed=1, temperature=0.0), model.generate(ids, **options).numpy()
    )


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"num_beams": 2, "num_return_sequences": 3}, ValueError,
     "`num_return_sequences` must not be larger than `num_beams`.*num_beams=2"),
    ({"num_return_sequences": 2}, ValueError, "needs sampling or beams.*num_return_sequences=2"),
    ({"early_stopping": True}, ValueError, "`early_stopping` acts on beam search only"),
    ({"early_stopping": "never"}, ValueError, "`early_stopping` acts on beam search only"),
    ({"length_penalty": 2.0}, ValueError, "`length_penalty` acts on beam search only"),
    ({"num_beams": 2, "early_stopping": "always"}, ValueError,
     "`early_stopping` must be True, False or 'never'.*early_stopping='always'"),
    ({"num_beams": 2, "early_stopping": 1}, ValueError, "`early_stopping` must be True, False"),
    ({"num_beams": 2, "early_stopping": [True] * 3}, ValueError, "must be one value or 2 values"),
    ({"num_beams": 2, "length_penalty": 99.0}, ValueError, "`length_penalty` must be a number in"),
    ({"num_beams": 2, "length_penalty": "long"}, TypeError, "`length_penalty` must be a number"),
    ({"num_beams": 0}, ValueError, "`num_beams` must be an integer of 1 or more"),
    ({"num_beams": 2.0}, ValueError, "`num_beams` must be an integer of 1 or more"),
    ({"num_beams": 2, "num_return_sequences": 0}, ValueError, "integer of 1 or more"),
    ({"num_beams": 2, "top_logprobs": 2}, ValueError, "Use output_scores=True"),
    ({"num_beams": 2, "max_time": 1.0}, ValueError, "`max_time` can end greedy decoding and samp"),
    ({"num_beams": 2, "prompt_lookup_num_tokens": 3}, ValueError, "Prompt lookup is for greedy"),
    ({"num_beams": 2, "top_p": 0.5}, ValueError, "`top_p` acts on sampling only"),
    ({"num_beams": 4, "num_beam_groups": 2}, ValueError, "and `num_beam_groups` go together"),
    ({"num_beams": 4, "diversity_penalty": 0.5}, ValueError, "and `num_beam_groups` go together"),
    ({"num_beams": 4, "num_beam_groups": 3}, ValueError, "`num_beams` must be a multiple of"),
    ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "do_sample": True},
     ValueError, "Diverse beam search does not sample"),
    ({"num_beams": 4, "streamer": print}, ValueError, "A streamer gets one sequence"),
])  # fmt: skip
def test_options_that_are_refused(model, options, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        model.generate([[1, 2, 3], [4, 5, 6]], **options)


@pytest.mark.long
def test_a_broken_model_is_refused(build):
    broken = build(seed=97)
    broken.transformer.ln_f.bias.assign(np.full(16, np.nan))
    with pytest.raises(ValueError, match=r"scores are not numbers.*Received: logprobs=\[nan"):
        broken.generate([[1]], num_beams=2, jit_compile=False)


def test_files_keep_the_options_of_beams(tmp_path):
    GenerationConfig(num_beams=4, length_penalty=0.7, early_stopping="never").save_pretrained(
        tmp_path
    )
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {
        "num_beams": 4, "length_penalty": 0.7, "early_stopping": "never"}  # fmt: skip
    found = GenerationConfig.from_pretrained(tmp_path)
    assert found.beams == 4 and found.early_stopping == "never"
