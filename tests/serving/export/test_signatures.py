"""The signatures as functions: against PyTorch, on all shapes of batches, and many at a time."""

import concurrent.futures

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tests.support import toy_text
from tfgpt2 import GenerationConfig
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.hub import Repository
from tfgpt2.serving import Batching
from tfgpt2.serving.export.signatures import registry
from tfgpt2.serving.export.signatures.base import SignatureOptions
from tfgpt2.serving.export.signatures.generate import count_stop_tables

TEXTS = ["ROMEO:\nBut soft, what light", "", "Thy naïve 😀 heart", "a"]
RAGGED = ("serving_default", "generate", "inspect")  # those with ragged outputs
SCORING = ("score", "next_token", "embed", "inspect")
DEFAULTS = GenerationConfig(max_new_tokens=5)


@pytest.fixture(scope="module")
def gen():
    return toy_text.generator(generation_config=DEFAULTS, jit_compile=False)


@pytest.fixture(scope="module")
def parts(gen):
    """Signatures that run batches of 1 or 3 rows only."""
    return build(gen, SignatureOptions(names=RAGGED, batch_sizes=(1, 3), top=4, inspect_top=2))


@pytest.fixture(scope="module")
def plain(gen):
    return build(gen, SignatureOptions(top=4, inspect_top=2))


def build(generator, options):
    return registry.build(registry.create(generator, options))


def call(functions, name, text, **settings):
    """Calls a signature; `generate` gets every setting, since each subset is a trace of its own."""
    text = tf.constant(text, tf.string, [len(text)])
    if name == "generate" and len(functions[name].input_signature) > 5:
        usual = {key: REQUEST_OPTIONS[key].off for key in REQUEST_OPTIONS} | {"stop": [[""]]}
        settings = usual | {"max_new_tokens": 5} | settings
    tensors = {
        key: tf.constant(np.reshape(value, [-1]), REQUEST_OPTIONS[key].dtype)
        for key, value in settings.items()
        if key != "stop"
    }
    if "stop" in settings:
        tensors["stop"] = tf.constant(settings["stop"], tf.string)
    return {key: value.numpy() for key, value in functions[name](text, **tensors).items()}


def assert_same_outputs(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].shape == value.shape, key
        if value.dtype.kind == "f":
            np.testing.assert_allclose(found[key], value, atol=2e-5, rtol=2e-4, err_msg=key)
        else:
            np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.fixture(scope="module")
def bundled():
    return tfgpt2.TextGenerator.from_pretrained("shakespeare-tiny", jit_compile=False)


