"""What beam search returns beside tokens: beam indices and stop strings as in PyTorch."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import beam_batches, beam_cases
from tfgpt2.generation import stopping
from tfgpt2.generation.params import DecodeSpec
from tfgpt2.generation.strategies.beam_search import BeamSearch
from tfgpt2.generation.strategies.diverse_beam_search import DiverseBeamSearch

LETTERS = [bytes([97 + token]) for token in range(23)]
NAMES = ["two_ends", pytest.param("penalty", marks=pytest.mark.long)]


def ours(build, name, *, stop=None, run_as=beam_batches.graph, groups=1, **functions):
    """A case's texts: `Beams` of numpy arrays."""
    case, (ids, mask) = beam_cases.CASES[name], beam_cases.prompts(name)
    params, token_bytes = beam_batches.beam_params([case.options] * len(ids)), None
    if stop is not None:
        stops = stopping.encode_stop_strings(tf.constant([[stop]] * len(ids)))
        params = params._replace(stop_strings=stops)
        token_bytes = stopping.token_bytes(LETTERS)
    prompts = [one[seen > 0].tolist() for one, seen in zip(ids, mask, strict=True)]
    beams = case.options["num_beams"]
    strategy = BeamSearch(beams) if groups == 1 else DiverseBeamSearch(beams, groups)
    return beam_batches.run_search(
        strategy, build(seed=case.seed, **case.config), prompts, params, run_as,
        spec=DecodeSpec(strategy, **functions), token_bytes=token_bytes,
    )  # fmt: skip


def theirs(name, *, stop=None):
    """The same by PyTorch: its output, and the scores of each step traced along the beams."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.support import torch_generation

    case, (ids, mask) = beam_cases.CASES[name], beam_cases.prompts(name)
    options = {name: value for name, value in case.options.items() if value is not None}
    options = {"eos_token_id": None, **options, "num_return_sequences": options["num_beams"]}
    if stop is not None:
        tail = torch.tensor([letter - 97 for letter in stop])

        def ends(sequences, scores, **_):
            new = sequences[:, ids.shape[1] :][:, -len(tail) :]
            if new.shape[1] < len(tail):
                return torch.zeros(len(new), dtype=torch.bool)
            return (new == tail).all(dim=1)

        options["stopping_criteria"] = [ends]
    model = torch_generation.model(case)
    with torch.no_grad():
        out = model.generate(
            torch.tensor(ids), attention_mask=torch.tensor(mask), do_sample=False,
            return_dict_in_generate=True, output_scores=True, **options,
        )  # fmt: skip
    traced = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    return out, traced.numpy(), ids.shape[1]


def check_same(found, expected):
    out, traced, start = expected
    rows, beams, size = found.tokens.shape
    width = out.beam_indices.shape[1]
    flat = tf.nest.map_structure(lambda x: x.reshape(rows * beams, *x.shape[2:]), found)
    np.testing.assert_array_equal(flat.beam_indices[:, :width], out.beam_indices)
    inside = np.arange(size) < flat.count[:, None]
    new = np.where(inside, flat.tokens, beam_cases.PAD)[:, :width]
    given = np.where(inside[:, :width], out.sequences[:, start:], beam_cases.PAD)
    np.testing.assert_array_equal(new, given)
    np.testing.assert_allclose(flat.score, out.sequences_scores, atol=1e-4)
    return flat, np.where(inside[:, :width], traced, 0.0)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_beam_indices_equal_pytorch(build, name):
    found = ours(build, name)
    beam_batches.check_traces(found)
    flat, traced = check_same(found, theirs(name))
    if name != "penalty":  # there the scores of a step are not the model's own
        np.testing.assert_allclose(flat.logprobs[:, : traced.shape[1]], traced, atol=1e-4)


@pytest.mark.parametrize(("name", "run_as"), [
    ("two_ends", beam_batches.graph),
    pytest.param("two_ends", beam_batches.jit, marks=pytest.mark.long),
])  # fmt: skip
@pytest.mark.long
def test_a_stop_string_ends_a_text_as_in_pytorch(build, name, run_as):
    free = ours(build, name)
    text = bytes(97 + token for token in free.tokens[0, 0, : free.count[0, 0]])
    stop = text[2:4]
    found = ours(build, name, stop=stop, run_as=run_as)
    check_same(found, theirs(name, stop=stop))
    stopped = 0
    for place in np.ndindex(found.count.shape):
        text = bytes(97 + token for token in found.tokens[place][: found.count[place]])
        assert found.cut[place] == text.find(stop)
        assert (found.reason[place] == stopping.STOP) == (stop in text)
        stopped += stop in text
    assert stopped > 2


@pytest.mark.long
@pytest.mark.parametrize("groups", [1, 2])
def test_a_users_processor_sees_every_beam(build, groups):
    """Tokens must rise, and wrap around at 20: each beam is judged by its own last token."""

    def climb(ids, mask, scores):
        place = tf.reduce_max(tf.where(mask > 0, tf.range(tf.shape(ids)[1]), 0), axis=1)
        last = tf.gather(ids, place, batch_dims=1)[:, None] % 20
        return tf.where(tf.range(23)[None] > last, scores, -1e30)

    found = ours(build, "no_end", logits_processors=(climb,), groups=groups)
    ids, _ = beam_cases.prompts("no_end")
    assert found.count.min() == 14
    for text in found.tokens[0].tolist():
        whole = [int(ids[0, -1]), *text]
        assert all(new > old % 20 for old, new in zip(whole, whole[1:], strict=False))
    assert len(np.unique(found.tokens[0], axis=0)) > 1
