"""nanoGPT, minGPT and llm.c: files as their programs write them, logits as PyTorch has them."""

import json
import pickle
import re

import numpy as np
import pytest
import tokenizers

from tests.support import model_cases as cases
from tests.support import other_checkpoints
from tests.support.checkpoint_loading import IDS, load_language_model, logits_of
from tfgpt2 import GPT2Config, TFGPT2Tokenizer, convert

torch = pytest.importorskip("torch")


def oracle(fields=None, change=lambda weights: weights, biases=True):
    """Configuration and weights of a case, and the logits that PyTorch transformers computes."""
    from tests.support import torch_gpt2

    config = cases.config_of(cases.Case(fields or {}))
    weights = change(cases.weights(config))
    if not biases:
        weights = {k: np.zeros_like(v) if k.endswith("bias") else v for k, v in weights.items()}
    model = torch_gpt2.model(cases.Case(fields or {}))
    torch_gpt2.load(model, weights)
    with torch.no_grad():
        return config, weights, model(torch.tensor(IDS)).logits.numpy()


def as_bfloat16(weights):
    import ml_dtypes

    return {k: v.astype(ml_dtypes.bfloat16).astype(np.float32) for k, v in weights.items()}


def assert_same_logits(model, wanted):
    np.testing.assert_allclose(logits_of(model), wanted, atol=2e-5, rtol=0)


def test_nanogpt(tmp_path):
    config, weights, logits = oracle({"activation_function": "gelu"})
    other_checkpoints.write_nanogpt(tmp_path / "ckpt.pt", weights, config, "_orig_mod.module.")
    model = load_language_model(tmp_path)
    assert_same_logits(model, logits)
    assert model.config.activation_function == "gelu" and model.config.tie_word_embeddings
    assert (model.config.eos_token_id, model.config.resid_pdrop) == (None, 0.0)


def test_nanogpt_without_biases_under_another_name(tmp_path):
    config, weights, logits = oracle({"activation_function": "gelu"}, biases=False)
    path = tmp_path / "shakespeare.pt"
    other_checkpoints.write_nanogpt(path, weights, config, bias=False)
    (tmp_path / "model.safetensors").write_bytes(b"another model's")
    (tmp_path / "config.json").write_text("another model's")
    assert_same_logits(load_language_model(path), logits)


def test_nanogpt_before_it_had_the_exact_gelu(tmp_path):
    config, weights, logits = oracle({"activation_function": "gelu_new"})
    other_checkpoints.write_nanogpt(tmp_path / "ckpt.pt", weights, config, bias=...)
    assert_same_logits(load_language_model(tmp_path), logits)


def test_nanogpt_with_an_untied_output_matrix(tmp_path):
    config, weights, logits = oracle({"activation_function": "gelu", "tie_word_embeddings": False})
    other_checkpoints.write_nanogpt(tmp_path / "ckpt.pt", weights, config)
    assert_same_logits(load_language_model(tmp_path), logits)