@pytest.fixture(scope="module")
def torch_results(bundled):
    """Per text, PyTorch's hidden states and logits of the bundled checkpoint; tokens by host."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    directory = Repository("shakespeare-tiny").find("config.json").parent
    model = transformers.GPT2LMHeadModel.from_pretrained(directory).float().eval()
    tokenizer = tfgpt2.GPT2TokenizerFast.from_pretrained(directory)
    results = []
    for text in TEXTS:
        ids = tokenizer.encode(text) or [bundled.pipeline.start_id]
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_hidden_states=True)
        logprobs = torch.log_softmax(out.logits[0].double(), dim=-1).numpy()
        results.append((ids, out.hidden_states[-1][0].numpy(), logprobs))
    return results


def test_against_pytorch(bundled, torch_results):
    """next_token, embed and inspect, with prompts of different lengths in one batch."""
    functions = build(bundled, SignatureOptions(names=("next_token", "embed", "inspect")))
    token_bytes = bundled.tokenizer.token_bytes
    following = call(functions, "next_token", TEXTS)
    vectors = call(functions, "embed", TEXTS)
    seen = call(functions, "inspect", TEXTS)
    assert following["token_ids"].shape == (4, 10) and seen["top_bytes"].shape[2] == 5
    for row, (ids, hidden, logprobs) in enumerate(torch_results):
        best = np.argsort(-logprobs[-1], kind="stable")[:10]
        assert following["token_ids"][row].tolist() == best.tolist()
        np.testing.assert_allclose(following["logprobs"][row], logprobs[-1][best], atol=1e-4)
        np.testing.assert_allclose(
            following["probabilities"][row], np.exp(logprobs[-1][best]), atol=1e-5
        )
        raw = [token_bytes[token] for token in best]
        assert following["token_bytes"][row].tolist() == raw
        texts = [one.decode("utf-8", "replace").encode() for one in raw]
        assert following["tokens"][row].tolist() == texts
        np.testing.assert_allclose(vectors["last"][row], hidden[-1], atol=1e-4)
        np.testing.assert_allclose(vectors["mean"][row], hidden.mean(0), atol=1e-4)
        count = len(ids) if TEXTS[row] else 0
        assert seen["num_tokens"][row] == vectors["num_tokens"][row] == count
        assert b"".join(seen["token_bytes"][row]) == TEXTS[row].encode()
        assert seen["ranks"][row, 0] == 0 and not np.any(seen["ranks"][row, count:])
        for place in range(1, count):
            before = logprobs[place - 1]
            rank = 1 + np.sum(before > before[ids[place]])
            assert seen["ranks"][row, place] == rank
            np.testing.assert_allclose(
                seen["token_logprobs"][row, place], before[ids[place]], atol=1e-4
            )
            best = np.argsort(-before, kind="stable")[:5]
            assert seen["top_bytes"][row, place].tolist() == [token_bytes[i] for i in best]
            np.testing.assert_allclose(
                seen["top_probabilities"][row, place], np.exp(before[best]), atol=1e-5
            )


@pytest.mark.long
def test_batches_are_padded_or_run_in_parts(parts, plain):
    """0 to 7 rows, where the core sees 1 or 3: the answers are those of the plain functions."""
    texts = ["abc", "", "the er", "é😀", "a" * 200, "x", "\n\n"]
    for count in (0, 2, 7):
        assert_same_outputs(
            call(parts, "inspect", texts[:count]), call(plain, "inspect", texts[:count])
        )
        settings = {"max_new_tokens": [3, 9, 0, 5, 2, 1, 4][:count] or [4], "seed": [7],
                    "temperature": [0.0, 1.0, 0.5, 1.0, 0.0, 1.0, 1.0][:count] or [1.0],
                    "stop": [["e", "zz"]]}  # fmt: skip
        found = call(parts, "generate", texts[:count], **settings)
        assert_same_outputs(found, call(plain, "generate", texts[:count], **settings))
        assert_same_outputs(call(parts, "serving_default", texts[:count]),
             call(plain, "serving_default", texts[:count]))  # fmt: skip


@pytest.fixture
def sizes(gen, monkeypatch):
    """Numbers of rows that the core of `score` sees, which is replaced by something quick."""
    found = []

    def scores(text):
        noted = tf.py_function(lambda rows: found.append(int(rows)), [tf.size(text)], [])
        with tf.control_dependencies([noted]):
            count = tf.identity(tf.strings.length(text))
        values = tf.ones([tf.size(text), 1])
        return {"num_tokens": count, "text_tokens": count, "token_logprobs": values}

    monkeypatch.setattr(gen.pipeline, "score", scores)
    return found


def test_the_core_sees_no_other_sizes(gen, sizes):
    functions = build(gen, SignatureOptions(names=("score",), batch_sizes=(2, 5)))
    for rows in (0, 1, 2, 3, 12):
        found = call(functions, "score", ["a" * (n + 1) for n in range(rows)])
        assert found["num_tokens"].tolist() == list(range(1, rows + 1))
    assert sizes == [2, 2, 2, 5, 5, 5, 2]  # 12 rows are 5, 5 and 2


def test_numbers_are_finite_and_rows_are_counted(plain):
    texts = [b"\xff\xfe\x00", b"a" * 500, b"", "é😀".encode()]
    for name in SCORING:
        for key, value in call(plain, name, texts).items():
            assert value.shape[0] == 4, (name, key)
            if value.dtype.kind == "f":
                assert np.isfinite(value).all(), (name, key)
    following, seen = call(plain, "next_token", texts), call(plain, "inspect", texts)
    for raw in following["tokens"].ravel():
        raw.decode()
    assert following["token_ids"].shape == (4, 4) and seen["top_bytes"].shape == (4, 64, 2)
    assert following["truncated"].tolist() == seen["truncated"].tolist() == [0, 436, 0, 0]
    assert following["prompt_tokens"].tolist()[1:3] == [64, 1]  # the start token stands for ""
    assert seen["num_tokens"].tolist()[1:3] == [64, 0]


@pytest.mark.long
def test_nothing_to_go_by_gives_zeros(gen):
    model = toy_text.model(gen.tokenizer)
    model.config.bos_token_id = model.config.eos_token_id = None
    bare = tfgpt2.TextGenerator(model, gen.tokenizer, DEFAULTS, jit_compile=False)
    functions = build(bare, SignatureOptions(names=SCORING, top=3))
    following = call(functions, "next_token", ["", "a"])
    assert not following["probabilities"][0].any() and following["probabilities"][1].any()
    assert following["tokens"][0].tolist() == [b""] * 3 and following["prompt_tokens"][0] == 0
    vectors = call(functions, "embed", ["", "a"])
    assert not vectors["last"][0].any() and not vectors["mean"][0].any()
    assert call(functions, "inspect", ["", "a"])["num_tokens"].tolist() == [0, 1]


@pytest.mark.long
def test_inputs_are_chosen(gen, plain):
    """An export may take fewer settings, in its own order; the others keep their defaults."""
    options = SignatureOptions(names=("generate",), inputs=("seed", "max_new_tokens"))
    function = build(gen, options)["generate"]
    assert [spec.name for spec in function.input_signature] == [
        "text", "seed", "max_new_tokens", "stop",
    ]  # fmt: skip
    found = call({"generate": function}, "generate", ["abc"], max_new_tokens=3)
    assert found["num_tokens"].tolist() == [3]
    assert_same_outputs(found, call(plain, "generate", ["abc"], max_new_tokens=3))


@pytest.mark.long
def test_stop_limits(gen, plain):
    options = SignatureOptions(names=("generate",), stop_limits=(1, 2))
    function = {"generate": build(gen, options)["generate"]}
    free = call(plain, "generate", ["abc"], max_new_tokens=9)["text_bytes"][0]
    first, second = free[2:4], free[3:5]
    for stop, expected in (
        ([[first]], call(plain, "generate", ["abc"], max_new_tokens=9, stop=[[first]])),
        ([["\x00", second]], None),  # beyond the first
        ([[free[2:5]]], None),  # too long
    ):
        found = call(function, "generate", ["abc"], max_new_tokens=9, stop=stop)
        expected = expected or call(plain, "generate", ["abc"], max_new_tokens=9)
        assert_same_outputs(found, expected)
    assert [count_stop_tables(limits) for limits in ((1, 16), (2, 16), (64, 256))] == [
        1,
        2,
        12,
    ]


@pytest.mark.long
def test_concurrent_requests_share_batches_and_keep_their_rows(gen, plain):
    """In-graph batching: 16 requests from 8 threads, each with settings of its own."""
    options = SignatureOptions(
        names=("generate", "inspect"), batch_sizes=(1, 2, 4, 8),
        batching=Batching("graph", batch_timeout_micros=50_000, num_batch_threads=1), inspect_top=2,
    )  # fmt: skip
    function = build(gen, options)
    random = np.random.RandomState(3)
    requests = []
    for number in range(16):
        rows = int(random.randint(1, 4))
        texts = ["".join(random.choice(list("abc thér\n"), random.randint(0, 20)))
                 for _ in range(rows)]  # fmt: skip
        settings = {
            "max_new_tokens": random.randint(0, 12, rows), "seed": random.randint(0, 99, rows),
            "temperature": random.choice([0.0, 1.0], rows), "top_k": random.choice([0, 3], rows),
            "stop": [["e"], ["", "th", "q"]][number % 2 : number % 2 + 1],
        }  # fmt: skip
        requests.append((texts, settings))
    alone = [call(plain, "generate", texts, **settings) for texts, settings in requests]
    alone_inspected = [call(plain, "inspect", texts) for texts, _ in requests]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(call, function, "generate", t, **s) for t, s in requests]
        seen = [pool.submit(call, function, "inspect", t) for t, _ in requests]
        for job, expected in zip(jobs + seen, alone + alone_inspected, strict=True):
            assert_same_outputs(job.result(), expected)
    assert_same_outputs(call(function, "generate", []), call(plain, "generate", []))
    # One request larger than a batch is split, and comes back whole.
    many = ["abc", "", "the"] * 7
    assert_same_outputs(call(function, "inspect", many), call(plain, "inspect", many))


def test_requests_really_share_a_batch(gen, sizes):
    batching = Batching("graph", batch_timeout_micros=2_000_000)
    options = SignatureOptions(names=("score",), batch_sizes=(1, 2, 4), batching=batching)
    functions = build(gen, options)
    functions["score"].get_concrete_function()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: call(functions, "score", ["a" * n]), (1, 2, 3, 4)))
    assert [int(one["num_tokens"][0]) for one in results] == [1, 2, 3, 4]
    assert sizes == [4]  # four requests, one batch
    found = call(functions, "score", ["a" * n for n in range(9)])
    assert found["num_tokens"].tolist() == list(range(9)) and sizes == [4, 4, 4, 1]
