"""Perplexity compared to transformers' recipe in PyTorch, and computed by hand."""

import math

import numpy as np
import pytest

import tfgpt2
from tfgpt2.evaluation.perplexity import Window, perplexity, read_text, windows
from tfgpt2.evaluation.scoring import Scorer, ScoringRequest, continuation_request

TEXT = (
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n"
    "First Citizen:\nYou are all resolved rather to die than to famish?\n\nÉlan, naïve.\n\n"
)


def recipes():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.support import torch_recipes

    return torch_recipes


def compare(folder, load, text, max_length, stride, figure, label, batch_size=4, **options):
    model, tokenizer = load(folder)
    found = perplexity(
        *(model, tokenizer, text),
        **{"max_length": max_length, "stride": stride, "batch_size": batch_size},
        # XLA takes seconds per shape: only the test of slm4096 and the long one compile.
        **({"jit_compile": False} | options),
    )
    expected = recipes().perplexity(folder, text, max_length, stride)
    assert found.scored == expected["scored"]
    for ours, theirs in (
        (found.recipe_perplexity, expected["recipe"]),
        (found.perplexity, expected["exact"]),
        (found.nll / found.scored, expected["nll"] / expected["scored"]),
    ):
        figure(f"relative difference of perplexity from PyTorch: {label}", abs(ours / theirs - 1))
        assert ours == pytest.approx(theirs, rel=1e-4)
    return found


@pytest.mark.parametrize(("max_length", "stride"), [
    (64, 64), *(pytest.param(*one, marks=pytest.mark.long) for one in [(256, 100), (50, 13)])
])  # fmt: skip
def test_the_bundled_model_by_the_recipe(bundled, load, max_length, stride, figure):
    compare(bundled, load, TEXT * 3, max_length, stride, figure, "bundled")


@pytest.mark.parametrize(("max_length", "stride"), [
    pytest.param(128, 64, marks=pytest.mark.long), (128, 128)
])  # fmt: skip
def test_slm4096_by_the_recipe(shared_data, load, max_length, stride, figure):
    folder = shared_data / "checkpoints" / "slm4096"
    text = (folder / "corpus.txt").read_text()
    compare(folder, load, text, max_length, stride, figure, "slm4096", jit_compile=stride == 64)


@pytest.mark.long
def test_a_random_124m_shape_by_the_recipe(shared_data, tmp_path, figure):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(initializer_range=0.1))
    made.save_pretrained(tmp_path)
    vocab = shared_data / "gpt2_vocab"
    tokenizer = tfgpt2.GPT2Tokenizer(vocab / "vocab.json", vocab / "merges.txt")
    tokenizer.save_pretrained(tmp_path)
    text = (shared_data / "text" / "wiki.test.raw").read_text()[:9000]

    def load(folder):
        return (
            tfgpt2.TFGPT2LMHeadModel.from_pretrained(folder),
            tfgpt2.TFGPT2Tokenizer.from_pretrained(folder),
        )

    compare(tmp_path, load, text, 1024, 512, figure, "random 124M", batch_size=1,
            jit_compile=True)  # fmt: skip


@pytest.mark.long
def test_words_bytes_and_a_start_token(bundled, load):
    model, tokenizer = load(bundled)
    found = perplexity(model, tokenizer, TEXT, jit_compile=False)
    assert found.words == len(TEXT.split()) + 1  # white space at the end adds an empty word
    assert found.bytes == len(TEXT.encode()) > len(TEXT)
    assert found.word_perplexity == pytest.approx(math.exp(found.nll / found.words))
    assert found.bits_per_byte == pytest.approx(math.log2(found.byte_perplexity))
    started = perplexity(model, tokenizer, TEXT, start_token=True, jit_compile=False)
    assert started.scored == started.tokens == found.tokens == found.scored + 1
    assert started.nll != found.nll


