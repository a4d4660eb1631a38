"""LoRA: training, merging, several adapters, generation, exports and Keras files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2.nn.lora import base_weights, current, projections
from tfgpt2.training import lora

SHAPE = {"vocab_size": 37, "n_positions": 48, "n_embd": 16, "n_layer": 2, "n_head": 2}
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
IDS = np.random.default_rng(0).integers(0, 37, (3, 12))
DATA = {"input_ids": IDS, "labels": IDS}


def make(kind="TFGPT2LMHeadModel", dtype=None, **changes):
    keras.utils.set_random_seed(0)
    config = tfgpt2.GPT2Config(**SHAPE, **(NO_DROPOUT | changes))
    model = getattr(tfgpt2, kind)(config, dtype=dtype)
    for weight in model.weights:  # larger than initial weights, so that differences are visible
        weight.assign(np.random.default_rng(weight.shape[-1]).normal(0, 0.1, weight.shape))
    return model


def train(model, epochs=2, data=DATA, **options):
    # Eager, since tracing takes longer than a few steps; one test runs the other modes.
    model.compile(keras.optimizers.Adam(0.05), **({"run_eagerly": True} | options))
    return model.fit(data, epochs=epochs, verbose=0).history["loss"]


def randomize(model, seed=1):
    """Fills both factors with random values, as after training."""
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.2, weight.shape))


def merged_logits(model, extra, ids=IDS):
    """Logits of a plain model whose kernels are base + scale * A @ B."""
    reference = make()
    for key, layer in projections(reference).items():
        if key in extra:
            layer.weight.assign_add(extra[key])
    return reference(ids).logits.numpy()


def products(model):
    adapter = current(model)
    return {k: adapter.scale(k) * (f.a @ f.b) for k, f in adapter.layers.items()}


@pytest.mark.parametrize("rslora", [False, True])
def test_the_adapter_equals_its_product_in_the_kernels(rslora):
    model = make()
    before = model(IDS).logits.numpy()
    lora.enable_lora(model, 3, 6, targets=("c_attn", "mlp.c_proj"), use_rslora=rslora)
    np.testing.assert_array_equal(model(IDS).logits, before)  # a new adapter changes nothing
    randomize(model)
    added = products(model)
    assert sorted(added) == sorted(
        f"transformer.h.{i}.{end}" for i in range(2) for end in ("attn.c_attn", "mlp.c_proj")
    )
    kernel = projections(model)["transformer.h.0.attn.c_attn"]
    a, b = kernel.lora_kernel_a.numpy(), kernel.lora_kernel_b.numpy()
    scale = 6 / 3**0.5 if rslora else 2.0
    np.testing.assert_allclose(added["transformer.h.0.attn.c_attn"], scale * a @ b, rtol=1e-5)
    np.testing.assert_allclose(model(IDS).logits, merged_logits(model, added), atol=1e-5)
    assert np.abs(model(IDS).logits - before).max() > 0.01


@pytest.mark.parametrize(
    ("options", "checkpointing"),
    [
        ({}, False),
        pytest.param({"run_eagerly": False, "jit_compile": False}, True, marks=pytest.mark.long),
        pytest.param({"run_eagerly": False, "jit_compile": True}, False, marks=pytest.mark.long),
    ],
)
def test_fit_changes_the_adapter_and_nothing_else(options, checkpointing):
    model = make()
    lora.enable_lora(model, 4, targets=("c_attn", "c_proj", "c_fc"), dropout=0.1)
    if checkpointing:
        model.gradient_checkpointing_enable()
    base = [weight.numpy() for weight in base_weights(model)]
    factors = [weight.numpy() for weight in model.trainable_weights]
    assert {w.name for w in model.trainable_weights} == {"lora_kernel_a", "lora_kernel_b"}
    losses = train(model, **options)
    assert losses[-1] < losses[0]
    for weight, old in zip(base_weights(model), base, strict=True):
        np.testing.assert_array_equal(weight, old)
    changed = [
        np.abs(w - old).max() > 0 for w, old in zip(model.trainable_weights, factors, strict=True)
    ]
    assert all(changed)


def test_counts_and_what_is_printed(capsys):
    model = make()
    lora.enable_lora(model, 4, targets="c_attn")
    assert lora.trainable_parameters(model)[0] == 2 * 4 * (16 + 48)
    lora.print_trainable_parameters(model)
    assert capsys.readouterr().out.startswith("trainable parameters: 512 of ")


def test_dropout_acts_in_training_only():
    model = make()
    lora.enable_lora(model, 4, dropout=0.5)
    randomize(model)
    still = model(IDS).logits.numpy()
    np.testing.assert_array_equal(model(IDS).logits, still)
    assert np.abs(model(IDS, training=True).logits - still).max() > 1e-3


def test_merge_and_unmerge_and_what_a_checkpoint_holds(tmp_path):
    model = make()
    before = model(IDS).logits.numpy()
    lora.enable_lora(model, 4, 8, targets=("c_attn", "c_fc"))
    randomize(model)
    adapted = model(IDS).logits.numpy()
    with pytest.raises(ValueError, match=r"not merged.*Received: adapter='default'.*merge_adapter"):
        model.save_pretrained(tmp_path)
    lora.merge_adapter(model)
    np.testing.assert_allclose(model(IDS).logits, adapted, atol=1e-5)
    assert not model.trainable_weights
    model.save_pretrained(tmp_path)
    saved = tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(saved(IDS).logits, adapted, atol=1e-5)
    lora.unmerge_adapter(model)
    np.testing.assert_allclose(model(IDS).logits, adapted, atol=1e-5)
    assert len(model.trainable_weights) == 8
    lora.set_adapter(model, None)
    np.testing.assert_allclose(model(IDS).logits, before, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("merged_before", [False, True])
@pytest.mark.parametrize("merge", [False, True])
def test_unloading_leaves_a_plain_model(merge, merged_before, monkeypatch):
    model = make()
    # Keras' `delattr` of a weight would collect the garbage of the whole process each time.
    monkeypatch.setattr("gc.collect", lambda: pytest.fail("A collection takes up to a second."))
    weights, before = len(model.weights), model(IDS).logits.numpy()
    lora.enable_lora(model, 4)
    randomize(model)
    adapted = model(IDS).logits.numpy()
    if merged_before:
        lora.merge_adapter(model)
    lora.unload_adapters(model, merge=merge)
    assert len(model.weights) == len(model.trainable_weights) == weights
    np.testing.assert_allclose(model(IDS).logits, adapted if merge else before, atol=1e-5)
    if merge and merged_before:
        kernel = model.transformer.h[1].attn.c_attn.weight
        old = kernel.numpy()
        train(model, epochs=1)
        assert np.abs(kernel - old).max() > 0


@pytest.mark.long
def test_several_adapters_keep_their_weights():
    model = make()
    base = model(IDS).logits.numpy()
    lora.enable_lora(model, 2, name="one")
    train(model)
    one = model(IDS).logits.numpy()
    lora.enable_lora(model, 5, targets=("c_attn", "c_fc"), name="two", dropout=0.1)
    np.testing.assert_array_equal(model(IDS).logits, base)
    train(model)
    two = model(IDS).logits.numpy()
    assert lora.adapter_names(model) == ["one", "two"] and lora.active_adapter(model) == "two"
    for name, expected in (("one", one), (None, base), ("two", two), ("one", one)):
        lora.set_adapter(model, name)
        np.testing.assert_allclose(model(IDS).logits, expected, atol=1e-6)
    # In the larger slot, the smaller adapter trains as it does alone.
    assert len(model.trainable_weights) == 4
    train(model)
    alone = make()
    lora.enable_lora(alone, 2)
    for key, layer in projections(alone).items():
        if layer.lora_kernel_a is not None:
            learned = model.adapters.named["one"].layers[key]
            layer.lora_kernel_a.assign(learned.a)
            layer.lora_kernel_b.assign(learned.b)
    train(alone)
    np.testing.assert_allclose(model(IDS).logits, alone(IDS).logits, atol=1e-4)
    lora.delete_adapter(model, "two")
    layer = model.transformer.h[0]
    assert layer.attn.c_attn.lora_kernel_a.shape == (16, 2) and layer.mlp.c_fc.lora_scale is None
    train(model, epochs=1)
    lora.delete_adapter(model, "one")
    np.testing.assert_array_equal(model(IDS).logits, base)
    assert lora.adapter_names(model) == [] and len(model.trainable_weights) == len(model.weights)


@pytest.mark.long
def test_generation_uses_the_active_adapter():
    model = make()
    lora.enable_lora(model, 4, targets=("c_attn", "c_proj", "c_fc"))
    randomize(model, seed=5)
    options = {"max_new_tokens": 8, "do_sample": False, "jit_compile": False}
    reference = make()
    for key, extra in products(model).items():
        projections(reference)[key].weight.assign_add(extra)
    adapted = model.generate(IDS, **options)
    np.testing.assert_array_equal(adapted, reference.generate(IDS, **options))
    lora.set_adapter(model, None)
    np.testing.assert_array_equal(model.generate(IDS, **options), make().generate(IDS, **options))
    lora.set_adapter(model, "default")
    np.testing.assert_array_equal(model.generate(IDS, **options), adapted)


@pytest.mark.long
def test_a_text_generator_and_its_export_use_the_adapter(tmp_path):
    generator = tfgpt2.TextGenerator.from_pretrained("shakespeare-tiny")
    lora.enable_lora(generator.model, 4)
    randomize(generator.model)
    generator = tfgpt2.TextGenerator(generator.model, generator.tokenizer, jit_compile=False)
    options = {"temperature": 0, "max_new_tokens": 12}
    adapted = generator.generate("ROMEO:", **options)
    generator.export(tmp_path / "1", jit_compile=False, check=False)
    loaded = tf.saved_model.load(tmp_path / "1")
    found = loaded.generate(
        tf.constant(["ROMEO:"]), max_new_tokens=tf.constant([12]), temperature=tf.constant([0.0])
    )
    assert found["text"][0].numpy().decode() == adapted
    lora.set_adapter(generator.model, None)
    plain = tfgpt2.TextGenerator.from_pretrained("shakespeare-tiny", jit_compile=False)
    assert generator.generate("ROMEO:", **options) == plain.generate("ROMEO:", **options) != adapted


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_factors_are_float32_under_every_policy(policy):
    model = make(dtype=policy)
    lora.enable_lora(model, 4)
    assert {w.dtype for w in model.trainable_weights} == {"float32"}
    losses = train(model)
    assert losses[-1] < losses[0]
    adapted = model(IDS).logits.numpy()
    lora.merge_adapter(model)
    np.testing.assert_allclose(model(IDS).logits, adapted, atol=0.1)


@pytest.mark.parametrize("merged", [False, True])
def test_keras_files_hold_the_adapter(tmp_path, merged):
    model = make()
    lora.enable_lora(model, 4, 8, targets=("c_attn", "c_fc"), name="mine")
    randomize(model)
    adapted = model(IDS).logits.numpy()
    if merged:
        lora.merge_adapter(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(IDS).logits, adapted, atol=1e-5)
    assert lora.active_adapter(loaded) == "mine"
    if merged:
        lora.unmerge_adapter(loaded)
    assert len(loaded.trainable_weights) == 8
    lora.set_adapter(loaded, None)
    np.testing.assert_allclose(loaded(IDS).logits, make()(IDS).logits, atol=1e-5)
    lora.enable_lora(model if not merged else loaded, 2, name="other")
    with pytest.raises(ValueError, match="hold the active adapter only"):
        (model if not merged else loaded).save(tmp_path / "two.keras")


@pytest.mark.parametrize("rank", [10**12, -1, "4", None])
def test_a_keras_file_that_asks_for_any_rank_is_refused(rank):
    model = make()
    lora.enable_lora(model, 4)
    config = model.get_config()
    config["adapter"]["layers"] = {key: [rank, 4.0] for key in config["adapter"]["layers"]}
    with pytest.raises(ValueError, match="rank of an adapter .* is an integer from 1 to 48"):
        type(model).from_config(config)


@pytest.mark.long
def test_a_task_head_is_trained_and_saved_with_the_adapter():
    model = make("TFGPT2ForSequenceClassification", num_labels=3, pad_token_id=0)
    head = model.score.weight.numpy()
    lora.enable_lora(model, 2, name="one")
    assert lora.trainable_parameters(model)[0] == 2 * 2 * (16 + 48) + 3 * 16
    train(model, data={"input_ids": IDS, "labels": np.array([0, 1, 2])})
    learned = model.score.weight.numpy()
    assert np.abs(learned - head).max() > 0
    lora.enable_lora(model, 2, name="two")
    lora.set_adapter(model, None)
    np.testing.assert_array_equal(model.score.weight, head)
    lora.set_adapter(model, "one")
    np.testing.assert_array_equal(model.score.weight, learned)
    lora.unload_adapters(model, merge=True)
    np.testing.assert_array_equal(model.score.weight, learned)


def test_trainable_false_freezes_layers():
    model = make()
    model.transformer.wte.trainable = model.transformer.h[0].trainable = False
    frozen = [w for w in model.weights if "/h_0/" in w.path or "/wte/" in w.path]
    old = [w.numpy() for w in frozen]
    assert train(model)[-1] < 5 and len(frozen) == 13
    for weight, before in zip(frozen, old, strict=True):
        np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("c_atn",)}, "Did you mean 'c_attn'"),
        ({"targets": ()}, "`targets` is empty"),
        ({"targets": "attn.c_fc"}, "Did you mean"),
        ({"rank": 0}, r"`rank` must be an integer of at least 1\. Received: rank=0"),
        ({"rank": 2.5}, "`rank` must be an integer"),
        (
            {"rank": 10**12},
            "rank of an adapter of .*c_attn' is an integer from 1 to 48",
        ),
        ({"alpha": 0}, r"`alpha` must be a number in \(0, inf\)"),
        ({"dropout": 1.0}, r"`dropout` must be a number in \[0, 1\)"),
        ({"name": "a/b"}, "name consists of letters"),
        ({"modules_to_save": ("score",)}, "must be heads of the model"),
    ],
)
def test_errors_of_bad_arguments(options, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        lora.enable_lora(model, **options)
    assert model.adapters is None and len(model.trainable_weights) == len(model.weights)


def test_errors_of_wrong_state():
    with pytest.raises(TypeError, match="Adapters belong to a model"):
        lora.enable_lora(object())
    model = make()
    for call in (lora.merge_adapter, lambda m: lora.unload_adapters(m, merge=True)):
        with pytest.raises(ValueError, match="No adapter is active"):
            call(model)
    with pytest.raises(ValueError, match="No adapter is merged"):
        lora.unmerge_adapter(model)
    with pytest.raises(ValueError, match="enable_lora"):
        lora.set_adapter(model, "default")
    lora.enable_lora(model)
    with pytest.raises(ValueError, match="already has an adapter of this name"):
        lora.enable_lora(model)
    with pytest.raises(ValueError, match="Did you mean 'default'"):
        lora.set_adapter(model, "defualt")
    with pytest.raises(ValueError, match="unload_adapters"):
        model.prune_heads({0: [1]})
    lora.merge_adapter(model)
    for call in (
        lora.merge_adapter,
        lambda m: lora.set_adapter(m, None),
        lambda m: lora.delete_adapter(m, "default"),
        lambda m: lora.enable_lora(m, name="two"),
    ):
        with pytest.raises(ValueError, match="is merged into"):
            call(model)
