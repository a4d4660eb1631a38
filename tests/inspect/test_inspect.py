"""Inspection: values equal those of the model and of PyTorch, and files are escaped safely."""

import base64
import dataclasses
import html.parser
import json
import re
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

import tfgpt2
from tfgpt2 import GPT2Config, TFGPT2LMHeadModel, TFGPT2Tokenizer
from tfgpt2.inspect import attention_maps, layer_logits, logit_lens, surprise
from tfgpt2.inspect.tokens import label

TEXT = "To be, or not to be: that is the question."
MARKUP = "<b>&amp;</b> $x$ caf\u00e9 \u4e2d \U0001f600\u202e</script>\n\t\"'"


@pytest.fixture(scope="module")
def bundled():
    return (
        TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny"),
        TFGPT2Tokenizer.from_pretrained("shakespeare-tiny"),
    )


@pytest.fixture(scope="module")
def found(bundled):
    functions = attention_maps, surprise, logit_lens
    return {text: [f(*bundled, text) for f in functions] for text in (TEXT, MARKUP)}


def test_attention_is_the_models_own(bundled, found):
    model, tokenizer = bundled
    maps = found[TEXT][0]
    out = model(**tokenizer(TEXT), output_attentions=True)
    assert len(maps.weights) == 6
    for ours, theirs in zip(maps.weights, out.attentions, strict=True):
        np.testing.assert_array_equal(ours, theirs[0])
        np.testing.assert_allclose(ours.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(maps.head(2, 3), out.attentions[2][0, 3])
    assert b"".join(maps.tokens).decode() == TEXT


def test_surprise_is_the_score_of_the_text(bundled, found):
    model, tokenizer = bundled
    seen = found[TEXT][1]
    scores = tfgpt2.TextGenerator(model, tokenizer, jit_compile=False).pipeline.score(
        tf.constant([TEXT])
    )
    np.testing.assert_allclose(seen.logprob, scores["logprob"][0], rtol=1e-5)
    np.testing.assert_allclose(seen.logprobs, scores["token_logprobs"][0], atol=1e-4)
    logits = model(seen.ids[None]).logits[0].numpy()
    for place in range(1, len(seen.ids)):
        chosen = logits[place - 1, seen.ids[place]]
        assert seen.ranks[place] == 1 + (logits[place - 1] > chosen).sum()
        expected = tf.nn.softmax(logits[place - 1]).numpy()
        best = np.argsort(-expected)[:5]
        np.testing.assert_allclose(seen.top_probabilities[place], expected[best], atol=1e-5)
        assert seen.top_tokens[place] == tuple(tokenizer.token_bytes[i] for i in best)
    assert seen.logprobs[0] == seen.ranks[0] == seen.probabilities[0] == 0
    assert seen.top_tokens[0] == ()


def test_the_last_layer_of_the_lens_is_the_model(bundled, found):
    model, _ = bundled
    lens = found[TEXT][2]
    layers = list(layer_logits(model, lens.ids[None]))
    out = model(lens.ids[None], output_hidden_states=True)
    assert len(layers) == 7
    np.testing.assert_array_equal(layers[-1], out.logits)
    # By hand: layer norm and product with the token table.
    state = out.hidden_states[3][0].numpy()
    gamma, beta = (np.asarray(w) for w in model.transformer.ln_f.weights)
    normed = (state - state.mean(-1, keepdims=True)) / np.sqrt(state.var(-1, keepdims=True) + 1e-5)
    by_hand = (normed * gamma + beta) @ np.asarray(model.get_output_embeddings().weight).T
    np.testing.assert_allclose(layers[3][0], by_hand, atol=1e-3)
    probabilities = tf.nn.softmax(by_hand).numpy()
    np.testing.assert_array_equal(lens.top_ids[3], np.argsort(-probabilities)[:, :3])
    np.testing.assert_allclose(
        lens.top_probabilities[3], -np.sort(-probabilities)[:, :3], atol=1e-4
    )
    np.testing.assert_allclose(lens.next_logprobs[-1], found[TEXT][1].logprobs[1:], atol=1e-4)
    np.testing.assert_array_equal(lens.next_ranks[-1], found[TEXT][1].ranks[1:])


def test_pytorch_gives_the_same_values(shared_data):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = shared_data / "checkpoints" / "slm4096"
    text = (folder / "corpus.txt").read_text()[300:420]
    model = TFGPT2LMHeadModel.from_pretrained(folder)
    tokenizer = TFGPT2Tokenizer.from_pretrained(folder)
    seen, maps = surprise(model, tokenizer, text), attention_maps(model, tokenizer, text)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        out = theirs.eval()(
            torch.tensor(seen.ids[None].astype(np.int64)),
            output_attentions=True,
            output_hidden_states=True,
        )
        logprobs = torch.log_softmax(out.logits[0, :-1], -1).numpy()
        middle = theirs.lm_head(theirs.transformer.ln_f(out.hidden_states[2]))
    expected = logprobs[np.arange(len(seen.ids) - 1), seen.ids[1:]]
    np.testing.assert_allclose(seen.logprobs[1:], expected, atol=1e-4)
    np.testing.assert_allclose(seen.logprob, expected.sum(), atol=1e-4)
    for ours, layer in zip(maps.weights, out.attentions, strict=True):
        np.testing.assert_allclose(ours, layer[0], atol=1e-5)
    np.testing.assert_allclose(list(layer_logits(model, seen.ids[None]))[2], middle, atol=1e-3)


def test_a_start_token_gives_the_first_token_a_probability(bundled):
    model, tokenizer = bundled
    plain, started = (surprise(*bundled, "ROMEO:", start_token=start) for start in (False, True))
    assert started.tokens == (b"<|endoftext|>", *plain.tokens)
    chance = tf.nn.softmax(model(tf.constant([[0]])).logits[0, 0])[plain.ids[0]]
    np.testing.assert_allclose(started.probabilities[1], chance, rtol=1e-4)
    alone = surprise(*bundled, "", start_token=True)
    assert alone.logprob == 0 and len(alone.ids) == 1
    assert logit_lens(*bundled, "", start_token=True).next_ranks.shape == (7, 0)
    assert attention_maps(*bundled, "", start_token=True).head(0, 0).tolist() == [[1.0]]


def test_incomplete_characters_are_shown_as_bytes(bundled):
    found = surprise(*bundled, "\U0001f600")
    assert b"".join(found.tokens) == "\U0001f600".encode() and len(found.tokens) == 4
    assert [label(token) for token in found.tokens] == ["\\xf0", "\\x9f", "\\x98", "\\x80"]
    assert label(" \n\tü\u202e".encode()) == "\u00b7\u21b5\u2192ü\\u202e"


class Page(html.parser.HTMLParser):
    """Elements, links and text of a page."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.links, self.text = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("number", range(3))
def test_pages_escape_the_text_and_load_nothing(number, found, tmp_path):
    sizes = []
    for text in (TEXT, MARKUP):
        path = found[text][number].save(tmp_path / "deep" / "page.html")
        source = path.read_text(encoding="utf-8")
        page = Page(source)
        assert page.links == [] and not re.search(r"https?:|@import|url\(", source)
        assert "default-src 'none'" in source
        assert "\u202e" not in source
        sizes.append({tag: page.elements.count(tag) for tag in ("b", "script", "html")})
    # Tags in the text are not elements: only the second text contains `<b>` and `</b>`.
    assert sizes[0]["script"] == sizes[1]["script"] and sizes[1]["html"] == 1
    if number == 1:
        words = "".join(page.text)
        assert "<" in words and sizes[1]["b"] == len(found[MARKUP][1].ids) - 1  # those of the cards


def test_the_page_of_attention_holds_the_weights(found, tmp_path):
    maps = found[TEXT][0]
    source = maps.save(tmp_path / "a.html", layer=4, head=6).read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', source)[1])
    assert data["chosen"] == [4, 6] and data["tokens"][1] == "\u00b7be"
    row = np.frombuffer(base64.b64decode(data["layers"][4][6]), np.uint8) / 255
    np.testing.assert_allclose(row, maps.head(4, 6)[np.tril_indices(len(maps.ids))], atol=0.002)


def test_a_token_cannot_end_the_script_element():
    from tfgpt2.inspect.render.pages import _json

    assert "<" not in _json(["</script>"]) and json.loads(_json(["</script>"])) == ["</script>"]


def test_figures_are_drawn(found, tmp_path):
    pytest.importorskip("matplotlib")
    for number in range(3):
        path = found[MARKUP][number].save(tmp_path / f"{number}.png", dpi=40)
        assert _pixels(path).std() > 10  # not a single color
    one = found[TEXT][0].save(tmp_path / "one.png", layer=0, head=1, dpi=40)
    assert _pixels(one).std() > 10


def _pixels(path):
    """The bytes of a PNG's rows."""
    data, parts, place = path.read_bytes(), [], 8
    assert data.startswith(b"\x89PNG")
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] == b"IDAT":
            parts.append(data[place + 8 : place + 8 + size])
        place += 12 + size
    return np.frombuffer(zlib.decompress(b"".join(parts)), np.uint8)


