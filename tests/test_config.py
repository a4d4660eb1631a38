"""GPT2Config: every field, aliases, unknown keys, files, and errors."""

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgpt2 import GPT2Config
from tfgpt2.config_fields import ALIASES, FIELDS

# Copied by hand from transformers 4.57, configuration_gpt2.py.
DEFAULTS = {
    "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12,
    "n_inner": None, "activation_function": "gelu_new", "resid_pdrop": 0.1, "embd_pdrop": 0.1,
    "attn_pdrop": 0.1, "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
    "summary_type": "cls_index", "summary_use_proj": True, "summary_activation": None,
    "summary_proj_to_labels": True, "summary_first_dropout": 0.1, "scale_attn_weights": True,
    "use_cache": True, "bos_token_id": 50256, "eos_token_id": 50256,
    "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
    "add_cross_attention": False, "tie_word_embeddings": True, "output_attentions": False,
    "output_hidden_states": False, "return_dict": True, "pad_token_id": None, "num_labels": 2,
}  # fmt: skip
OTHER = {
    "vocab_size": 7, "n_positions": 9, "n_embd": 12, "n_layer": 3, "n_head": 4, "n_inner": 5,
    "activation_function": "relu", "resid_pdrop": 0, "embd_pdrop": 0.5, "attn_pdrop": 0.9,
    "layer_norm_epsilon": 1e-6, "initializer_range": 0, "summary_type": "mean",
    "summary_use_proj": False, "summary_activation": "tanh", "summary_proj_to_labels": False,
    "summary_first_dropout": 0.0, "scale_attn_weights": False, "use_cache": False,
    "bos_token_id": None, "eos_token_id": [1, 2], "scale_attn_by_inverse_layer_idx": True,
    "reorder_and_upcast_attn": True, "add_cross_attention": True, "tie_word_embeddings": False,
    "output_attentions": True, "output_hidden_states": True, "return_dict": False,
    "pad_token_id": 3, "num_labels": 5, "problem_type": "regression", "dtype": "float16",
    "task_specific_params": {"text-generation": {"do_sample": True}},
    "architectures": ["GPT2LMHeadModel"],
}  # fmt: skip


def test_defaults():
    config = GPT2Config()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS
    assert config.model_type == "gpt2" and config.use_return_dict
    assert config.head_size == 64 and config.inner_size == 3072


def test_every_field_is_kept(tmp_path):
    config = GPT2Config(**OTHER)
    assert {name: getattr(config, name) for name in OTHER} == OTHER
    assert config.inner_size == 5 and config.head_size == 3
    config.save_pretrained(tmp_path / "new" / "folder")
    for again in (
        GPT2Config.from_dict(config.to_dict()),
        GPT2Config.from_dict(json.loads(config.to_json_string())),
        GPT2Config.from_pretrained(tmp_path / "new" / "folder"),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
    ):
        assert again == config and again is not config
    assert config != GPT2Config() and config != "config"


def test_positional_arguments():
    config = GPT2Config(100, 20, 16, 2, 4)
    assert (config.vocab_size, config.n_positions, config.n_embd) == (100, 20, 16)
    assert (config.n_layer, config.n_head) == (2, 4)
    with pytest.raises(TypeError, match="one field twice"):
        GPT2Config(100, vocab_size=100)
    with pytest.raises(TypeError, match="too many positional"):
        GPT2Config(*range(40))


