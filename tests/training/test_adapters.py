"""Adapter files exchanged with PEFT in both directions give the same logits."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tfgpt2
from tfgpt2.checkpoints.lora_adapters import CONFIG_NAME, WEIGHTS_NAME, read_adapter
from tfgpt2.training import lora

SHAPE = {"vocab_size": 37, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
IDS = np.random.default_rng(0).integers(1, 37, (3, 12))
CASES = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"]},
    "pattern": {
        "r": 4,
        "lora_alpha": 16,
        "target_modules": ["c_attn", "mlp.c_proj", "c_fc"],
        "rank_pattern": {"mlp.c_proj": 2, "h.1.attn.c_attn": 6},
        "alpha_pattern": {"c_fc": 3},
        "use_rslora": True,
    },
    "one block, by a regular expression": {"r": 3, "target_modules": r".*\.h\.1\..*c_(attn|proj)"},
    "layers to transform": {"r": 3, "target_modules": ["c_proj"], "layers_to_transform": [0]},
}


@pytest.fixture(scope="module")
def peft():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    torch.set_num_threads(1)  # its threads would compete with TensorFlow's
    return pytest.importorskip("peft")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A directory with a model for both libraries."""
    folder = tmp_path_factory.mktemp("base")
    model = tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config(**SHAPE, **SPECIAL))
    for weight in model.weights:
        weight.assign(np.random.default_rng(weight.shape[-1]).normal(0, 0.1, weight.shape))
    model.save_pretrained(folder)
    return folder


def ours(base, kind="TFGPT2LMHeadModel", **changes):
    return getattr(tfgpt2, kind).from_pretrained(base, **changes)


def theirs(base, kind="GPT2LMHeadModel", **changes):
    import transformers

    return getattr(transformers, kind).from_pretrained(base, **changes).eval()


def fill(torch_model):
    """Fills all factors with random values, as after training."""
    import torch

    torch.manual_seed(0)
    for name, weight in torch_model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.3)


def torch_logits(torch_model, output="logits"):
    import torch

    with torch.no_grad():
        return getattr(torch_model(torch.tensor(IDS)), output).numpy()


def randomize(model):
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.3, weight.shape))


