"""Models behave as transformers 4.57's where programs depend on it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2.config_fields import GENERATION_FIELDS
from tfgpt2.generation.option_table import DEFAULTS

HEADS = ("TFGPT2Model", "TFGPT2LMHeadModel", "TFGPT2DoubleHeadsModel",
         "TFGPT2ForSequenceClassification", "TFGPT2ForTokenClassification",
         "TFGPT2ForQuestionAnswering")  # fmt: skip
TINY = {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 20, "n_positions": 16}
QUIET = TINY | {"n_layer": 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


@pytest.fixture(scope="module", params=[False, True], ids=["text", "cross"])
def models(request):
    """All heads, with and without cross-attention."""
    config = tfgpt2.GPT2Config(**TINY, pad_token_id=0, add_cross_attention=request.param)
    return {name: getattr(tfgpt2, name)(config) for name in HEADS}


@pytest.mark.parametrize("name", HEADS)
def test_attentions_of_all_heads(models, name):
    ids = tf.constant([[1, 2, 3]])
    ids = ids[:, None] if name == "TFGPT2DoubleHeadsModel" else ids
    out = models[name](ids, output_attentions=True, output_hidden_states=True)
    assert len(out.attentions) == 2 and len(out.hidden_states) == 3


IDS = np.arange(24).reshape(4, 6) % 19 + 1
CLASSES = np.array([0, 2, 1, 2])


@pytest.fixture(scope="module")
def lm():
    keras.utils.set_random_seed(0)
    return tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config(**QUIET))


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(0)
    config = tfgpt2.GPT2Config(**QUIET, num_labels=3, pad_token_id=0)
    return tfgpt2.TFGPT2ForSequenceClassification(config)


def still(model, **options):
    """Compiles a model that does not move."""
    model.compile(keras.optimizers.SGD(0.0), **options)
    return model


def test_labels_beside_the_inputs(lm, classifier):
    """`(features, labels)`, in arrays and in a dataset: the own loss."""
    for model, labels in ((lm, IDS), (classifier, CLASSES)):
        still(model)
        expected = float(model(IDS, labels=labels).loss)
        dataset = tf.data.Dataset.from_tensor_slices(({"input_ids": IDS}, labels)).batch(4)
        found = model.fit(IDS, labels, verbose=0).history["loss"][0]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_allclose(model.evaluate(dataset, verbose=0), expected, rtol=1e-5)


@pytest.mark.long
def test_labels_of_several_heads():
    config = tfgpt2.GPT2Config(**QUIET)
    model = still(tfgpt2.TFGPT2ForQuestionAnswering(config), metrics={
        "start_logits": ["accuracy"], "end_logits": ["accuracy"]})  # fmt: skip
    spans = {"start_positions": np.array([0, 1, 2, 3]), "end_positions": np.array([1, 2, 3, 4])}
    expected = float(model(IDS, **spans).loss)
    history = model.fit({"input_ids": IDS}, spans, verbose=0).history
    np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-5)
    assert "start_logits_accuracy" in history
    with pytest.raises(ValueError, match="the labels of this model are"):
        model.fit({"input_ids": IDS}, {"labels": IDS}, verbose=0)


def test_metrics_beside_the_own_loss(lm, classifier):
    still(classifier, metrics=["accuracy"])
    logits = classifier(IDS).logits.numpy()
    for data in ((IDS, CLASSES), ({"input_ids": IDS, "labels": CLASSES},)):
        found = classifier.evaluate(*data, verbose=0, return_dict=True)
        assert found["accuracy"] == (logits.argmax(-1) == CLASSES).mean()
    still(lm, weighted_metrics=["accuracy"])
    labels = IDS.copy()
    labels[:, 3] = -100
    right = (lm(IDS).logits.numpy()[:, :-1].argmax(-1) == labels[:, 1:])[labels[:, 1:] != -100]
    found = lm.evaluate({"input_ids": IDS}, labels, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["accuracy"], right.mean(), rtol=1e-5)


def test_weights_with_the_own_loss(classifier):
    still(classifier)
    each = classifier.hf_compute_loss(CLASSES, classifier(IDS).logits).numpy()
    weights = np.array([0.0, 1.0, 2.0, 3.0])
    found = classifier.fit(IDS, CLASSES, sample_weight=weights, verbose=0).history["loss"][0]
    np.testing.assert_allclose(found, (each * weights).mean(), rtol=1e-5)
    by_class = {0: 1.0, 1: 0.5, 2: 2.0}
    found = classifier.fit(IDS, CLASSES, class_weight=by_class, verbose=0).history["loss"][0]
    expected = (each * [by_class[one] for one in CLASSES]).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("head", ["ForTokenClassification", "ForQuestionAnswering", "DoubleHeads"])
def test_weights_with_the_own_loss_of_other_heads(head):
    """Weights of one text after the other give parts that add up to the own loss."""
    name = "TFGPT2DoubleHeadsModel" if head == "DoubleHeads" else f"TFGPT2{head}"
    model = getattr(tfgpt2, name)(tfgpt2.GPT2Config(**QUIET, num_labels=3))
    if head == "DoubleHeads":
        model = getattr(tfgpt2, name)(tfgpt2.GPT2Config(**QUIET))
    labels = {
        "ForTokenClassification": {"labels": IDS % 3},
        "ForQuestionAnswering": {
            "start_positions": np.array([1, 2, 0, 99]), "end_positions": np.array([3, 3, 4, 1]),
        },
        "DoubleHeads": {"labels": np.stack([IDS, IDS], 1), "mc_labels": np.array([0, 1, 0, 1])},
    }[head]  # fmt: skip
    ids = np.stack([IDS, IDS[:, ::-1]], 1) if head == "DoubleHeads" else IDS
    still(model)
    inputs = {"input_ids": ids}
    own = model.evaluate(inputs, labels, verbose=0, return_dict=True)["loss"]
    parts = [
        model.evaluate(inputs, labels, sample_weight=row, verbose=0, return_dict=True)["loss"]
        for row in np.eye(len(IDS))
    ]
    np.testing.assert_allclose(sum(parts), own, rtol=1e-5)
    assert len({round(part, 6) for part in parts}) > 1


def test_a_compiled_loss_takes_labels_of_the_features(classifier):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    still(classifier, loss=loss)
    expected = float(loss(CLASSES, classifier(IDS).logits))
    inside = {"input_ids": IDS, "labels": CLASSES}
    found = classifier.evaluate(inside, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    still(classifier, loss=classifier.hf_compute_loss)
    found = classifier.evaluate(IDS, CLASSES, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.long
def test_the_usual_recipe(tmp_path):
    """Tokenizer, collator, prepare_tf_dataset, create_optimizer, compile, fit, evaluate."""
    tokenizer = tfgpt2.AutoTokenizer.from_pretrained("shakespeare-tiny")
    tokenizer.pad_token = tokenizer.eos_token
    texts = [
        "To be, or not to be",
        "that is the question:",
        "Whether",
        "'tis nobler",
        "in the mind",
    ]
    rows = [tokenizer(text) | {"label": i % 2, "text": text} for i, text in enumerate(texts)]
    config = tfgpt2.GPT2Config(**QUIET | {"vocab_size": len(tokenizer), "n_positions": 32})
    config.pad_token_id = tokenizer.pad_token_id
    model = tfgpt2.TFGPT2ForSequenceClassification(config)
    data = model.prepare_tf_dataset(rows, batch_size=2, shuffle=False, tokenizer=tokenizer)
    batches = list(data)
    assert len(data) == len(batches) == 3 and batches[2][1].numpy().tolist() == [0]
    assert sorted(batches[0][0]) == ["attention_mask", "input_ids"]
    assert len(model.prepare_tf_dataset(rows, batch_size=2, tokenizer=tokenizer)) == 2
    optimizer, schedule = tfgpt2.create_optimizer(
        init_lr=1e-2, num_train_steps=10, num_warmup_steps=2, weight_decay_rate=0.01
    )
    np.testing.assert_allclose([float(schedule(i)) for i in (0, 1, 2, 10)], [0, 5e-3, 1e-2, 0])
    model.compile(optimizer=optimizer, metrics=["accuracy"])
    history = model.fit(data, validation_data=data, epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0] and "val_accuracy" in history
    lm = tfgpt2.TFGPT2LMHeadModel(config)
    collate = tfgpt2.DataCollatorForLanguageModeling(tokenizer, mlm=False, return_tensors="tf")
    batch = collate([{"input_ids": row["input_ids"]} for row in rows])
    assert (batch["labels"].numpy() == -100).sum() == (batch["attention_mask"].numpy() == 0).sum()
    data = lm.prepare_tf_dataset(rows, batch_size=5, collate_fn=collate)
    lm.compile("adam")
    assert np.isfinite(lm.fit(data, verbose=0).history["loss"][0])
    columns = {"input_ids": IDS.tolist(), "labels": IDS.tolist(), "idx": [1, 2, 3, 4]}
    x, y = next(iter(lm.prepare_tf_dataset(columns, 4, shuffle=False)))
    assert x.numpy().tolist() == y.numpy().tolist() == IDS.tolist()


def test_collators():
    tokenizer = tfgpt2.AutoTokenizer.from_pretrained("shakespeare-tiny", padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    rows = [{"input_ids": [1, 2, 3], "labels": [5, 6, 7]}, {"input_ids": [4], "labels": [8]}]
    batch = tfgpt2.DataCollatorForTokenClassification(tokenizer)(rows)
    assert batch["labels"].numpy().tolist() == [[5, 6, 7], [-100, -100, 8]]
    batch = tfgpt2.DataCollatorWithPadding(tokenizer, pad_to_multiple_of=4, return_tensors="np")(
        [{"input_ids": [1, 2, 3], "label": 1.5}, {"input_ids": [4], "label": 0.5}]
    )
    assert batch["labels"].tolist() == [1.5, 0.5] and batch["input_ids"].shape == (2, 4)
    batch = tfgpt2.DefaultDataCollator()([{"input_ids": [1], "label": 0, "text": "a"}])
    assert sorted(batch) == ["input_ids", "labels"] and batch["labels"].dtype == tf.int32
    with pytest.raises(ValueError, match="mlm=False"):
        tfgpt2.DataCollatorForLanguageModeling(tokenizer)


def test_small_methods(lm, classifier, models):
    assert lm.can_generate() and not classifier.can_generate() and lm.framework == "tf"
    assert lm.name_or_path == "" and lm.get_bias() is None
    assert lm.num_parameters() == sum(int(np.prod(w.shape)) for w in lm.weights)
    lm.transformer.trainable = False
    assert lm.num_parameters(only_trainable=True) == 0
    lm.transformer.trainable = True
    assert issubclass(type(lm), tfgpt2.TFGPT2PreTrainedModel)
    for name, model in models.items():
        assert model(model.dummy_inputs) is not None, name
        assert list(model.input_signature)[:2] == ["input_ids", "attention_mask"]
    table = np.ones([20, 8], np.float32)
    untied = tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config(**QUIET, tie_word_embeddings=False))
    before = untied.get_input_embeddings().weight.numpy()
    untied.set_output_embeddings(table)
    np.testing.assert_array_equal(untied.get_output_embeddings().weight.numpy(), table)
    np.testing.assert_array_equal(untied.get_input_embeddings().weight.numpy(), before)
    with pytest.raises(ValueError, match="no table that scores tokens"):
        classifier.set_output_embeddings(table)
    hidden = tfgpt2.TFGPT2MainLayer(tfgpt2.GPT2Config(**QUIET))(IDS).last_hidden_state
    assert hidden.shape == (4, 6, 8)


def test_results_for_serving(lm):
    """What the configuration asks for, with one tensor for those of all blocks."""
    out = lm(IDS, output_hidden_states=True, use_cache=True)
    served = lm.serving_output(out)
    assert set(served) == {"logits", "past_key_values"} and "hidden_states" in out
    assert served.past_key_values.shape == (len(out.past_key_values), *out.past_key_values[0].shape)
    lm.config.output_hidden_states = True
    try:
        served = lm.serving_output(out)
    finally:
        lm.config.output_hidden_states = False
    np.testing.assert_array_equal(served.hidden_states[-1], out.hidden_states[-1])


def test_options_of_generation_in_the_configuration(tmp_path):
    """They are defaults of `generate` and can change, until `generation_config` does."""
    assert set(GENERATION_FIELDS) <= set(DEFAULTS)
    config = tfgpt2.GPT2Config(**QUIET, max_length=9, do_sample=True, top_k=3)
    (tmp_path / "model").mkdir()
    lm = tfgpt2.TFGPT2LMHeadModel(config)
    options = lm.generation_config
    assert (options.max_length, options.do_sample, options.top_k) == (9, True, 3)
    assert lm.generation_config is options
    lm.config.pad_token_id, lm.config.num_beams = 3, 2
    options = lm.generation_config
    assert (options.pad_token_id, options.num_beams, options.do_sample) == (3, 2, True)
    options.top_k = 5
    lm.config.num_beams = 4
    assert lm.generation_config is options and options.num_beams == 2
    lm.config.top_p = -3  # which `generation_config.json` makes void
    lm.save_pretrained(tmp_path / "model")
    loaded = tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path / "model")
    assert loaded.generation_config == options and loaded.config.num_beams == 4
    loaded.config.top_p = None
    loaded.config.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").unlink()
    loaded = tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path / "model", max_length=20)
    assert loaded.generation_config.num_beams == 4
    assert loaded.generation_config.max_length is None  # as written by old versions for "none"
    lm.generation_config = lm.config.top_p = None
    assert lm.generation_config.num_beams == 4
    with pytest.raises(ValueError, match="`top_k` must be"):
        tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config(**QUIET, top_k=-3)).generation_config  # noqa: B018


def test_losses_of_ones_own(lm, classifier):
    logits = lm(IDS).logits
    found = lm.hf_compute_loss(IDS[:, 1:], logits[:, :-1])
    assert found.shape == (1,)
    np.testing.assert_allclose(found[0], lm(IDS, labels=IDS).loss, rtol=1e-5)
    each = classifier.hf_compute_loss(CLASSES, classifier(IDS).logits)
    assert each.shape == (4,)
    np.testing.assert_allclose(
        tf.reduce_mean(each), classifier(IDS, labels=CLASSES).loss, rtol=1e-5
    )


@pytest.mark.long
def test_a_loop_of_ones_own(lm):
    """`prepare_inputs_for_generation` and `compute_transition_scores` around `generate`."""
    options = {"max_new_tokens": 3, "eos_token_id": None, "jit_compile": False}
    out = lm.generate(IDS, **options, output_scores=True, return_dict_in_generate=True)
    ids, mask, past = tf.constant(IDS, tf.int32), tf.ones(IDS.shape, tf.int32), None
    for _ in range(3):
        inputs = lm.prepare_inputs_for_generation(ids, past, use_cache=True, attention_mask=mask)
        result = lm(**inputs)
        past, token = result.past_key_values, tf.argmax(result.logits[:, -1], -1, tf.int32)
        ids = tf.concat([ids, token[:, None]], axis=1)
        mask = tf.concat([mask, tf.ones([4, 1], tf.int32)], axis=1)
    np.testing.assert_array_equal(ids, out.sequences)
    scores = lm.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    np.testing.assert_allclose(scores, out.token_logprobs, atol=1e-5)


def test_lists_with_none(lm):
    """A list that holds None is in the order of `call`: ids, past, mask, as in transformers."""
    mask = (np.arange(6)[None] >= np.array([[0], [1], [2], [0]])).astype(int)
    expected = lm(IDS, attention_mask=mask).logits
    np.testing.assert_array_equal(lm([IDS, None, mask]).logits, expected)
    np.testing.assert_array_equal(lm([IDS, mask]).logits, expected)  # the documented order
    out = lm(IDS[:, :4], use_cache=True)
    later = lm([IDS[:, 4:], out.past_key_values, None]).logits
    np.testing.assert_allclose(later, lm(IDS).logits[:, 4:], atol=1e-5)
