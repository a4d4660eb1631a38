"""`TextGenerator`: strings in, strings out, in Python and as a Keras layer."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tests.support import toy_text
from tfgpt2 import GenerationConfig, TextGenerator


@pytest.fixture(scope="module")
def gen():
    return toy_text.generator(jit_compile=False)


@pytest.fixture(scope="module")
def compiled():
    return toy_text.generator()


@pytest.fixture(scope="module")
def startless(gen):
    """The same model without a token to begin an empty text with."""
    tokens = toy_text.tokenizer()
    model = toy_text.model(tokens)
    model.config.bos_token_id = model.config.eos_token_id = None
    return TextGenerator(model, tokens, GenerationConfig(max_new_tokens=5), jit_compile=False)


SAMPLE = {"max_new_tokens": 10, "temperature": 1.0, "seed": 3}


def test_shapes_of_input(gen):
    one = gen.generate("abc", **SAMPLE)
    assert isinstance(one, str) and one
    assert gen.generate(["abc"], **SAMPLE) == [one] == gen.generate(("abc",), **SAMPLE)
    assert gen.generate(b"abc", **SAMPLE) == one == gen.generate(np.array(["abc"]), **SAMPLE)[0]
    assert gen.generate(tf.constant(["abc"]), **SAMPLE) == [one]
    assert gen.generate([], **SAMPLE) == [] == gen.generate([], details=True, seed=[])
    assert gen.generate("abc", details=True, **SAMPLE).text == one


def test_records(gen):
    records = gen.generate(["abc", "hello there"], details=True, max_new_tokens=[4, 9], seed=5,
                           temperature=[0.0, 1.0])  # fmt: skip
    for record, size, prompt in zip(records, (4, 9), (3, 8), strict=True):
        assert len(record.token_ids) == len(record.token_logprobs) == size
        assert (record.finish_reason, record.prompt_tokens, record.truncated) == (
            "length",
            prompt,
            0,
        )
        assert record.logprob == pytest.approx(sum(record.token_logprobs), rel=1e-5)
        assert record.text == record.text_bytes.decode("utf-8", "replace")
        bytes_of = gen.tokenizer.detokenize_bytes([record.token_ids]).numpy()[0]
        assert record.text_bytes == bytes_of
        ids = gen.tokenizer("abc" if prompt == 3 else "hello there")["input_ids"][0].numpy()
        every = np.concatenate([ids, record.token_ids])[None]
        logits = gen.model(every).logits.numpy()[0, prompt - 1 : -1].astype(float)
        chosen = logits[np.arange(size), record.token_ids] - np.log(np.exp(logits).sum(-1))
        np.testing.assert_allclose(record.token_logprobs, chosen, atol=1e-4)
    assert {field.name for field in dataclasses.fields(records[0])} == {
        "text", "text_bytes", "token_ids", "prompt_tokens", "truncated", "logprob",
        "token_logprobs", "finish_reason", "score", "top_logprobs",
    }  # fmt: skip
    assert records[0].score is records[0].top_logprobs is None


def test_rows_do_not_know_of_each_other(gen):
    prompts = ["a", "the longest of them all", "é", "", "\n\n"]
    options = {"temperature": [0, 1, 0.5, 1, 1], "top_k": [0, 9, 0, 0, 3], "seed": [1, 2, 3, 4, 5],
               "top_p": [1, 1, 0.9, 1, 1], "repetition_penalty": [1, 1.5, 1, 1, 1],
               "max_new_tokens": [9, 5, 12, 0, 17], "stop": [[], ["e"], [], [], ["a"]]}  # fmt: skip
    together = gen.generate(prompts, details=True, **options)
    for row, prompt in enumerate(prompts):
        one = {name: value[row : row + 1] for name, value in options.items()}
        alone = gen.generate([prompt], details=True, **one)[0]
        same = dataclasses.replace(alone, logprob=0.0, token_logprobs=[])
        assert same == dataclasses.replace(together[row], logprob=0.0, token_logprobs=[])
        np.testing.assert_allclose(alone.token_logprobs, together[row].token_logprobs, atol=1e-4)


def test_compiled_gives_the_same(gen, compiled):
    prompts = ["the cat", "é", "x" * 20, ""]
    options = {"temperature": [0, 1, 0.7, 1], "seed": 9, "top_k": [0, 0, 20, 5], "stop": "e",
               "max_new_tokens": 16}  # fmt: skip
    assert compiled.generate(prompts, **options) == gen.generate(prompts, **options)
    prompts = [prompt + "!" for prompt in prompts]
    options |= {"seed": [5, 6, 7, 8], "top_p": 0.8, "max_new_tokens": [3, 16, 9, 1]}
    assert compiled.generate(prompts, **options) == gen.generate(prompts, **options)


def test_seeds(gen):
    free = {"max_new_tokens": 12, "temperature": 1.0}
    many = gen.generate(["abc"] * 4, seed=7, **free)
    assert len(set(many)) == 4
    assert many == [gen.generate("abc", seed=7 + i, **free) for i in range(4)]
    assert gen.generate(["abc"] * 2, seed=[7, 7], **free) == [many[0]] * 2
    assert gen.generate(["abc"] * 2, seed=np.array([8, 7]), **free) == [many[1], many[0]]
    fresh = [text for seed in (None, -1, [-1, -1]) for text in
             gen.generate(["abc"] * 2, seed=seed, **free)]  # fmt: skip
    assert len(set(fresh)) == 6
    assert gen.generate("abc", seed=2**63 - 1, **free) != gen.generate("abc", seed=2**62, **free)


@pytest.mark.long
def test_fresh_seeds_ignore_the_global_one(gen):
    text, texts = tf.constant(["abc"]), set()
    config = GenerationConfig(do_sample=True, max_new_tokens=12)
    for _ in range(2):
        tf.random.set_seed(1)
        fresh = TextGenerator(gen.model, gen.tokenizer, config, jit_compile=False)
        texts.add(fresh(text).numpy()[0])
    assert len(texts) == 2


@pytest.mark.parametrize("text", [
    b"\xff\xfe", b"a\x00b", "\0", "\ud83d", "\ud83d\ude00", "a\ud800b", "😀é", "\u200b\ufeff", " ",
    "\n", b"\xf0\x9f\x98", "<|endoftext|>", "\U0010ffff",
])  # fmt: skip
def test_odd_prompts(gen, text):
    out = gen.generate([text], details=True, max_new_tokens=3)[0]
    assert len(out.token_ids) <= 3 and out.prompt_tokens >= 1
    clean = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    ids = gen.tokenizer(clean.decode("utf-8", "replace"))["input_ids"]
    assert out.prompt_tokens == ids.shape[1]
    assert (
        out == gen.generate([clean.decode("utf-8", "replace")], details=True, max_new_tokens=3)[0]
    )


def test_an_empty_prompt_begins_with_the_start_token(gen, startless):
    empty = gen.generate("", details=True, max_new_tokens=5)
    assert empty.prompt_tokens == 1
    assert empty == gen.generate("<|endoftext|>", details=True, max_new_tokens=5)
    with pytest.raises(
        ValueError, match="(?s)prompt is empty.*no start token.*prompt_number=1.*Give"
    ):
        startless.generate(["a", ""])
    assert startless.generate(["a"])[0]


def test_a_start_token_that_the_model_lacks_is_none(gen):
    model = toy_text.model(toy_text.tokenizer())
    model.config.bos_token_id = 50256
    other = TextGenerator(model, gen.tokenizer, GenerationConfig(bos_token_id=50256))
    with pytest.raises(ValueError, match="no start token"):
        other.generate("")


def test_long_prompts(gen):
    for size in (64, 65, 1000):
        with pytest.raises(ValueError, match=r"(?s)no room in the model's context of 64.*number"
                           r"=1.*truncate_left"):  # fmt: skip
            gen.generate(["ab", "a" * size])
    last = gen.generate("a" * 63, details=True, max_new_tokens=9, stop=[])
    assert (last.prompt_tokens, len(last.token_ids), last.finish_reason) == (63, 1, "length")
    left = TextGenerator(
        gen.model, gen.tokenizer, on_long_prompt="truncate_left", jit_compile=False
    )
    text = "0123456789" * 20
    for new, kept in ((9, 55), (0, 63), (1000, 32), (32, 32), (1, 63)):
        out = left.generate(["ab", text], details=True, max_new_tokens=new)
        assert [record.truncated for record in out] == [0, 200 - kept]
        assert out[1].prompt_tokens == kept
        same = left.generate(text[-kept:], details=True, max_new_tokens=min(new, 64 - kept))
        assert out[1].token_ids == same.token_ids


@pytest.mark.long
def test_a_prompt_beyond_the_largest_bucket_is_treated_as_too_long(gen):
    options = {"prompt_buckets": [8, 16], "jit_compile": False}
    small = TextGenerator(gen.model, gen.tokenizer, **options)
    with pytest.raises(ValueError, match="leaves no room"):
        small.generate("a" * 17)
    left = TextGenerator(gen.model, gen.tokenizer, on_long_prompt="truncate_left", **options)
    out = left.generate("b" + "a" * 16, details=True, max_new_tokens=3)
    assert (out.prompt_tokens, out.truncated) == (16, 1)
    assert out.token_ids == small.generate("a" * 16, details=True, max_new_tokens=3).token_ids
    few = TextGenerator(gen.model, gen.tokenizer, output_buckets=[4], jit_compile=False)
    assert len(few.generate("a", details=True, max_new_tokens=30).token_ids) == 4


def random_options(random):
    """Settings under which many endings occur."""
    stops = [
        b"\xc3",
        b"e",
        b"er",
        "é".encode(),
        b"\x98\x80",
        b"a",
        b"\x80",
        b"1",
        b"\xe5|",
        b"Sx",
        b":",
    ]
    chosen = [stops[i] for i in random.choice(len(stops), random.randint(0, 4), replace=False)]
    return {"max_new_tokens": int(random.randint(0, 40)), "temperature": float(random.rand() * 2),
            "top_k": int(random.randint(0, 40)), "seed": int(random.randint(1000)),
            "stop": chosen}  # fmt: skip


@pytest.mark.long
def test_pieces_joined_are_the_whole(gen):
    random, reasons, several = np.random.RandomState(0), set(), 0
    for case in range(60):
        prompt, options = "abcé the"[: random.randint(1, 8)], random_options(random)
        whole = gen.generate(prompt, details=True, **options)
        pieces = list(gen.stream(prompt, **options))
        assert "".join(pieces) == whole.text, (case, options)
        assert all(pieces) and not any("\ufffd" in p for p in pieces) or "\ufffd" in whole.text
        for stop in options["stop"]:
            assert stop not in whole.text_bytes
        text = b"".join(gen.tokenizer.token_bytes[token] if token < gen.tokenizer.vocab_size - 1
                        else b"" for token in whole.token_ids)  # fmt: skip
        assert text.startswith(whole.text_bytes)
        if whole.finish_reason == "stop":
            rest = text[len(whole.text_bytes) :]
            assert any(rest.startswith(stop) for stop in options["stop"])
        else:
            assert text == whole.text_bytes
        reasons.add(whole.finish_reason)
        several += len(pieces) > 2
    assert reasons >= {"length", "stop"} and several > 10


@pytest.mark.long
def test_a_compiled_stream(compiled, gen):
    options = {"max_new_tokens": 15, "temperature": 1.0, "seed": 4}
    assert "".join(compiled.stream("abc", **options)) == gen.generate("abc", **options)


def test_characters_are_never_cut(gen):
    """A model that writes one emoji after another, a part at a time."""
    tokens = toy_text.tokenizer()
    model = toy_text.model(tokens)
    halves = [tokens.token_to_id("ðŁ"), tokens.token_to_id("ĺĢ")]
    for weight in model.weights:
        weight.assign(tf.zeros_like(weight))
    # Each half of the character is followed by the other one.
    table = np.zeros(model.transformer.wte.weight.shape)
    table[halves[0], 0] = table[halves[1], 1] = 1.0
    places = np.zeros(model.transformer.wpe.weight.shape)
    places[0::2, 0] = places[1::2, 1] = 10.0
    model.transformer.wte.weight.assign(table)
    model.transformer.wpe.weight.assign(places)
    model.transformer.ln_f.weight.assign(np.ones(24))
    emoji = TextGenerator(model, tokens, jit_compile=False)
    pieces = list(emoji.stream("a", max_new_tokens=16))
    assert len(pieces) > 2 and set("".join(pieces)) == {"😀"}
    assert emoji.generate("a", max_new_tokens=3) == "😀\ufffd"
    assert "".join(emoji.stream("a", max_new_tokens=3)) == "😀\ufffd"
    assert emoji.generate("a", max_new_tokens=8, stop=["😀😀"]) == ""
    assert list(emoji.stream("a", max_new_tokens=8, stop=["😀😀"])) == []
    cut = emoji.generate("a", max_new_tokens=8, stop=[b"\x98"], details=True)
    assert (cut.text, cut.text_bytes, cut.finish_reason) == ("\ufffd", b"\xf0\x9f", "stop")


def test_end_tokens_end_and_are_no_text(gen):
    first = gen.generate("abc", details=True, max_new_tokens=6)
    config = GenerationConfig(eos_token_id=[first.token_ids[2], 5], max_new_tokens=6)
    ends = TextGenerator(gen.model, gen.tokenizer, config, jit_compile=False)
    out = ends.generate("abc", details=True)
    end = first.token_ids.index(first.token_ids[2]) + 1
    assert out.finish_reason == "eos" and out.token_ids == first.token_ids[:end]
    later = ends.generate("abc", details=True, min_new_tokens=end, max_new_tokens=end)
    assert later.finish_reason == "length" and config.eos_ids[0] not in later.token_ids
    model = toy_text.model(gen.tokenizer)
    model.generation_config = GenerationConfig(eos_token_id=gen.tokenizer.eos_token_id)
    bias = np.zeros(24)
    model.transformer.ln_f.weight.assign(np.zeros(24))
    bias[:] = model.transformer.wte.weight.numpy()[gen.tokenizer.eos_token_id] * 50
    model.transformer.ln_f.bias.assign(bias)
    out = TextGenerator(model, gen.tokenizer, jit_compile=False).generate("abc", details=True)
    assert (out.text, out.token_ids, out.finish_reason) == ("", [gen.tokenizer.eos_token_id], "eos")


def test_scores_are_those_of_the_model(gen):
    texts = ["hello there", "a", "", "é😀 the", "x" * 200]
    out = {name: value.numpy() for name, value in gen.scores(tf.constant(texts)).items()}
    for row, text in enumerate(texts):
        ids = gen.tokenizer.tokenize(text).numpy()[-64:]
        scored = max(len(ids) - 1, 0)
        assert out["num_tokens"][row] == scored
        assert out["truncated"][row] == max(0, len(gen.tokenizer.tokenize(text)) - 64)
        if not scored:
            assert out["logprob"][row] == 0 and out["perplexity"][row] == 1
            continue
        logits = gen.model(ids[None]).logits.numpy()[0, :-1].astype(float)
        chosen = logits[np.arange(scored), ids[1:]] - np.log(np.exp(logits).sum(-1))
        np.testing.assert_allclose(out["token_logprobs"][row, 1 : scored + 1], chosen, atol=1e-4)
        assert out["token_logprobs"][row, 0] == 0 == out["token_logprobs"][row, scored + 1 :].sum()
        np.testing.assert_allclose(out["logprob"][row], chosen.sum(), rtol=1e-4)
        np.testing.assert_allclose(out["perplexity"][row], np.exp(-chosen.mean()), rtol=1e-4)
    assert gen.scores(tf.constant([], tf.string))["token_logprobs"].shape[0] == 0


# As a Keras model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config():
    return GenerationConfig(max_new_tokens=6, stop_strings=["zz"], eos_token_id=5)


@pytest.fixture(scope="module")
def keras_gen(gen, config):
    return TextGenerator(gen.model, gen.tokenizer, config, jit_compile=False)


def test_call_and_functional_model(keras_gen):
    texts = tf.constant(["abc", "the"])
    expected = [text.encode() for text in keras_gen.generate(["abc", "the"])]
    assert keras_gen(texts).numpy().tolist() == expected
    assert keras_gen(tf.constant("abc")).numpy() == expected[0]
    assert keras_gen(tf.constant([], tf.string)).shape == (0,)
    text = keras.Input((), dtype="string")
    model = keras.Model(text, keras_gen(text))
    assert model(texts).numpy().tolist() == expected
    assert model.predict(texts, verbose=0).tolist() == expected


def test_map_of_a_dataset(keras_gen):
    texts = ["abc", "the", "é"]
    data = tf.data.Dataset.from_tensor_slices(texts).batch(2).map(keras_gen)
    found = [text for batch in data for text in batch.numpy()]
    assert found == [text.encode() for text in keras_gen.generate(texts)]


def test_keras_file(keras_gen, config, tmp_path):
    keras_gen.save(tmp_path / "generator.keras")
    again = keras.models.load_model(tmp_path / "generator.keras")
    assert again.generation_config == config and again.prompt_buckets == keras_gen.prompt_buckets
    assert again.generate(["abc", "é"]) == keras_gen.generate(["abc", "é"])


def test_files_of_transformers(keras_gen, config, tmp_path):
    keras_gen.save_pretrained(tmp_path)
    again = TextGenerator.from_pretrained(tmp_path, jit_compile=False)
    assert again.generation_config.stop_strings == ["zz"]
    assert again.generate(["abc", "é"]) == keras_gen.generate(["abc", "é"])


def test_weights_that_change_are_used():
    own = toy_text.generator(jit_compile=False)
    before = own.generate("abc", max_new_tokens=8)
    own.model.transformer.wte.weight.assign(own.model.transformer.wte.weight[::-1])
    assert own.generate("abc", max_new_tokens=8) != before


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [None, 5, [5], [["a"]], [None], {"a": 1}, [b"a", 3], 1.5,
                                     np.array([1, 2])])  # fmt: skip
def test_prompts_that_are_no_text(gen, prompts):
    with pytest.raises(
        TypeError, match="(?s)must be a string or a list.*Received: prompts=.*input_ids"
    ):
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
def test_options_that_are_refused(gen, options, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        gen.generate(["a", "b"], **options)


def test_streams_that_are_refused(gen):
    with pytest.raises(TypeError, match="(?s)stream.. continues one text.*generate"):
        gen.stream(["a", "b"])
    with pytest.raises(TypeError, match="no option 'temp'"):
        gen.stream("a", temp=1)  # at once, not at the first piece
    with pytest.raises(ValueError, match="leaves no room"):
        gen.stream("a" * 100)


def test_generators_that_are_refused(gen):
    model, tokens = gen.model, gen.tokenizer
    with pytest.raises(TypeError, match="(?s)`model` must be a TFGPT2LMHeadModel.*model="):
        TextGenerator("gpt2", tokens)
    with pytest.raises(TypeError, match="(?s)`tokenizer` must be a TFGPT2Tokenizer.*tokenizer="):
        TextGenerator(model, None)
    small = tfgpt2.TFGPT2LMHeadModel(
        tfgpt2.GPT2Config(
            n_layer=1, n_embd=8, n_head=2, vocab_size=9, bos_token_id=1, eos_token_id=1
        )
    )
    with pytest.raises(
        ValueError, match="(?s)does not fit the model.*tokenizer_vocab_size=267.*=9"
    ):
        TextGenerator(small, tokens)
    with pytest.raises(
        ValueError, match="(?s)`on_long_prompt` must be one of.*mean 'truncate_left'"
    ):
        TextGenerator(model, tokens, on_long_prompt="truncate")
    for name in ("prompt_buckets", "output_buckets"):
        for value in ([], [0], [65], [4, 4], 16, [1.5]):
            with pytest.raises(
                ValueError, match=rf"`{name}` must be distinct integers in \[1, 64\]"
            ):
                TextGenerator(model, tokens, **{name: value})
    with pytest.raises(TypeError, match=r"`generation_config` must be a tfgpt2\.GenerationConfig"):
        TextGenerator(model, tokens, {"top_k": 5})
    with pytest.raises(ValueError, match="The default of `temperature` must be one value"):
        TextGenerator(model, tokens, GenerationConfig(do_sample=True, temperature=[1.0, 0.5]))
    with pytest.raises(ValueError, match="The default of `no_repeat_ngram_size` must be one"):
        TextGenerator(model, tokens, GenerationConfig(no_repeat_ngram_size=[1, 2]))
    with pytest.raises(ValueError, match="must be a multiple of `num_beam_groups`"):
        TextGenerator(model, tokens, GenerationConfig.from_dict({"num_beam_groups": 2}))
    with pytest.raises(ValueError, match="`assistant` must be a TFGPT2LMHeadModel with the"):
        TextGenerator(model, tokens, assistant=tokens)
    with pytest.raises(ValueError, match="`prefix` must have two tokens or more"):
        TextGenerator(model, tokens, prefix="")
    with pytest.raises(ValueError, match="(?s)a prefix keeps none.*prefix='abc'"):
        config = GenerationConfig(penalty_alpha=0.5, top_k=4)
        TextGenerator(model, tokens, config, prefix="abc")
    with pytest.raises(TypeError, match="`stop_strings` must be"):
        TextGenerator(model, tokens, GenerationConfig(stop_strings=5))


def test_loading_that_is_refused(tmp_path):
    with pytest.raises(TypeError, match="(?s)no option 'onlong'.*onlong=1"):
        TextGenerator.from_pretrained(tmp_path, onlong=1)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        TextGenerator.from_pretrained(tmp_path)


def test_weights_that_are_no_numbers_are_told(gen):
    model = toy_text.model(gen.tokenizer)
    model.transformer.ln_f.bias.assign(np.full(24, np.nan))
    broken = TextGenerator(model, gen.tokenizer, jit_compile=False)
    for run in (broken.generate, lambda text: list(broken.stream(text))):
        with pytest.raises(ValueError, match="(?s)scores are not numbers.*Check the weights"):
            run("a")
