"""An export on random batches of texts and settings."""

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small export, reloaded without classes of the package."""
    import keras

    keras.utils.set_random_seed(0)
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    config = tfgpt2.GPT2Config(vocab_size=tokenizer.vocab_size, n_positions=48, n_embd=8, n_head=2,
                               n_layer=1, bos_token_id=0, eos_token_id=0,
                               initializer_range=0.4)  # fmt: skip
    generator = tfgpt2.TextGenerator(tfgpt2.TFGPT2LMHeadModel(config), tokenizer)
    path = tmp_path_factory.mktemp("models") / "1"
    generator.export(path, signatures=["generate", "score", "tokenize", "detokenize"], check=False,
                     jit_compile=False, batch_sizes=None, prompt_buckets=[48],
                     output_buckets=[16], max_new_tokens=16)  # fmt: skip
    return tf.saved_model.load(str(path))


def texts(draw, rows):
    pieces = [b"To be", b" or not", b"\n\n", b"", "日本".encode(), b"\xff\xfe", b"<|endoftext|>"]
    return [
        b"".join(pieces[draw.integers(len(pieces))] for _ in range(draw.integers(0, 6)))
        + draw.bytes(draw.integers(0, 5))
        for _ in range(rows)
    ]


def settings(draw, rows):
    """Settings for each row, sometimes far out of range."""
    extreme = draw.random() < 0.2
    low, high = (-5, 99) if extreme else (0, 17)

    def choose(usual, unusual=()):
        return draw.choice([*usual, *(unusual if extreme else ())], rows)

    return {
        "max_new_tokens": draw.integers(low, high, rows).astype("i4"),
        "min_new_tokens": draw.integers(0, 4, rows).astype("i4"),
        "temperature": choose([0, 0.5, 1, 3], [-1, np.nan, np.inf]).astype("f4"),
        "top_k": choose([0, 1, 5, 10**6], [-3]).astype("i4"),
        "top_p": choose([1, 0.9, 0.01], [0, -1, 7, np.nan]).astype("f4"),
        "min_p": choose([0, 0.1]).astype("f4"),
        "repetition_penalty": choose([1, 1.3], [0, -2]).astype("f4"),
        "seed": draw.integers(0, 2**63 - 1, rows),
    }


def call(signature, text, options, stop):
    return {
        name: value.numpy()
        for name, value in signature(
            text=tf.constant(text), stop=tf.constant(stop),
            **{k: tf.constant(v) for k, v in options.items()},
        ).items()
    }  # fmt: skip


def check_generated(found, rows):
    """Checks the first dimension, valid text, finite numbers, and zeros after the end."""
    assert {len(value) for value in found.values()} == {rows}
    for name in ("logprob", "token_logprobs"):
        assert np.isfinite(found[name]).all(), name
        assert (found[name] <= 1e-3).all(), name
    for text, raw in zip(found["text"], found["text_bytes"], strict=True):
        assert text.decode("utf-8") == raw.decode("utf-8", errors="replace")
    counts = found["num_tokens"]
    assert ((counts >= 0) & (counts <= 16)).all()
    ended = np.arange(found["token_logprobs"].shape[1])[None] >= counts[:, None]
    assert (found["token_logprobs"][ended] == 0).all()
    assert set(found["finish_reason"].tolist()) <= {
        b"length",
        b"eos",
        b"stop",
        b"error",
        b"invalid",
    }


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.long) for s in (1, 2, 3))])
def test_batches(seed, exported, generator, amount, count):
    draw, number = generator(seed), amount(12 if seed == 0 else 150)
    generate = exported.signatures["generate"]
    for case in range(number):
        rows = int(draw.integers(1, 6))
        text, options = texts(draw, rows), settings(draw, rows)
        stop = [[b"e", b""]] * rows if draw.random() < 0.3 else [[b""]] * rows
        where = f"seed {seed}, case {case}: {text} {options}"
        found = call(generate, text, options, stop)
        try:
            check_generated(found, rows)
            one = int(draw.integers(rows))  # rows are independent of the batch
            alone = call(generate, text[one : one + 1],
                         {k: v[one : one + 1] for k, v in options.items()},
                         stop[one : one + 1])  # fmt: skip
            assert alone["text_bytes"][0] == found["text_bytes"][one]
            np.testing.assert_allclose(alone["logprob"][0], found["logprob"][one], atol=1e-3)
            scored = exported.signatures["score"](text=tf.constant(text))
            assert all(np.isfinite(v).all() for v in scored.values() if v.dtype.is_floating)
            ids = exported.signatures["tokenize"](text=tf.constant(text))
            back = exported.signatures["detokenize"](ids=ids["ids"])
            assert all(t.decode() is not None for t in back["text"].numpy())
        except (AssertionError, UnicodeDecodeError) as error:
            raise AssertionError(f"{where}\n{error}") from error
    count("random batches through an export", number)
