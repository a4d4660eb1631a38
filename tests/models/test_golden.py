"""Every case against results of PyTorch transformers 4.57 (committed) and against plain numpy."""

import numpy as np
import pytest

from tests.support import model_cases as cases
from tests.support.numpy_gpt2 import NumpyGPT2
from tests.support.paths import GOLDEN

LIMIT = 1e-4


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "gpt2.npz") as file:
        return dict(file)


def run(model, case):
    """Our results of the case's last call."""
    past = None
    for given in cases.split(case, cases.inputs(case)):
        out = model(
            **given,
            labels=given.get("input_ids"),
            past_key_values=past,
            output_hidden_states=True,
            output_attentions=True,
        )
        past = out.past_key_values
    return out


def compare(outputs, expected, case, worst, what):
    """Compares every expected field at the tokens that are no padding."""
    real = cases.seen(case)
    for field, theirs in expected.items():
        theirs = [np.asarray(part) for part in theirs]
        ours = outputs[field]
        ours = [np.asarray(x) for x in (ours if isinstance(ours, (list, tuple)) else [ours])]
        assert [x.shape for x in ours] == [x.shape for x in theirs], field
        for x, y in zip(ours, theirs, strict=True):
            if field in ("logits", "hidden_states"):
                x, y = x[real], y[real]
            elif field in ("attentions", "cross_attentions"):
                x, y = x.swapaxes(1, 2)[real], y.swapaxes(1, 2)[real]
            difference = np.abs(x - y).max()
            worst(f"{what}: {field}", difference)
            assert difference < LIMIT, (field, difference)


@pytest.mark.parametrize("name", cases.CASES)
def test_golden(name, golden, build, worst):
    case, expected = cases.CASES[name], {}
    for key, value in golden.items():
        if key.startswith(f"{name}/"):
            expected.setdefault(key.split("/")[1], []).append(value)
    if case.inputs != ("input_ids",) and "attention_mask" in cases.inputs(case):
        expected.pop("past_key_values", None)  # holds padding; the logits prove the rest
        expected.pop("loss", None)
    assert {"logits", "hidden_states", "attentions"} <= expected.keys()
    compare(run(build(case), case), expected, case, worst, "golden file")


@pytest.mark.parametrize("name", cases.ACTIVATIONS)
def test_golden_activation(name, golden, build, worst):
    case = cases.Case({"activation_function": name, "n_layer": 1})
    expected = {"logits": [golden[f"activation_{name}/logits/0"]]}
    compare(run(build(case), case), expected, case, worst, "golden file, activations")
    twin = NumpyGPT2(cases.config_of(case), cases.weights(cases.config_of(case)))
    compare(
        run(build(case), case), {"logits": [twin(**cases.inputs(case))["logits"]]},
        case, worst, "numpy twin, activations",
    )  # fmt: skip


@pytest.mark.parametrize("name", cases.CASES)
def test_numpy_twin(name, build, worst):
    case = cases.CASES[name]
    twin = NumpyGPT2(cases.config_of(case), cases.weights(cases.config_of(case)))
    past = None
    for given in cases.split(case, cases.inputs(case)):
        out = twin(**given, past=past)
        past = out.pop("past")
    expected = {name: value if isinstance(value, list) else [value]
                for name, value in out.items() if len(value)}  # fmt: skip
    expected["past_key_values"] = [
        np.stack([twin.split_heads(part) for part in pair]) for pair in past
    ]
    if "attention_mask" in given:
        del expected["past_key_values"]
    if "input_ids" in given and "attention_mask" not in given:
        expected["loss"] = [np.asarray(twin.loss(out["logits"], given["input_ids"]))]
    compare(run(build(case), case), expected, case, worst, "numpy twin")