@pytest.mark.parametrize(
    "alias, name",
    [
        ("hidden_size", "n_embd"),
        ("max_position_embeddings", "n_positions"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
        ("n_ctx", "n_positions"),
    ],
)
def test_aliases(alias, name):
    config = GPT2Config(**{alias: 24})
    assert getattr(config, alias) == getattr(config, name) == 24
    setattr(config, alias, 36)
    assert getattr(config, name) == 36 and alias not in config.to_dict()
    # A file may hold both, as OpenAI's own do; the proper name counts.
    both = GPT2Config.from_dict({alias: 12, name: 24})
    assert getattr(both, name) == 24
    assert getattr(GPT2Config.from_dict({name: 24}, **{alias: 12}), name) == 12
    with pytest.raises(TypeError, match=f"`{name}` was given twice, under two of its names"):
        GPT2Config(**{alias: 12, name: 24})


def test_torch_dtype_is_dtype():
    assert GPT2Config.from_dict({"torch_dtype": "float16"}).dtype == "float16"
    assert GPT2Config(torch_dtype="bfloat16").torch_dtype == "bfloat16"


UNKNOWN_KEYS = {
    "made_by": "me", "nothing": None, "deep": {"a": [1, {"b": None}]}, "_name_or_path": "gpt2",
    "transformers_version": "4.57.6", "validate": 1, "to_dict": "x", "from_dict": [], "self": 0,
    "head_size": 5, "_unknown": 2, "model": True, "is_decoder": False,
}  # fmt: skip


def test_unknown_keys_are_kept(tmp_path):
    config = GPT2Config.from_dict({"n_layer": 2} | UNKNOWN_KEYS)
    assert config.made_by == "me" and config.nothing is None and config.head_size == 64
    config.made_by = "you"
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    again = GPT2Config.from_pretrained(tmp_path, n_layer=3)
    for values in (config.to_dict(), written, again.to_dict()):
        assert {name: values[name] for name in UNKNOWN_KEYS} == UNKNOWN_KEYS | {"made_by": "you"}
    assert again.n_layer == 3 and config.n_layer == 2
    again.deep["a"].clear()
    assert config.deep["a"] == [1, {"b": None}]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_any_unknown_keys_are_kept(unknown):
    known = {*FIELDS, *ALIASES, "num_labels", "model_type", "_attn_implementation"}
    unknown = {key: value for key, value in unknown.items() if key not in known}
    config = GPT2Config.from_dict(unknown)
    written = json.loads(config.to_json_string())
    assert {key: written[key] for key in unknown} == unknown
    assert GPT2Config.from_dict(written) == config


@pytest.mark.parametrize("make", [GPT2Config, lambda **kw: GPT2Config.from_dict({}, **kw)])
def test_unknown_names(make):
    with pytest.raises(TypeError, match="no field 'n_layers'. Received: n_layers=3. Did you mean"):
        make(n_layers=3)
    with pytest.raises(TypeError, match="Did you mean 'n_layer'"):
        make(n_layr=3)


def test_unknown_attributes():
    config = GPT2Config()
    with pytest.raises(AttributeError, match="no field 'pad_token'. .* mean 'pad_token_id'"):
        config.pad_token = 3
    with pytest.raises(AttributeError, match="no attribute 'n_lyer'"):
        config.n_lyer  # noqa: B018
    with pytest.raises(AttributeError):
        config.head_size = 3


SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
RATES = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout")
FLAGS = (
    *("summary_use_proj", "summary_proj_to_labels", "scale_attn_weights", "use_cache"),
    *("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "output_hidden_states"),
    *("output_attentions", "return_dict", "add_cross_attention", "tie_word_embeddings"),
)
HUGE = 10**400  # JSON holds it; no float does
WRONG_VALUES = [
    *((n, v) for n in SIZES for v in (0, -1, 1.5, "12", None, True, [3], 2**31, HUGE)),
    *((n, v) for n in RATES for v in (-0.1, 1, 1.0, "0.1", None, True, float("nan"), HUGE)),
    *((n, v) for n in FLAGS for v in (0, 1, "true", None, [])),
    *(("n_inner", v) for v in (0, -4, 2.5, "8", False, HUGE)),
    *(("activation_function", v) for v in (None, 3, ["gelu"])),
    *(("layer_norm_epsilon", v) for v in (0, -1e-5, "1e-5", None, float("inf"), HUGE)),
    *(("initializer_range", v) for v in (-0.1, "x", None, float("nan"))),
    *(("summary_type", v) for v in ("first_token", None, 3, ["mean"])),
    *(("summary_activation", v) for v in (3, True)),
    *(("bos_token_id", v) for v in (1.5, "0", True, [0])),
    ("pad_token_id", "0"),
    *(("eos_token_id", v) for v in (1.5, "0", [], [None], True)),
    *(("problem_type", v) for v in ("classification", 3)),
    *(("attn_implementation", v) for v in ("sdpa", 3)),
    *(("architectures", v) for v in ("GPT2Model", 3)),
    *(("pruned_heads", v) for v in ({0: 1}, {"x": [1]}, {0: ["a"]}, [], None)),
    *(("id2label", v) for v in ({"first": "a"}, ["a"], 3)),
    *(("label2id", v) for v in (["a"], 3)),
    *(("num_labels", v) for v in (0, -1, "2", True, 1_000_001, HUGE)),
    ("n_layer", 10_001),
    *(("dtype", v) for v in (16, ["float16"])),
    *(("task_specific_params", v) for v in ("x", [1])),
]


@pytest.mark.parametrize("name, value", WRONG_VALUES, ids=lambda v: str(v)[:12])
def test_wrong_values(name, value, tmp_path):
    with pytest.raises(ValueError, match=rf"`{name}`.* Received: .*{name}=.*\."):
        GPT2Config(**{name: value})
    if name == "attn_implementation":  # in a file, it names only its author's implementation
        return
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "gpt2", name: value}))
    with pytest.raises(ValueError, match=rf"`{name}`.*config.json"):
        GPT2Config.from_json_file(file)


