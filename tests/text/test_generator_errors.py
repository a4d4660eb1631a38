"""Errors of `TextGenerator`: prompts, options, construction and loading."""

import numpy as np
import pytest

from tests.support import toy_text
from tfgpt2 import GenerationConfig, GPT2Config, TextGenerator, TFGPT2LMHeadModel


@pytest.mark.parametrize("prompts", [None, 5, [5], [["a"]], [None], {"a": 1}, [b"a", 3], 1.5,
                                     np.array([1, 2])])  # fmt: skip
def test_prompts_that_are_not_text(gen, prompts):
    message = "(?s)must be a string or a list.*Received: prompts=.*input_ids"
    with pytest.raises(TypeError, match=message):
        gen.generate(prompts)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"temprature": 1}, TypeError, r"no option 'temprature'.*temprature=1.*mean 'temperature'"),
    ({"output_scores": True}, TypeError, r"no option 'output_scores'"),
    ({"max_length": 9}, TypeError, r"no option 'max_length'"),
    ({"temperature": -1}, ValueError, r"`temperature` must be a number.*temperature=-1"),
    ({"top_p": 1.01}, ValueError, r"`top_p` must be"),
    ({"temperature": 1, "top_k": [1, 2, 3]}, ValueError, r"`top_k` must be one value or 2 values"),
    ({"top_k": 3}, ValueError, r"`top_k` acts on sampling only.*do_sample=True"),
    ({"max_new_tokens": 1.5}, TypeError, r"`max_new_tokens` must be an integer"),
    ({"max_new_tokens": "9"}, TypeError, r"`max_new_tokens` must be an integer"),
    ({"seed": -5}, ValueError, r"`seed` must be"),
    ({"stop": 5}, TypeError, r"`stop` must be a string.*stop=5"),
    ({"stop": [["a"]]}, TypeError, r"`stop` must be a string.*each of the 2 prompts"),
    ({"stop": "x" * 300}, ValueError, r"64 stop strings of 256 bytes"),
])  # fmt: skip
def test_invalid_options(gen, options, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        gen.generate(["a", "b"], **options)


def test_models_that_are_not_compatible(gen):
    with pytest.raises(TypeError, match="(?s)`model` must be a TFGPT2LMHeadModel.*model="):
        TextGenerator("gpt2", gen.tokenizer)
    config = GPT2Config(
        n_layer=1, n_embd=8, n_head=2, vocab_size=9, bos_token_id=1, eos_token_id=1
    )  # fmt: skip
    with pytest.warns(UserWarning, match="tokenizer has 267 ids and the model 9: texts"):
        TextGenerator(TFGPT2LMHeadModel(config), gen.tokenizer)
    with pytest.raises(ValueError, match="`assistant` must be a TFGPT2LMHeadModel with the"):
        TextGenerator(gen.model, gen.tokenizer, assistant=gen.tokenizer)
    with pytest.raises(TypeError, match="(?s)`tokenizer` must be a TFGPT2Tokenizer.*tokenizer="):
        TextGenerator(gen.model, None)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"on_long_prompt": "truncate"}, ValueError,
     "`on_long_prompt` must be one of.*mean 'truncate_left'"),
    ({"prefix": ""}, ValueError, "`prefix` must have two tokens or more"),
    ({"generation_config": {"top_k": 5}}, TypeError,
     r"`generation_config` must be a tfgpt2\.GenerationConfig"),
    *(({name: value}, ValueError, rf"`{name}` must be distinct integers in \[1, 64\]")
      for name in ("prompt_buckets", "output_buckets")
      for value in ([], [0], [65], [4, 4], 16, [1.5])),
])  # fmt: skip
def test_invalid_constructor_options(gen, options, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        TextGenerator(gen.model, gen.tokenizer, **options)


@pytest.mark.parametrize(("defaults", "options", "error", "message"), [
    ({"do_sample": True, "temperature": [1.0, 0.5]}, {}, ValueError,
     "The default of `temperature` must be one value"),
    ({"no_repeat_ngram_size": [1, 2]}, {}, ValueError,
     "The default of `no_repeat_ngram_size` must be one"),
    ({"num_beam_groups": 2}, {}, ValueError, "must be a multiple of `num_beam_groups`"),
    ({"penalty_alpha": 0.5, "top_k": 4}, {"prefix": "abc"}, ValueError,
     "(?s)a prefix keeps none.*prefix='abc'"),
    ({"stop_strings": 5}, {}, TypeError, "`stop_strings` must be"),
])  # fmt: skip
def test_invalid_default_options(gen, defaults, options, error, message):
    config = GenerationConfig.from_dict(defaults)
    with pytest.raises(error, match=message):
        TextGenerator(gen.model, gen.tokenizer, config, **options)


def test_invalid_arguments_of_from_pretrained(tmp_path):
    with pytest.raises(TypeError, match="(?s)no option 'onlong'.*onlong=1"):
        TextGenerator.from_pretrained(tmp_path, onlong=1)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        TextGenerator.from_pretrained(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("method", ["generate", pytest.param("stream", marks=pytest.mark.long)])
def test_nan_weights_raise(gen, method):
    model = toy_text.model(gen.tokenizer)
    model.transformer.ln_f.bias.assign(np.full(24, np.nan))
    broken = TextGenerator(model, gen.tokenizer, jit_compile=False)
    with pytest.raises(ValueError, match="(?s)scores are not numbers.*Check the weights"):
        list(getattr(broken, method)("a"))