def test_long_texts_make_small_maps():
    pytest.importorskip("matplotlib")
    from tfgpt2.inspect.render.figures import _shrunk

    weights = np.zeros((150, 150), np.float32)
    weights[:, 0], weights[149, 100] = 0.5, 1.0
    small = _shrunk(weights)
    assert small.shape == (50, 50) and small[49, 33] == 1.0 and (small[:, 0] == 0.5).all()
    assert np.isnan(small[0, 1:]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, t: surprise(m, t, ""), "1 to 256 tokens.*start_token=True"),
        (lambda m, t: surprise(m, t, "a b " * 200), "1 to 256 tokens.*shorter text"),
        (lambda m, t: surprise(m, t, ["a"]), "must be one string"),
        (lambda m, t: surprise(m, t, "a", top=0), "`top` must be an integer from 1 to 1024"),
        (lambda m, t: logit_lens(m, t, "a", top=2000), "`top` must be"),
        (lambda m, t: attention_maps(m, t, "a").head(6, 0), "Layers are 0 to 5"),
        (lambda m, t: attention_maps(m, t, "a").save("x.png", layer=1), "layer and head"),
        (lambda m, t: surprise(m, t, "a").save("x.pdf"), "must end in .html or .png"),
    ],
)
def test_errors_of_bad_arguments(call, message, bundled):
    with pytest.raises((ValueError, TypeError), match=message):
        call(*bundled)


