"""The scores of all tokens that searches report, against PyTorch and their own results."""

import numpy as np
import pytest

from tests.support import beam_cases, greedy_cases
from tests.support.greedy_cases import prompts

OPTIONS = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True,
           "jit_compile": False}  # fmt: skip


def search(build, name, **options):
    case, (ids, mask) = beam_cases.CASES[name], beam_cases.prompts(name)
    model = build(seed=case.seed, **case.config)
    return model, model.generate(ids, attention_mask=mask, **OPTIONS, **case.options, **options)


@pytest.mark.parametrize("name", [
    "penalty", *[pytest.param(name, marks=pytest.mark.long) for name in ("two_ends", "least")],
])  # fmt: skip
def test_beam_search_reports_what_pytorch_reports(build, name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.support import torch_generation

    case, (ids, mask) = beam_cases.CASES[name], beam_cases.prompts(name)
    with torch.no_grad():
        theirs = torch_generation.model(case).generate(
            torch.tensor(ids), attention_mask=torch.tensor(mask), do_sample=False,
            return_dict_in_generate=True, output_scores=True, output_logits=True,
            **{"eos_token_id": None} | case.options,
        )  # fmt: skip
    model, found = search(build, name)
    steps, beams = len(found.scores), len(ids) * case.options["num_beams"]
    assert steps == len(found.logits) == found.sequences.shape[1] - ids.shape[1]
    # Until a row ends; afterwards its beams have no meaning.
    until = int(min(found.num_tokens))
    assert until > 3
    for field in ("scores", "logits"):
        for step in range(until):
            value, expected = found[field][step].numpy(), theirs[field][step].numpy()
            assert value.shape == expected.shape == (beams, 23)
            kept = np.isfinite(expected)
            # All beams begin as copies of the first one, which alone is followed.
            np.testing.assert_allclose(value[kept], expected[kept], atol=1e-4, err_msg=field)
            assert (value[~kept] <= -1e29).all()
    traced = model.compute_transition_scores(found.sequences, found.scores, found.beam_indices)
    sums = traced.numpy().sum(axis=1) / found.num_tokens.numpy()
    np.testing.assert_allclose(sums, found.sequences_scores, atol=1e-4)


@pytest.mark.parametrize("options", [
    pytest.param({"num_beam_groups": 2, "diversity_penalty": 0.7}, id="groups"),
    pytest.param({"do_sample": True, "seed": 3, "temperature": 0.8}, id="sampling",
                 marks=pytest.mark.long),
    pytest.param({"jit_compile": True}, id="jit", marks=pytest.mark.long),
])  # fmt: skip
def test_the_scores_of_chosen_tokens_add_up(build, options):
    """The recipe of transformers' page, for every kind of beam search."""
    case, (ids, mask) = beam_cases.CASES["one_end"], beam_cases.prompts("one_end")
    model = build(seed=case.seed, **case.config)
    settings = OPTIONS | case.options | options | {"num_return_sequences": 4}
    found = model.generate(ids, attention_mask=mask, **settings)
    traced = model.compute_transition_scores(found.sequences, found.scores, found.beam_indices)
    sums = traced.numpy().sum(axis=1) / found.num_tokens.numpy()
    np.testing.assert_allclose(sums, found.sequences_scores, atol=1e-4)
    own = model.compute_transition_scores(
        found.sequences, found.logits, found.beam_indices, normalize_logits=True
    )
    np.testing.assert_allclose(own, found.token_logprobs, atol=1e-4)


def test_contrastive_search_reports_the_models_scores(build):
    ids, mask = prompts(greedy_cases.GreedyCase({}, (6, 6), {}, 1))
    options = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 6, "repetition_penalty": 1.3}
    model = build(seed=1)
    found = model.generate(ids, attention_mask=mask, **OPTIONS, **options)
    lengths = found.num_tokens.numpy()
    assert len(found.scores) == len(found.logits) == max(lengths)
    whole = found.sequences.numpy()
    plain = model(whole).logits.numpy()[:, ids.shape[1] - 1 : -1]
    changed = False
    for step in range(max(lengths)):
        running = lengths > step
        np.testing.assert_allclose(found.logits[step][running], plain[running, step], atol=1e-4)
        for row in np.flatnonzero(running):
            old = set(whole[row, : ids.shape[1] + step])
            expected = np.array([
                x * (1.3 if x < 0 else 1 / 1.3) if token in old else x
                for token, x in enumerate(plain[row, step])
            ])  # fmt: skip
            np.testing.assert_allclose(found.scores[step][row], expected, atol=1e-4)
            changed |= bool(np.abs(expected - plain[row, step]).max() > 0.01)
    assert changed
