"""Filters and the other warpers against PyTorch transformers' classes of the same name."""

import itertools
import types

import numpy as np
import pytest

from tests.support.logits_processors import (
    LOGITS,
    ROWS,
    SETTINGS,
    SIZE,
    WARPERS,
    assert_same,
    kept,
    tensor,
    theirs,
    warp,
)
from tfgpt2.generation.logits.epsilon_cutoff import keep_epsilon
from tfgpt2.generation.logits.eta_cutoff import keep_eta
from tfgpt2.generation.logits.min_p import keep_min_p
from tfgpt2.generation.logits.top_k import keep_top_k
from tfgpt2.generation.logits.top_p import keep_top_p
from tfgpt2.generation.logits.typical_p import keep_typical
from tfgpt2.nn.attention import MASK_VALUE

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from transformers.generation import logits_process as hf  # noqa: E402

FILTERS = {
    "top_k": (keep_top_k, hf.TopKLogitsWarper, [0, 1, 3, 10, 52, 1000]),
    "top_p": (keep_top_p, hf.TopPLogitsWarper, [1.0, 0.0, 0.2, 0.6, 0.9, 0.99]),
    "min_p": (keep_min_p, hf.MinPLogitsWarper, [0.0, 1.0, 0.3, 0.1, 0.02, 1e-4]),
    "typical_p": (keep_typical, hf.TypicalLogitsWarper, [1.0, 0.02, 0.2, 0.5, 0.9, 0.99]),
    "epsilon_cutoff": (keep_epsilon, hf.EpsilonLogitsWarper,
                       [0.0, 0.9, 0.1, 0.03, 3e-3, 3e-4]),
    "eta_cutoff": (keep_eta, hf.EtaLogitsWarper, [0.0, 0.9, 0.3, 0.03, 3e-3, 3e-4]),
}  # fmt: skip
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0,
       "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}  # fmt: skip


@pytest.mark.parametrize("which", FILTERS)
def test_filters(run, which):
    """Flat and steep distributions, every setting, one or three tokens that always stay."""
    keep, warper, settings = FILTERS[which]
    cases = [*itertools.product(range(ROWS), (0.3, 1.0), (1, 3), settings)]
    logits = np.stack([LOGITS[row] * np.float32(scale) for row, scale, _, _ in cases])
    setting, least = np.array([case[3] for case in cases]), np.array([case[2] for case in cases])

    def make(row):
        off = setting[row] == OFF[which]
        return None if off else warper(setting[row].item(), min_tokens_to_keep=int(least[row]))

    expected = theirs(make, logits)
    assert 0 < np.isneginf(expected).mean() < 1
    kept(run(keep, logits, setting, least), expected)
    one = least == 1  # the default, which needs no search
    kept(run(keep, logits[one], setting[one]), expected[one])


@pytest.mark.parametrize("which", FILTERS)
def test_filters_of_tokens_that_were_ruled_out(run, random, which):
    keep, warper, settings = FILTERS[which]
    logits = np.repeat(np.where(random.rand(ROWS, SIZE) < 0.5, MASK_VALUE, LOGITS), 5, axis=0)
    logits = logits.astype(np.float32)
    per_row = np.tile(settings[1:], ROWS)
    gone = logits < -1e29
    expected = theirs(lambda row: warper(per_row[row].item()), np.where(gone, -np.inf, logits))
    found = run(keep, logits, per_row)
    np.testing.assert_array_equal(found & ~gone, ~np.isneginf(expected))


def test_most_typical_token_may_not_be_the_likeliest():
    logits = np.log([[0.5, 0.3, 0.1, 0.1]]).astype(np.float32)
    assert keep_typical(tensor(logits), tensor([0.1])).numpy().tolist() == [
        [False, True, False, False]
    ]


def warpers_of_generate(least):
    """The warpers in the order in which transformers' own `generate` makes them."""
    from transformers import GenerationConfig
    from transformers.generation import GenerationMixin

    config = GenerationConfig(
        do_sample=True, num_beams=least, **dict(zip(WARPERS, SETTINGS, strict=True))
    )
    config._eos_token_tensor = torch.tensor([0])
    model = GenerationMixin()
    model.config = types.SimpleNamespace(is_encoder_decoder=False)
    return model._get_logits_processor(config, input_ids_seq_length=1)


def test_warp_goes_through_the_filters_in_their_order(run):
    logits = (np.random.RandomState(1).standard_normal((48, SIZE)) * 2).astype(np.float32)
    per_row = [np.full(48, setting) for setting in SETTINGS]
    least = np.repeat([1, 2], 24)  # one beam, or several and one end token
    warpers = [warpers_of_generate(number) for number in (1, 2)]
    assert [len(one) for one in warpers] == [len(WARPERS)] * 2
    expected = theirs(lambda row: warpers[row // 24], logits)
    assert_same(run(warp, logits, per_row, least), expected)
    # The order matters: these logits can tell each pair of neighbours but the last.
    for first in range(1, len(SETTINGS) - 2):
        order = [*range(len(SETTINGS))]
        order[first : first + 2] = first + 1, first
        swapped = hf.LogitsProcessorList(warpers[0][number] for number in order)
        other = theirs(lambda row, swapped=swapped: swapped, logits[:24])
        assert (np.isneginf(other) != np.isneginf(expected[:24])).any()


def test_warp_with_other_settings_in_each_row(run):
    rows = [{**OFF, "temperature": 1.0}, {**OFF, "temperature": 0.0, "top_k": 3}]
    rows += [{**OFF, "temperature": 0.8, name: FILTERS[name][2][3]} for name in FILTERS]
    logits = np.resize(LOGITS, (len(rows), SIZE))
    fields = [np.array([row[name] for row in rows]) for name in WARPERS]
    found = run(warp, logits, fields)

    def alone(row):
        if row < 2:
            return None
        name = list(FILTERS)[row - 2]
        warpers = [hf.TemperatureLogitsWarper(0.8), FILTERS[name][1](rows[row][name])]
        return hf.LogitsProcessorList(warpers)

    assert_same(found, theirs(alone, logits))
    np.testing.assert_array_equal(found[:2].view(np.int32), logits[:2].view(np.int32))