def test_nanogpt_with_characters(tmp_path):
    chars = "\n !abcdefghijklmnopqrst"
    config, weights, _ = oracle({"activation_function": "gelu"})
    other_checkpoints.write_nanogpt(tmp_path / "ckpt.pt", weights, config)
    meta = {"vocab_size": 23, "stoi": {c: i for i, c in enumerate(chars)},
            "itos": dict(enumerate(chars))}  # fmt: skip
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    tokenizer = TFGPT2Tokenizer.from_pretrained(tmp_path / "ckpt.pt")
    text = "a cab!\n at  a bad\n\nfig\n "
    ids = tokenizer(text)["input_ids"]
    assert ids.numpy().tolist() == [[chars.index(c) for c in text]]
    assert tokenizer.detokenize(ids).numpy().tolist() == [text.encode()]
    convert(tmp_path, tmp_path / "new", progress=False)
    again = TFGPT2Tokenizer.from_pretrained(tmp_path / "new")
    assert again(text)["input_ids"].numpy().tolist() == ids.numpy().tolist()
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    assert library.encode(text).ids == ids.numpy()[0].tolist()
    for value in ("", "ab"):
        (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": {"a": 0, value: 1}}))
        match = f"keys that are not characters.*characters=.'{value}'.*stoi.c."
        with pytest.raises(ValueError, match=match):
            TFGPT2Tokenizer.from_pretrained(tmp_path)
    for value in (print, [1], {"stoi": {"a": "b"}}):
        (tmp_path / "meta.pkl").write_bytes(pickle.dumps(value))
        with pytest.raises(ValueError, match="meta.pkl is not a readable character table"):
            TFGPT2Tokenizer.from_pretrained(tmp_path)


def test_nanogpt_with_characters_of_any_kind(tmp_path):
    chars = "\n aé日本😀e\u0301▁"
    config, weights, _ = oracle({"activation_function": "gelu"})
    other_checkpoints.write_nanogpt(tmp_path / "ckpt.pt", weights, config)
    meta = {"stoi": {c: i for i, c in enumerate(chars)}, "itos": dict(enumerate(chars))}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    tokenizer = TFGPT2Tokenizer.from_pretrained(tmp_path / "ckpt.pt")
    text = "日本 é\n e\u0301😀▁ a"
    ids = tokenizer(text)["input_ids"]
    assert ids.numpy().tolist() == [[chars.index(c) for c in text]]
    assert tokenizer.detokenize(ids).numpy()[0].decode() == text
    assert tokenizer("語a")["input_ids"].numpy().tolist() == [[chars.index("a")]]  # none: dropped
    convert(tmp_path, tmp_path / "new", progress=False)
    assert TFGPT2Tokenizer.from_pretrained(tmp_path / "new").spec == tokenizer.spec
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    assert library.encode(text).ids == ids.numpy()[0].tolist()


@pytest.mark.parametrize("format", ["safetensors", "h5"])
def test_nanogpt_is_converted(tmp_path, format):
    config, weights, logits = oracle({"activation_function": "gelu"}, biases=False)
    other_checkpoints.write_nanogpt(tmp_path / "ckpt.pt", weights, config, bias=False)
    report = convert(tmp_path / "ckpt.pt", tmp_path / "new", to=format, progress=False)
    assert report.source_format == "nanogpt"
    assert report.notes == ("The source has no tokenizer.",)
    assert_same_logits(load_language_model(tmp_path / "new"), logits)


def test_derived_programs_are_refused_until_a_configuration_is_given(tmp_path):
    config, weights, logits = oracle({"activation_function": "gelu"})
    other_checkpoints.write_nanogpt(
        tmp_path / "ckpt.pt", weights, config, use_relu=False, log_every=5
    )
    with pytest.raises(ValueError, match="derived from nanoGPT.*own: log_every.*ckpt.pt.*config="):
        load_language_model(tmp_path)
    fields = {**config, "activation_function": "gelu"}
    assert_same_logits(load_language_model(tmp_path, config=GPT2Config.from_dict(fields)), logits)


@pytest.mark.parametrize(
    ("checkpoint", "part"),
    [
        ({"model": {"a.b": 1}, "model_args": {}}, "under 'a.b' it holds a int, not a tensor"),
        ({"model": 3}, "not a checkpoint of nanoGPT"),
        ([1], "not a checkpoint of nanoGPT"),
        (
            {"model": {"a.b": torch.ones(1)}, "model_args": {"n_layer": 1}},
            "lack block_size, n_embd, n_head",
        ),
    ],
)
def test_damaged_nanogpt(tmp_path, checkpoint, part):
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match=f"ckpt.pt is not a readable checkpoint: .*{part}"):
        load_language_model(tmp_path)


def test_code_in_a_pickle_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"model": {}, "model_args": {"dropout": Evil()}}, tmp_path / "ckpt.pt")
    with pytest.raises(
        ValueError, match="ckpt.pt.*asks for `__builtin__.print`.*nothing was executed"
    ):
        load_language_model(tmp_path)