@pytest.mark.long
def test_a_file_and_its_text_give_the_same_result(bundled, load, tmp_path):
    (tmp_path / "text.txt").write_bytes(TEXT.encode())
    model, tokenizer = load(bundled)
    one, two = (
        perplexity(model, tokenizer, source, batch_size=1, jit_compile=False)
        for source in (tmp_path / "text.txt", TEXT)
    )
    assert one == two


def test_windows_score_every_token_once():
    for tokens, length, stride in [(10, 4, 3), (5, 8, 4), (9, 4, 4), (100, 16, 1)]:
        cuts = list(windows(tokens, length, stride))
        assert sum(cut.labels for cut in cuts) == tokens == cuts[-1].end
        assert all(cut.end - cut.begin <= length and cut.labels >= 1 for cut in cuts)
    assert next(windows(3, 8, 8)) == Window(0, 3, 3)


@pytest.mark.long
def test_padding_batches_and_modes_change_nothing(bundled, load):
    model, _ = load(bundled)
    rng = np.random.default_rng(0)
    requests = []
    for length, count in [(3, 1), (20, 20), (256, 5), (17, 2), (1, 1)]:
        ids = rng.integers(0, 1024, length + 1).tolist()
        requests.append(ScoringRequest(ids[:-1], ids[-count:]))
    together = Scorer(model, batch_size=3, jit_compile=False).score(requests)
    for request, one in zip(requests, together, strict=True):
        logits = model(np.array([request.inputs])).logits.numpy()[0, -len(request.targets) :]
        logprobs = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
        expected = logprobs[np.arange(len(request.targets)), request.targets]
        np.testing.assert_allclose(one.logprobs, expected, atol=1e-4)
        best = int(logits[-1].argmax())
        likeliest = ScoringRequest(request.inputs, [*request.targets[:-1], best])
        if len(request.targets) == 1:
            assert Scorer(model, batch_size=1, jit_compile=False).score([likeliest])[0].greedy
    assert not any(one.greedy for one in together)


def test_a_continuation_is_truncated_to_the_context():
    assert continuation_request([1, 2, 3], [4, 5], 4) == ScoringRequest([1, 2, 3, 4], [4, 5])
    assert continuation_request([1, 2, 3], [4, 5, 6], 3) == ScoringRequest([3, 4, 5], [4, 5, 6])
    for context, targets in (([], [1]), ([1], []), ([1], [1, 2, 3, 4])):
        with pytest.raises(ValueError, match="1 to 3 tokens, and follow at least one"):
            continuation_request(context, targets, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 300}, r"`max_length` must be in \[2, 256\]"),
        ({"max_length": 257}, r"`max_length` must be in \[2, 256\]"),
        ({"stride": 0}, "`stride` must be an integer of at least 1"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1"),
        ({"source": "a"}, "at least two tokens"),
        ({"source": b"a b"}, "The text must be a str"),
    ],
)
def test_errors_of_bad_input(bundled, load, options, message):
    model, tokenizer = load(bundled)
    source = options.pop("source", TEXT)
    with pytest.raises((ValueError, TypeError), match=message):
        perplexity(model, tokenizer, source, **options)


def test_errors_of_bad_files(bundled, load, tmp_path):
    model, tokenizer = load(bundled)
    with pytest.raises(FileNotFoundError, match="no such file"):
        perplexity(model, tokenizer, tmp_path / "absent.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 noir")
    with pytest.raises(ValueError, match="not UTF-8.*at byte 3"):
        perplexity(model, tokenizer, tmp_path / "latin.txt")
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbfTo be, or not")
    assert read_text(tmp_path / "marked.txt") == "To be, or not"  # no byte-order mark
    with pytest.raises(TypeError, match="must score tokens"):
        perplexity(tfgpt2.TFGPT2Model(tfgpt2.GPT2Config(n_layer=1, n_embd=8, n_head=2,
                   vocab_size=1024)), tokenizer, TEXT)  # fmt: skip
