"""Every case against the golden file of PyTorch transformers 4.57 and against plain numpy."""

import numpy as np
import pytest

from tests.support import model_cases as cases
from tests.support.numpy_gpt2 import NumpyGPT2
from tests.support.paths import GOLDEN


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "gpt2.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", cases.CASES)
def test_golden(name, golden, load_case, record_difference):
    case, expected = cases.CASES[name], {}
    for key, value in golden.items():
        if key.startswith(f"{name}/"):
            expected.setdefault(key.split("/")[1], []).append(value)
    if case.inputs != ("input_ids",) and "attention_mask" in cases.inputs(case):
        expected.pop("past_key_values", None)  # holds padding; the logits prove the rest
        expected.pop("loss", None)
    assert {"logits", "hidden_states", "attentions"} <= expected.keys()
    cases.assert_same_results(
        cases.run(load_case(case), case), expected, case, record_difference, "golden file"
    )


@pytest.mark.parametrize("name", cases.ACTIVATIONS)
def test_golden_activation(name, golden, load_case, record_difference):
    case = cases.Case({"activation_function": name, "n_layer": 1})
    expected = {"logits": [golden[f"activation_{name}/logits/0"]]}
    cases.assert_same_results(
        cases.run(load_case(case), case),
        expected,
        case,
        record_difference,
        "golden file, activations",
    )
    twin = NumpyGPT2(cases.config_of(case), cases.weights(cases.config_of(case)))
    cases.assert_same_results(
        cases.run(load_case(case), case), {"logits": [twin(**cases.inputs(case))["logits"]]},
        case, record_difference, "numpy twin, activations",
    )  # fmt: skip


@pytest.mark.parametrize("name", cases.CASES)
def test_numpy_twin(name, load_case, record_difference):
    case = cases.CASES[name]
    twin = NumpyGPT2(cases.config_of(case), cases.weights(cases.config_of(case)))
    past = None
    for given in cases.split_calls(case, cases.inputs(case)):
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
    cases.assert_same_results(
        cases.run(load_case(case), case), expected, case, record_difference, "numpy twin"
    )