@pytest.mark.parametrize("case", CASES)
def test_pefts_adapters_load_and_go_back(peft, base, case, tmp_path, figure):
    config = peft.LoraConfig(**CASES[case], fan_in_fan_out=True, task_type="CAUSAL_LM")
    torch_model = peft.get_peft_model(theirs(base), config).eval()
    fill(torch_model)
    torch_model.save_pretrained(tmp_path / "theirs")
    expected = torch_logits(torch_model)
    model = ours(base)
    plain = model(IDS).logits.numpy()
    lora.load_adapter(model, tmp_path / "theirs")
    found = model(IDS).logits.numpy()
    figure("difference of logits from PEFT", np.abs(found - expected).max())
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(expected - plain).max() > 1e-3
    # The adapter saved here loads in PEFT with the same logits.
    lora.save_adapter(model, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(theirs(base), tmp_path / "ours").eval()
    np.testing.assert_allclose(torch_logits(again), expected, atol=1e-5)
    one, two = (load_file(tmp_path / name / WEIGHTS_NAME) for name in ("ours", "theirs"))
    assert one.keys() == two.keys()
    for key, array in one.items():
        np.testing.assert_array_equal(array, two[key])


@pytest.mark.parametrize("targets", ["c_attn", ("c_proj", "c_fc"), ("h.1.attn.c_proj",)])
def test_our_adapters_load_into_peft(peft, base, targets, tmp_path):
    model = ours(base)
    lora.enable_lora(model, 5, 7, targets=targets, dropout=0.1)
    randomize(model)
    lora.save_adapter(model, tmp_path, base=str(base))
    written = json.loads((tmp_path / CONFIG_NAME).read_text())
    expected = {"c_attn": ["c_attn"]}.get(targets, sorted(targets))
    assert [t.removeprefix("transformer.") for t in written["target_modules"]] == expected
    assert written["lora_dropout"] == 0.1 and written["fan_in_fan_out"] is True
    torch_model = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(torch_logits(torch_model), model(IDS).logits, atol=2e-5)


@pytest.mark.long
def test_a_model_without_a_head(peft, base, tmp_path):
    model = ours(base, "TFGPT2Model")
    lora.enable_lora(model, 3, targets=("c_attn", "c_fc"))
    randomize(model)
    lora.save_adapter(model, tmp_path / "ours")
    keys = load_file(tmp_path / "ours" / WEIGHTS_NAME)
    assert all(key.startswith("base_model.model.h.") for key in keys)
    torch_model = peft.PeftModel.from_pretrained(theirs(base, "GPT2Model"), tmp_path / "ours")
    expected = torch_logits(torch_model.eval(), "last_hidden_state")
    np.testing.assert_allclose(model(IDS).last_hidden_state, expected, atol=2e-5)
    lora.unload_adapters(model)
    lora.load_adapter(model, tmp_path / "ours")
    np.testing.assert_allclose(model(IDS).last_hidden_state, expected, atol=2e-5)


def test_a_classifier_with_its_head_both_ways(peft, base, tmp_path):
    config = peft.LoraConfig(
        r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="SEQ_CLS"
    )
    kind, labels = "GPT2ForSequenceClassification", {"num_labels": 3}
    torch_model = peft.get_peft_model(theirs(base, kind, **labels), config).eval()
    fill(torch_model)
    torch_model.save_pretrained(tmp_path / "theirs")
    with pytest.warns(UserWarning, match="freshly initialised"):
        model = ours(base, f"TF{kind}", **labels)
    lora.load_adapter(model, tmp_path / "theirs")
    np.testing.assert_allclose(model(IDS).logits, torch_logits(torch_model), atol=2e-5)
    assert any("score" in weight.path for weight in model.trainable_weights)
    randomize(model)
    lora.save_adapter(model, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(theirs(base, kind, **labels), tmp_path / "ours").eval()
    np.testing.assert_allclose(torch_logits(again), model(IDS).logits, atol=2e-5)


def test_old_files_in_pytorchs_own_format(peft, base, tmp_path):
    import torch

    config = peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    torch_model = peft.get_peft_model(theirs(base), config).eval()
    fill(torch_model)
    torch_model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS_NAME)
    torch.save(
        {key: torch.tensor(array) for key, array in weights.items()},
        tmp_path / "adapter_model.bin",
    )
    (tmp_path / WEIGHTS_NAME).unlink()
    model = ours(base)
    lora.load_adapter(model, tmp_path)
    np.testing.assert_allclose(model(IDS).logits, torch_logits(torch_model), atol=2e-5)


@pytest.fixture
def saved(base, tmp_path):
    """A valid adapter; the fixture changes its configuration or tensors."""
    model = ours(base)
    lora.enable_lora(model, 4)
    lora.save_adapter(model, tmp_path)

    def change_files(config=(), tensors=lambda found: found):
        path = tmp_path / CONFIG_NAME
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(config)))
        found = tensors(load_file(tmp_path / WEIGHTS_NAME))
        save_file({key: np.ascontiguousarray(x) for key, x in found.items()},
                  tmp_path / WEIGHTS_NAME)  # fmt: skip
        return tmp_path

    return change_files


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "not supported: peft_type.*Merge the adapter"),
        ({"use_dora": True}, "not supported: use_dora"),
        ({"bias": "all"}, "not supported: bias"),
        ({"init_lora_weights": "pissa"}, "not supported: init_lora_weights"),
        ({"a_future_option": 3}, "not supported: a_future_option"),
        ({"r": 8}, "has rank 4 and 4, its configuration 8"),
        ({"target_modules": ["c_attn", "c_fc"]}, "it has nothing for 'c_fc'"),
        ({"target_modules": ["c_attn", [1]]}, "`target_modules` of the adapter's configuration"),
        ({"r": 10**12}, "has rank 4 and 4, its configuration 1000000000000"),
        ({"r": "4"}, "`r` of the adapter's configuration"),
        ({"lora_alpha": None}, "`lora_alpha` of the adapter's configuration"),
        ({"lora_alpha": 10**400}, "`lora_alpha` of the adapter's configuration"),
        ({"lora_dropout": "x"}, "`lora_dropout` of the adapter's configuration"),
        ({"rank_pattern": [1]}, "`rank_pattern` of the adapter's configuration"),
        ({"rank_pattern": {"(": 4}}, "`rank_pattern` of the adapter's configuration"),
        # Each of these would be matched for longer than anyone waits.
        ({"rank_pattern": {"(.*)*x": 4}}, "`rank_pattern`.*repeated groups"),
        ({"rank_pattern": {".*" * 30 + "x": 4}}, "`rank_pattern`.*many repetitions"),
        ({"alpha_pattern": {"(a|a){99}": 4}}, "`alpha_pattern`.*repeated groups"),
    ],
)
def test_unsupported_configurations_are_refused(saved, config, message):
    with pytest.raises(ValueError, match=message):
        read_adapter(saved(config))


KEY = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
WTE = "base_model.model.transformer.wte"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: x for k, x in t.items() if k != KEY}, "lacks one of its two matrices"),
        (lambda t: t | {"base_model.model.x": t[KEY]}, "neither a factor of LoRA nor"),
        (lambda t: t | {KEY: t[KEY][:3]}, "has rank 3 and 4"),
        (lambda t: {}, "holds no lora_A"),
        (
            lambda t: t | {f"{WTE}.lora_embedding_A": t[KEY]},
            "factors of an embedding.*key='base_.*Merge",
        ),
        (lambda t: t | {KEY.replace("A.weight", "magnitude_vector"): t[KEY]}, "DoRA.*Merge"),
        (
            lambda t: t | {f"{WTE}.token_adapter.trainable_tokens_delta": t[KEY]},
            "rows of the token",
        ),
    ],
)
def test_damaged_tensors_are_refused(saved, change, message):
    with pytest.raises(ValueError, match=message):
        read_adapter(saved(tensors=change))