def test_mingpt(tmp_path):
    config, weights, logits = oracle({"tie_word_embeddings": False})
    other_checkpoints.write_mingpt(tmp_path, weights, config, attn_pdrop=0.25)
    model = load_language_model(tmp_path)
    assert_same_logits(model, logits)
    assert model.config.attn_pdrop == 0.25


@pytest.mark.parametrize(
    ("change", "part"),
    [({"model_type": "gpt-nan"}, "Did you mean 'gpt-nano'"), ({"n_head": None}, "lacks n_head")],
)
def test_mingpt_without_a_size(tmp_path, change, part):
    config, weights, _ = oracle()
    other_checkpoints.write_mingpt(tmp_path, weights, config, **change)
    with pytest.raises(ValueError, match=f"config.json.*{part}"):
        load_language_model(tmp_path)


@pytest.mark.long
def test_mingpt_adds(shared_data):
    """The real weights of minGPT's adder: all sums of two numbers below 100."""
    model = load_language_model(shared_data / "checkpoints" / "mingpt_adder")
    a, b = np.divmod(np.arange(10_000), 100)
    ids = np.stack([a // 10, a % 10, b // 10, b % 10], axis=1)
    for _ in range(3):  # the digits of the sum, the last one first
        ids = np.concatenate([ids, model(ids).logits.numpy()[:, -1:].argmax(-1)], axis=1)
    assert (ids[:, 4:] @ [1, 10, 100] == a + b).mean() == 1


def test_linear_layout_in_safetensors(tmp_path):
    from safetensors.torch import save_file

    config, weights, logits = oracle(biases=False)
    state = other_checkpoints.linear_state(weights, 24, bias=False)
    del state["lm_head.weight"]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same_logits(load_language_model(tmp_path), logits)


def test_a_single_missing_bias_is_an_error(checkpoint):
    for lost in ("transformer.ln_f.bias", "transformer.h.1.mlp.c_fc.bias"):
        folder = checkpoint(lambda w, lost=lost: {k: v for k, v in w.items() if k != lost})
        with pytest.raises(ValueError, match=re.escape(f"missing (1): {lost}")):
            load_language_model(folder)


@pytest.mark.parametrize("version", [3, 5])
def test_llm_c(tmp_path, version):
    change = as_bfloat16 if version == 5 else lambda weights: weights
    config, weights, logits = oracle(change=change)
    other_checkpoints.write_llm_c(tmp_path / "gpt2_124M.bin", weights, config, version)
    model = load_language_model(tmp_path / "gpt2_124M.bin")
    assert_same_logits(model, logits)
    assert model.config.vocab_size == cases.BASE["vocab_size"]  # without the rows that pad it
    report = convert(tmp_path / "gpt2_124M.bin", tmp_path / "new", progress=False)
    assert report.source_format == "llm_c"
    assert_same_logits(load_language_model(tmp_path / "new"), logits)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ({0: 20240327}, "debugging state of one training step, not a model.*Name the file"),
        ({0: 20240527}, "state of an optimizer"),
        ({1: 2}, r"version 3 \(float32\) or 5 \(bfloat16\).*version=2.*current llm.c"),
        ({7: 0}, "padded size"),
        ({2: -1}, "not possible"),
        ({3: 25}, "not possible"),
        ({4: 2**31 - 1}, "bytes; its header asks for"),
        ({6: 8}, "bytes; its header asks for"),
    ],
)
def test_damaged_llm_c(tmp_path, header, part):
    config = cases.config_of(cases.Case())
    path = tmp_path / "model.bin"
    other_checkpoints.write_llm_c(path, cases.weights(config), config, header=header)
    with pytest.raises(ValueError, match=part) as caught:
        load_language_model(path)
    assert "model.bin" in str(caught.value)


def test_llm_c_that_is_cut_short(tmp_path):
    config = cases.config_of(cases.Case())
    path = tmp_path / "model.bin"
    other_checkpoints.write_llm_c(path, cases.weights(config), config)
    whole = path.read_bytes()
    for size in (900, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="model.bin is not a readable checkpoint"):
            load_language_model(tmp_path)
