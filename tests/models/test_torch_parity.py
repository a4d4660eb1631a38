"""The models against PyTorch transformers; skipped where torch is not installed."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.support import model_cases as cases
from tfgpt2 import TFGPT2LMHeadModel, TFGPT2Model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.support import torch_gpt2  # noqa: E402


@pytest.mark.parametrize("name", cases.CASES)
def test_random_checkpoints(name, load_case, record_difference):
    case = cases.CASES[name]
    old = {"head_mask", "encoder_attention_mask_3d"} & set(case.inputs)
    if old and not torch_gpt2.IS_4:
        pytest.skip(f"transformers 5 has no {old.pop()}; the golden file is from 4.57")
    expected = torch_gpt2.run(torch_gpt2.model(case), case)
    if "attention_mask" in cases.inputs(case):
        expected.pop("past_key_values")  # holds padding
        expected.pop("loss", None)
    expected = {name: value if isinstance(value, list) else [value]
                for name, value in expected.items()}  # fmt: skip
    cases.assert_same_results(
        cases.run(load_case(case), case),
        expected,
        case,
        record_difference,
        "PyTorch, random checkpoints",
    )


@pytest.mark.parametrize("name, width", [("slm4096", 128), ("gpt_nano_sort", 11)])
def test_trained_checkpoints(name, width, shared_data, record_difference):
    folder = shared_data / "checkpoints" / name
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager")
    model = TFGPT2LMHeadModel.from_pretrained(folder)
    ids = np.random.RandomState(0).randint(0, model.config.vocab_size, (4, width))
    out = model(ids, labels=ids, output_hidden_states=True, output_attentions=True)
    with torch.no_grad():
        there = theirs.eval()(
            torch.tensor(ids),
            labels=torch.tensor(ids),
            output_hidden_states=True,
            output_attentions=True,
        )
    expected = {"logits": [there.logits], "loss": [there.loss]}
    expected |= {"hidden_states": there.hidden_states, "attentions": there.attentions}
    expected["past_key_values"] = [
        torch.stack(pair) for pair in torch_gpt2.layers(there.past_key_values)
    ]
    for field, values in expected.items():
        ours = [out[field]] if field in ("logits", "loss") else out[field]
        for x, y in zip(ours, values, strict=True):
            difference = np.abs(np.asarray(x) - y.numpy()).max()
            record_difference(f"PyTorch, {name}: {field}", difference)
            assert difference < 1e-4, field


def test_real_text(shared_data, record_difference):
    """slm4096 on its training text, where its loss is small."""
    folder = shared_data / "checkpoints" / "slm4096"
    vocabulary = json.loads((folder / "vocab.json").read_text())
    model = TFGPT2LMHeadModel.from_pretrained(folder)
    text = (folder / "corpus.txt").read_text()[: 128 * 8]
    ids = np.array([vocabulary[c.replace(" ", "Ġ").replace("\n", "Ċ")] for c in text])
    loss = float(model(ids.reshape(8, 128), labels=ids.reshape(8, 128)).loss)
    assert loss < 0.2
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    there = torch.tensor(ids.reshape(8, 128))
    with torch.no_grad():
        difference = abs(float(theirs(there, labels=there).loss) - loss)
    record_difference("PyTorch, slm4096 on its text: loss", difference)
    assert difference < 1e-5


def test_gradients(load_case, record_difference):
    case = cases.CASES["three_layers"]
    ids = cases.inputs(case)["input_ids"]
    labels = ids.copy()
    labels[0, 3] = -100
    model = load_case(case)
    with tf.GradientTape() as tape:
        loss = model(ids, labels=labels, training=True).loss
    ours = {
        weight.path.partition("/transformer/")[2].replace("/", "."): tf.convert_to_tensor(
            gradient
        ).numpy()
        for weight, gradient in zip(
            model.trainable_weights, tape.gradient(loss, model.trainable_variables), strict=True
        )
    }
    theirs = torch_gpt2.model(case)
    theirs(torch.tensor(ids), labels=torch.tensor(labels)).loss.backward()
    compared = 0
    for key, parameter in theirs.named_parameters():
        name = key.removeprefix("transformer.").replace("h.", "h_", 1) if ".h." in key else key
        name = name.removeprefix("transformer.")
        x, y = ours[name], parameter.grad.numpy()
        difference = np.abs(x - y).max()
        record_difference("PyTorch, gradients of the loss", difference)
        assert difference < 1e-4, key
        compared += 1
    assert compared == len(ours)


def test_bare_model(load_case, record_difference):
    """`GPT2Model`: keys without `transformer.`, results without logits."""
    case = cases.CASES["plain"]
    theirs = torch_gpt2.model(case).transformer
    ids = cases.inputs(case)["input_ids"]
    ours = load_case(case, TFGPT2Model)(ids)
    with torch.no_grad():
        there = theirs(torch.tensor(ids)).last_hidden_state.numpy()
    difference = np.abs(ours.last_hidden_state.numpy() - there).max()
    record_difference("PyTorch, bare model: last_hidden_state", difference)
    assert difference < 1e-4