def test_attention_kernel_of_a_file_is_dropped():
    for spelling in ("attn_implementation", "_attn_implementation"):
        config = GPT2Config.from_dict({spelling: "sdpa"})
        assert config.attn_implementation == "eager"
        assert "_attn_implementation" not in config.to_dict()


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="`n_head` must divide.*n_embd=10, n_head=3. Choose"):
        GPT2Config(n_embd=10, n_head=3)


def test_set_values_are_checked_again_by_validate():
    config = GPT2Config()
    config.n_layer = "many"
    with pytest.raises(ValueError, match="`n_layer`"):
        config.validate()


def test_labels():
    config = GPT2Config(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    named = GPT2Config(id2label={0: "no", 1: "yes"})
    assert named.num_labels == 2 and named.label2id == {"no": 0, "yes": 1}
    # JSON makes strings of the keys.
    again = GPT2Config.from_dict(json.loads(named.to_json_string()))
    assert again == named and again.id2label == {0: "no", 1: "yes"}
    assert GPT2Config.from_dict(named.to_dict(), num_labels=1).id2label == {0: "LABEL_0"}
    assert GPT2Config.from_dict(named.to_dict(), num_labels=2) == named
    assert GPT2Config(label2id={"a": 0, "b": 1, "c": 2}).id2label == {0: "a", 1: "b", 2: "c"}
    wider = GPT2Config.from_dict(named.to_dict(), id2label={0: "a", 1: "b", 2: "c"})
    assert wider.label2id == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[1, 2]", "expected a JSON object, found a list"),
        (b"null", "expected a JSON object"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"n_layer": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"model_type": "llama"}', "another architecture.*Received: model_type='llama'. Point"),
        (b'{"model_type": null}', "another architecture"),
        (b'{"n_layer": NaN}', "`n_layer`"),
    ],
)
def test_damaged_files(content, text, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=text) as caught:
        GPT2Config.from_pretrained(tmp_path)
    assert "config.json" in str(caught.value)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no file 'config.json'. Received: name="):
        GPT2Config.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="must be a dict of fields. Received: config_dict=3"):
        GPT2Config.from_dict(3)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="saved into a directory"):
        GPT2Config().save_pretrained(tmp_path / "file")


def test_transformers_agrees(tmp_path):
    transformers = pytest.importorskip("transformers")
    assert set(transformers.GPT2Config().to_dict()) >= set(DEFAULTS) - {"num_labels"}
    theirs = transformers.GPT2Config(n_layer=3, n_inner=7, pad_token_id=5)
    theirs.save_pretrained(tmp_path)
    ours = GPT2Config.from_pretrained(tmp_path)
    assert {n: getattr(theirs, n) for n in DEFAULTS} == {n: getattr(ours, n) for n in DEFAULTS}
    ours.save_pretrained(tmp_path / "ours")
    again = transformers.GPT2Config.from_pretrained(tmp_path / "ours")
    assert {n: getattr(theirs, n) for n in DEFAULTS} == {n: getattr(again, n) for n in DEFAULTS}


def test_fields_that_gpt2_does_not_read(tmp_path):
    """Programs for all models of transformers read them, and some set them."""
    config = GPT2Config()
    assert config.is_encoder_decoder is False and config.sep_token_id is None
    assert "is_encoder_decoder" not in config.to_dict() and config == GPT2Config()
    config = GPT2Config(finetuning_task="sst2", is_decoder=True)
    config.tokenizer_class = "GPT2Tokenizer"
    config.save_pretrained(tmp_path)
    again = GPT2Config.from_pretrained(tmp_path, prefix="To")
    assert (again.finetuning_task, again.is_decoder, again.prefix) == ("sst2", True, "To")
    assert again.tokenizer_class == "GPT2Tokenizer" and config.prefix is None
    with pytest.raises(ValueError, match="GPT-2 has no encoder"):
        GPT2Config(is_encoder_decoder=True)
