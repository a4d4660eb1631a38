"""A mask for every pair of tokens: packed texts and prefixes, against PyTorch transformers."""

import numpy as np
import pytest

import tfgpt2
from tests.support import model_cases as cases

IDS = np.random.RandomState(0).randint(0, 23, (2, 7))
POSITIONS = np.array([[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0, 1]])
PARTS = np.cumsum(POSITIONS == 0, axis=1)
CAUSAL = np.tril(np.ones((7, 7), bool))
PACKED = ((PARTS[:, :, None] == PARTS[:, None, :]) & CAUSAL)[:, None]  # [B, 1, T, T]
PREFIX = (CAUSAL | (np.arange(7) < 3))[None, None].repeat(2, 0)  # the first three see each other


@pytest.mark.parametrize("mask", [PACKED, PREFIX], ids=["packed", "prefix"])
def test_against_pytorch(load_case, record_difference, mask):
    torch = pytest.importorskip("torch")
    from tests.support import torch_gpt2

    case = cases.Case()
    theirs = torch_gpt2.model(case)
    added = torch.where(torch.tensor(mask), 0.0, torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = theirs(
            torch.tensor(IDS), attention_mask=added, position_ids=torch.tensor(POSITIONS)
        ).logits
    for kind in (bool, "int32"):
        found = load_case(case)(
            IDS, attention_mask=mask.astype(kind), position_ids=POSITIONS
        ).logits
        record_difference(
            "logits, mask for every pair of tokens", np.abs(found - expected.numpy()).max()
        )
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_with_a_past(load_case):
    model = load_case(cases.Case())
    whole = model(IDS, attention_mask=PACKED, position_ids=POSITIONS).logits
    past = model(
        IDS[:, :4], attention_mask=PACKED[:, :, :4, :4], position_ids=POSITIONS[:, :4]
    ).past_key_values
    found = model(
        IDS[:, 4:], past_key_values=past, attention_mask=PACKED[:, :, 4:],
        position_ids=POSITIONS[:, 4:],
    ).logits  # fmt: skip
    np.testing.assert_allclose(found, whole[:, 4:], atol=1e-5)


@pytest.mark.parametrize(
    "mask", [PACKED[:1], PACKED[..., :6], PACKED.repeat(2, 1), PACKED[:, :, :6]]
)
def test_wrong_shapes(load_case, mask):
    with pytest.raises(ValueError, match=r"must have shape \[2, 1, 7, 7\].* Received"):
        load_case(cases.Case())(IDS, attention_mask=mask)


def test_an_additive_mask_raises(load_case):
    with pytest.raises(ValueError, match="(?s)must hold 1 for tokens.*Convert an additive mask"):
        load_case(cases.Case())(IDS, attention_mask=np.where(PACKED, 0.0, -1e9))


def test_sequence_classification_needs_a_mask_of_rows():
    config = tfgpt2.GPT2Config(**cases.BASE)
    with pytest.raises(ValueError, match="does not show where texts end"):
        tfgpt2.TFGPT2ForSequenceClassification(config)(IDS, attention_mask=PACKED)