def test_damaged_and_missing_files(saved, base, tmp_path):
    folder = saved()
    (folder / CONFIG_NAME).write_text("[1]")
    with pytest.raises(ValueError, match="expected a JSON object"):
        read_adapter(folder)
    (folder / CONFIG_NAME).unlink()
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        read_adapter(folder)
    model = ours(base)
    with pytest.raises(FileNotFoundError, match="No local directory"):
        lora.load_adapter(model, tmp_path / "absent")
    lora.enable_lora(model)
    lora.save_adapter(model, folder)
    (folder / WEIGHTS_NAME).unlink()
    with pytest.raises(FileNotFoundError, match="adapter_model.safetensors"):
        read_adapter(folder)
    with pytest.raises(NotADirectoryError, match="saved into a directory"):
        lora.save_adapter(model, folder / CONFIG_NAME)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": 8}, r"is for another model.*has 8 inputs and 24 outputs.*adapter=\[16, 48\]"),
        ({"n_layer": 1}, "'transformer.h.1.attn.c_attn', which the model does not have"),
    ],
)
def test_adapters_for_other_shapes_leave_the_model_alone(saved, changes, message):
    model = tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config(**(SHAPE | changes)))
    with pytest.raises(ValueError, match=message):
        lora.load_adapter(model, saved())
    assert model.adapters is None and len(model.trainable_weights) == len(model.weights)


def test_a_head_that_the_model_lacks_is_refused(saved, base):
    extra = {"base_model.model.score.weight": np.zeros((3, 16), np.float32)}
    with pytest.raises(ValueError, match="has a layer that the model does not have"):
        lora.load_adapter(ours(base), saved(tensors=lambda t: t | extra))


def test_an_output_matrix_alone_is_refused(saved, base):
    extra = {"base_model.model.lm_head.weight": np.zeros((37, 16), np.float32)}
    with pytest.raises(ValueError, match="replaces only one of the two"):
        lora.load_adapter(ours(base), saved(tensors=lambda t: t | extra))


def test_a_save_that_fails_leaves_the_earlier_one(saved, base, monkeypatch):
    folder = saved()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = ours(base)
    lora.enable_lora(model, 6)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfgpt2.checkpoints.writers.safetensors.write_file", full)
    with pytest.raises(OSError, match="No space left"):
        lora.save_adapter(model, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("tied", [True, False])
def test_layers_that_were_trained_whole(peft, base, tied, tmp_path):
    """The token table and the output matrix, positions, and a layer norm, both ways."""
    names = ["wpe", "ln_f"] if tied else ["wte", "lm_head", "ln_f"]
    config, folder = {"modules_to_save": names}, base
    if not tied:
        folder = tmp_path / "base"
        untied = tfgpt2.GPT2Config(**SHAPE, **SPECIAL, tie_word_embeddings=False)
        tfgpt2.TFGPT2LMHeadModel(untied).save_pretrained(folder)
    config = peft.LoraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True, **config)
    torch_model = peft.get_peft_model(theirs(folder), config).eval()
    fill(torch_model)
    torch_model.save_pretrained(tmp_path / "theirs")
    expected = torch_logits(torch_model)
    model = ours(folder)
    plain = model(IDS).logits.numpy()
    lora.load_adapter(model, tmp_path / "theirs")
    np.testing.assert_allclose(model(IDS).logits, expected, atol=5e-5)
    lora.save_adapter(model, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(theirs(folder), tmp_path / "ours").eval()
    np.testing.assert_allclose(torch_logits(again), expected, atol=2e-5)
    lora.unload_adapters(model)
    np.testing.assert_array_equal(model(IDS).logits, plain)
    lora.load_adapter(model, tmp_path / "theirs")
    lora.unload_adapters(model, merge=True)
    np.testing.assert_allclose(model(IDS).logits, expected, atol=5e-5)


def test_an_adapter_of_a_model_with_more_tokens(peft, base, tmp_path):
    """PEFT saves the embeddings beside the factors where the vocabulary has grown."""
    torch_model = theirs(base)
    torch_model.resize_token_embeddings(41)
    config = peft.LoraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True)
    torch_model = peft.get_peft_model(torch_model, config).eval()
    fill(torch_model)
    torch_model.save_pretrained(tmp_path / "theirs", save_embedding_layers=True)
    model = ours(base)
    with pytest.raises(ValueError, match="Call model.resize_token_embeddings"):
        lora.load_adapter(model, tmp_path / "theirs")
    model.resize_token_embeddings(41)
    lora.load_adapter(model, tmp_path / "theirs")
    np.testing.assert_allclose(model(IDS).logits, torch_logits(torch_model), atol=2e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(IDS).logits, model(IDS).logits, atol=1e-6)


def test_a_token_table_for_the_input_alone_is_refused(saved, base):
    table = {f"{WTE}.weight": np.zeros((37, 16), np.float32)}
    with pytest.raises(ValueError, match="replaces only one of the two.*Merge the adapter"):
        lora.load_adapter(ours(base), saved(tensors=lambda t: t | table))
