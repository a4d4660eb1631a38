"""The task heads against PyTorch transformers, and in `fit`."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2 import GPT2Config

SHAPE = {
    "vocab_size": 61,
    "n_positions": 24,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "summary_first_dropout": 0.0,
    "pad_token_id": 60,
    "bos_token_id": 59,
    "eos_token_id": 59,
    "initializer_range": 0.3,  # large, so that differences show
}
IDS = np.random.default_rng(0).integers(0, 59, (3, 7))
MASK = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]])
PADDED = np.where(MASK > 0, IDS, 60)
CHOICES = np.random.default_rng(1).integers(0, 59, (2, 3, 6))
TAGS = np.where(MASK > 0, IDS % 5, -100)

# name -> (our class, PyTorch's class, configuration, inputs)
CASES = {
    "double heads": ("DoubleHeadsModel", {}, {
        "input_ids": CHOICES,
        "mc_token_ids": np.array([[5, 2, 3], [1, 5, 4]]),
        "labels": CHOICES,
        "mc_labels": np.array([2, 0]),
    }),
    "double heads, tanh": (
        "DoubleHeadsModel",
        {"summary_activation": "tanh"},
        {"input_ids": CHOICES, "mc_labels": np.array([2, 0])},
    ),
    "classes": ("ForSequenceClassification", {"num_labels": 4}, {
        "input_ids": PADDED, "attention_mask": MASK, "labels": np.array([1, 3, 0]),
    }),
    "several classes": (
        "ForSequenceClassification",
        {"num_labels": 4, "problem_type": "multi_label_classification"},
        {
            "input_ids": PADDED,
            "attention_mask": MASK,
            "labels": np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], np.float32),
        },
    ),
    "regression": ("ForSequenceClassification", {"num_labels": 1}, {
        "input_ids": PADDED, "attention_mask": MASK,
        "labels": np.array([0.5, -1.0, 2.0], np.float32),
    }),
    "tags": ("ForTokenClassification", {"num_labels": 5, "classifier_dropout": 0.0}, {
        "input_ids": PADDED, "attention_mask": MASK, "labels": TAGS,
    }),
    "answers": ("ForQuestionAnswering", {}, {
        "input_ids": PADDED, "attention_mask": MASK,
        "start_positions": np.array([1, 0, 99]), "end_positions": np.array([3, 2, 1]),
    }),
}  # fmt: skip


def make_model(case):
    name, changes, inputs = CASES[case]
    config = GPT2Config.from_dict(SHAPE | changes)
    return getattr(tfgpt2, f"TFGPT2{name}")(config), inputs


@pytest.mark.parametrize("case", CASES)
def test_outputs_losses_and_gradients_are_those_of_pytorch(case, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ours, inputs = make_model(case)
    for weight in ours.weights:  # so that biases and norms are not neutral
        noise = np.random.default_rng(2).normal(0, 0.1, weight.shape)
        weight.assign_add(noise.astype("float32"))
    ours.save_pretrained(tmp_path)
    theirs_class = getattr(transformers, f"GPT2{CASES[case][0]}")
    theirs, report = theirs_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    theirs.eval()
    expected = theirs(**{name: torch.tensor(value) for name, value in inputs.items()})
    with tf.GradientTape() as tape:
        found = ours(inputs)
        loss = found.loss if found.loss is not None else 0.0
        loss = loss + (found.get("mc_loss", 0.0))
    for name in ("loss", "mc_loss", "logits", "mc_logits", "start_logits", "end_logits"):
        if expected.get(name) is not None:
            difference = np.abs(found[name].numpy() - expected[name].detach().numpy()).max()
            assert difference < 1e-4, name
    total = sum(expected[name] for name in ("loss", "mc_loss") if expected.get(name) is not None)
    total.backward()
    gradients = tape.gradient(loss, [weight.value for weight in ours.weights])
    named = {name: value.grad for name, value in theirs.named_parameters()}
    compared = 0
    for weight, gradient in zip(ours.weights, gradients, strict=True):
        key = weight.path.partition("/")[2].replace("/", ".").replace("h_", "h.")
        reference = named[key]
        if gradient is None or reference is None:
            assert gradient is None and reference is None, key
            continue
        gradient = tf.convert_to_tensor(gradient).numpy()
        scale = max(1.0, float(reference.abs().max()))
        assert np.abs(gradient - reference.numpy()).max() / scale < 1e-4, key
        compared += 1
    assert compared > 30


# One head, in one mode; the rest is long.
QUICK = [("tags", "float32", False)]
ALL = list(itertools.product(CASES, ["float32", "mixed_bfloat16", "mixed_float16"], [False, True]))
FITS = [*QUICK, *(pytest.param(*fit, marks=pytest.mark.long) for fit in ALL if fit not in QUICK)]


@pytest.mark.long
@pytest.mark.parametrize(("case", "policy", "jit"), FITS)
def test_fit_on_a_dataset_lowers_the_loss(case, policy, jit):
    name, changes, inputs = CASES[case]
    keras.utils.set_random_seed(0)
    small = {"n_layer": 1, "initializer_range": 0.02}
    config = GPT2Config.from_dict(SHAPE | changes | small)
    model = getattr(tfgpt2, f"TFGPT2{name}")(config, dtype=policy)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=jit)
    dataset = tf.data.Dataset.from_tensors(inputs).repeat(12)
    before = model.evaluate(dataset.take(1), verbose=0)
    model.fit(dataset, epochs=1, verbose=0, shuffle=False)
    after = model.evaluate(dataset.take(1), verbose=0)
    assert np.isfinite(after) and after < 0.8 * before


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=[] if case in ("double heads", "tags") else pytest.mark.long)
    for case in CASES
])  # fmt: skip
def test_predict_joins_the_rows_of_all_batches(case):
    model, inputs = make_model(case)
    rows = len(inputs["input_ids"])
    found = model.predict(inputs, batch_size=2, verbose=0)
    expected = model(inputs)
    assert "past_key_values" not in found and "loss" not in found
    for name in found:
        assert len(found[name]) == rows
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_reloads_from_a_keras_file(case, tmp_path):
    model, inputs = make_model(case)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for name, value in model(inputs).items():
        if name not in ("past_key_values",):
            np.testing.assert_allclose(again(inputs)[name], value, atol=1e-6)


@pytest.mark.parametrize("case", ["double heads", "classes", "tags", "answers"])
def test_optional_outputs(case):
    model, inputs = make_model(case)
    out = model(inputs, output_attentions=True, output_hidden_states=True, use_cache=None)
    assert len(out.attentions) == 3 and len(out.hidden_states) == 4
    assert ("past_key_values" in out) == (case in ("double heads", "classes"))


@pytest.mark.parametrize("name", ["DoubleHeadsModel", "ForSequenceClassification",
                                  "ForTokenClassification", "ForQuestionAnswering"])  # fmt: skip
def test_a_language_models_checkpoint_leaves_the_head_fresh(name, tmp_path):
    language_model = tfgpt2.TFGPT2LMHeadModel(GPT2Config.from_dict(SHAPE))
    language_model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="freshly initialised"):
        model = getattr(tfgpt2, f"TFGPT2{name}").from_pretrained(tmp_path, num_labels=3)
    np.testing.assert_array_equal(
        model.transformer.h[1].attn.c_attn.weight,
        language_model.transformer.h[1].attn.c_attn.weight,
    )


def test_the_last_token_is_found_by_mask_or_by_padding_on_either_side():
    model, _ = make_model("classes")
    alone = [model(IDS[i : i + 1, : MASK[i].sum()]).logits[0] for i in range(3)]
    masked = model(PADDED, attention_mask=MASK).logits
    unmasked = model(PADDED).logits
    np.testing.assert_allclose(masked, alone, atol=1e-5)
    np.testing.assert_allclose(unmasked, alone, atol=1e-5)
    left = np.array(
        [np.roll(row, 7 - length) for row, length in zip(PADDED, MASK.sum(1), strict=True)]
    )
    left_mask = MASK[:, ::-1]
    positions = np.maximum(left_mask.cumsum(1) - 1, 0)
    shifted = model(left, attention_mask=left_mask, position_ids=positions).logits
    np.testing.assert_allclose(shifted, alone, atol=1e-5)


def test_texts_whose_end_is_unknown_raise():
    config = GPT2Config.from_dict(SHAPE | {"pad_token_id": None})
    model = tfgpt2.TFGPT2ForSequenceClassification(config)
    assert model(IDS[:1]).logits.shape == (1, 2)
    with pytest.raises(ValueError, match=r"where texts end is unknown.*Received.*Pass attention"):
        model(IDS)


def test_an_answer_needs_both_ends():
    model, inputs = make_model("answers")
    with pytest.raises(ValueError, match=r"belong together.*Received: given='start_positions'"):
        model(PADDED, start_positions=inputs["start_positions"])


@pytest.mark.parametrize("kind", ["last", "first", "mean"])
def test_the_summary_is_over_the_tokens_of_each_choice(kind):
    model, _ = make_model("double heads, tanh")
    model.multiple_choice_head.summary_type = kind
    hidden = model(CHOICES, output_hidden_states=True).hidden_states[-1].numpy()
    vector = {"last": hidden[:, :, -1], "first": hidden[:, :, 0], "mean": hidden.mean(2)}[kind]
    weight, bias = (part.numpy() for part in model.multiple_choice_head.summary.weights)
    expected = np.tanh(vector @ weight.T + bias)[..., 0]
    np.testing.assert_allclose(model(CHOICES).mc_logits, expected, atol=1e-5)


def test_a_summary_without_projection_is_a_vector_and_has_no_loss():
    config = GPT2Config.from_dict(SHAPE | {"summary_use_proj": False})
    model = tfgpt2.TFGPT2DoubleHeadsModel(config)
    assert model(CHOICES).mc_logits.shape == (2, 3, 32)
    with pytest.raises(ValueError, match=r"one score per choice.*Received: scores=32"):
        model(CHOICES, mc_labels=np.array([0, 1]))


def test_an_attention_summary_raises():
    with pytest.raises(ValueError, match=r"'attn'.*Received.*cls_index"):
        tfgpt2.TFGPT2DoubleHeadsModel(GPT2Config.from_dict(SHAPE | {"summary_type": "attn"}))