def test_errors_of_unsuitable_models(bundled):
    _, tokenizer = bundled
    config = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 1024, "n_positions": 16}
    bare = tfgpt2.TFGPT2Model(GPT2Config(**config))
    with pytest.raises(TypeError, match="must score tokens"):
        surprise(bare, tokenizer, "a")
    assert attention_maps(bare, tokenizer, "To be").head(0, 1).shape == (2, 2)
    with pytest.raises(ValueError, match="no start token"):
        bare.config.bos_token_id = None
        attention_maps(bare, tokenizer, "a", start_token=True)
    blockwise = tfgpt2.TFGPT2Model(GPT2Config(**config, attn_implementation="blockwise"))
    with pytest.raises(ValueError, match=r"(?s)blockwise.*attn_implementation='eager'"):
        attention_maps(blockwise, tokenizer, "To be")


def test_figures_without_matplotlib_name_the_extra(found, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "tfgpt2.inspect.render.figures", raising=False)
    monkeypatch.delattr("tfgpt2.inspect.render.figures", raising=False)
    with pytest.raises(ImportError, match=r"tfgpt2\[inspect\]"):
        found[TEXT][1].save(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path):
    from tfgpt2.cli.main import app

    path = tmp_path / "lens.html"
    done = CliRunner().invoke(app, ["inspect", "-", "-k", "lens", "-o", str(path), "--top", "2"],
                              input="To be, or")  # fmt: skip
    assert done.exit_code == 0 and str(path) in done.output.replace("\n", "")
    assert "Logit lens" in path.read_text(encoding="utf-8")
    for wrong, message in (
        (["-k", "lense"], "Did you mean 'lens'"),
        (["--layer", "1"], "--kind surprise` has no such option"),
        (["-k", "attention", "--top", "1"], "--kind attention` has no such option"),
    ):
        done = CliRunner().invoke(app, ["inspect", "x", "-o", str(path), *wrong])
        assert isinstance(done.exception, ValueError) and message in str(done.exception)


def test_in_a_notebook_records_are_short_and_drawn_in_a_frame(found):
    maps, *others = found[TEXT]
    assert repr(maps).startswith("AttentionMaps(") and "layers of" in repr(maps)
    for record in (maps, *others):
        assert len(repr(record)) < 120
        shown = record._repr_html_()
        assert shown.startswith("<iframe sandbox=") and shown.count("<") == 2  # the rest is escaped
    too_long = dataclasses.replace(maps, tokens=maps.tokens * 9000)
    assert too_long._repr_html_() is None
