"""Diverse beam search: PyTorch's texts and scores, all settings in one program, traced scores."""

import json

import numpy as np
import pytest

from tests.support import beam_batches, group_beam_cases
from tests.support.paths import GOLDEN as GOLDEN_FILES
from tfgpt2.generation.strategies.diverse_beam_search import DiverseBeamSearch

CASES = group_beam_cases.CASES
GOLDEN = json.loads(
    (GOLDEN_FILES / "group_beam.json").read_text()
)["found"]  # fmt: skip
TOLERANCE = 1e-4  # of scores, as asked of the package
SHAPES = sorted({beam_batches.shape_of(case) for case in CASES.values()})


def rows_of(shape):
    """The cases of a model and numbers of beams and groups, a row of a batch for each prompt."""
    rows = []
    for name, case in CASES.items():
        if beam_batches.shape_of(case) == shape:
            ids, mask = group_beam_cases.prompts(name)
            rows += [(name, i, ids[i][mask[i] > 0].tolist()) for i in range(len(ids))]
    return rows


def search(build, rows, run_as, **shape):
    """Searches prompts of different cases at once, each with the settings of its own."""
    case = CASES[rows[0][0]]
    params = beam_batches.beam_params([CASES[name].options for name, _, _ in rows])
    strategy = DiverseBeamSearch(case.options["num_beams"], case.options["num_beam_groups"])
    model, prompts = build(seed=case.seed, **case.config), [prompt for _, _, prompt in rows]
    return beam_batches.run_search(strategy, model, prompts, params, run_as, **shape)


def check_golden(found, rows):
    for row, (name, i, _) in enumerate(rows):
        options, expected = CASES[name].options, GOLDEN[name]
        best, eos = options["num_return_sequences"], options["eos_token_id"]
        eos = [eos] if isinstance(eos, int) else eos
        here = slice(i * best, (i + 1) * best)
        texts = beam_batches.texts(found, row, best, width=len(expected["sequences"][0]),
                                   pad=options["pad_token_id"], eos=eos)  # fmt: skip
        assert texts == expected["sequences"][here], (name, i)
        np.testing.assert_allclose(
            found.score[row, :best], expected["scores"][here], atol=TOLERANCE, err_msg=name
        )


@pytest.mark.long
@pytest.mark.parametrize("shape", [
    pytest.param(shape, id=f"{shape[2]} beams, {shape[3]} groups, model {shape[1]}")
    for shape in SHAPES
])  # fmt: skip
def test_texts_and_scores_equal_the_golden_file(build, shape):
    """All settings of a shape are rows of one batch, one of the programs compiled."""
    rows, run_as = rows_of(shape), beam_batches.jit if shape[-2:] == (4, 2) else beam_batches.graph
    check_golden(search(build, rows, run_as), rows)


@pytest.mark.long
@pytest.mark.parametrize(
    "run_as", [beam_batches.eager, pytest.param(beam_batches.jit, marks=pytest.mark.long)]
)
def test_every_mode_and_every_batch_gives_the_same(build, run_as):
    """Few rows, in another order and with other columns; the golden test runs them as a graph."""
    shape = next(shape for shape in SHAPES if shape[-2:] == (6, 3))
    rows = rows_of(shape)[::4][::-1]
    check_golden(search(build, rows, run_as, columns=11), rows)


@pytest.mark.long
def test_penalty_keeps_groups_apart(build):
    """Without a penalty all groups find the same; a large one never lets two choose alike."""
    model = build(seed=1)
    options = {"max_new_tokens": 6, "num_beams": 6, "num_beam_groups": 3, "pad_token_id": 22,
               "eos_token_id": None}  # fmt: skip
    params = beam_batches.beam_params([options | {"diversity_penalty": x} for x in (0.0, 1e6)])
    strategy = DiverseBeamSearch(6, 3)
    found = beam_batches.run_search(strategy, model, [[1, 2]] * 2, params, beam_batches.graph)
    same, apart = found.tokens
    assert len(np.unique(same, axis=0)) == 2
    chosen = [set(column) for column in apart[:, :6].T]
    group = found.beam_indices[1] % 6 // 2  # [K, T]
    for step, tokens in enumerate(apart.T[:6]):
        owners = {}
        for token, owner in zip(tokens, group[:, step], strict=True):
            owners.setdefault(int(token), set()).add(int(owner))
        assert all(len(who) == 1 for who in owners.values()), (step, owners)
    assert all(len(tokens) >= 3 for tokens in chosen)


@pytest.mark.long
def test_beam_indices_lead_back_through_the_search(build):
    """The texts that running beams held, rebuilt from the indices alone, agree with each other."""
    name = "six_in_two"
    rows = [row for row in rows_of(beam_batches.shape_of(CASES[name])) if row[0] == name]
    found = search(build, rows, beam_batches.graph)
    beam_batches.check_traces(found)
    assert len(np.unique(found.beam_indices[found.beam_indices >= 0])) > 6
