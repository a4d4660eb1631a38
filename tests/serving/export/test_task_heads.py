"""The signatures of the task heads: against the live model, and from a clean process."""

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tfgpt2 import GPT2Config, TFGPT2Tokenizer
from tfgpt2.serving.export.signatures.registry import create_task

LETTERS = [chr(97 + i) for i in range(26)] + ["\u0120"]  # U+0120 is how a vocabulary writes " "
TEXTS = ["a dog sat", "", "my cat", "x" * 50]


@pytest.fixture(scope="module")
def tokenizer():
    return TFGPT2Tokenizer({token: i for i, token in enumerate(LETTERS)}, [])


def make_model(head, **changes):
    config = GPT2Config.from_dict({
        "vocab_size": 27, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2,
        "initializer_range": 0.4, "id2label": {0: "no", 1: "maybe", 2: "yes"},
    } | changes)  # fmt: skip
    return getattr(tfgpt2, f"TFGPT2For{head}")(config)


def build_signature(model, tokenizer):
    signature = create_task(model, tokenizer)
    return signature.build(signature)


def assert_contract(answer, rows):
    for name, value in answer.items():
        assert value.shape.rank >= 1 and value.shape[0] == rows, name
        if value.dtype.is_floating:
            assert np.isfinite(value).all(), name


def test_classify(tokenizer):
    model = make_model("SequenceClassification")
    answer = build_signature(model, tokenizer)(tf.constant(TEXTS))
    assert_contract(answer, 4)
    logits = model(tokenizer(["a dog sat"])).logits
    np.testing.assert_allclose(answer["scores"][0], tf.nn.softmax(logits)[0], atol=1e-5)
    names = np.array([b"no", b"maybe", b"yes"])
    assert answer["label"].numpy()[0] == names[np.argmax(logits)]
    assert answer["labels"].numpy().tolist() == [names.tolist()] * 4
    cut = model(tokenizer(["x" * 24])).logits  # longer texts are cut to the context
    np.testing.assert_allclose(answer["scores"][3], tf.nn.softmax(cut)[0], atol=1e-5)
    empty = build_signature(model, tokenizer)(tf.constant([""]))  # whatever its neighbours are
    np.testing.assert_allclose(answer["scores"][1], empty["scores"][0], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "link"),
    [
        ({"problem_type": "multi_label_classification"}, tf.sigmoid),
        ({"problem_type": "regression"}, tf.identity),
        ({"id2label": {0: "stars"}}, tf.identity),
    ],
)
def test_classify_by_kind_of_problem(changes, link, tokenizer):
    model = make_model("SequenceClassification", **changes)
    answer = build_signature(model, tokenizer)(tf.constant(TEXTS[:1]))
    expected = link(model(tokenizer(TEXTS[:1])).logits)
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)


def test_tag(tokenizer):
    model = make_model("TokenClassification")
    answer = build_signature(model, tokenizer)(tf.constant(TEXTS))
    assert_contract(answer, 4)
    assert answer["num_tokens"].numpy().tolist() == [9, 0, 6, 24]
    assert b"".join(answer["tokens_bytes"].numpy()[0]) == b"a dog sat"
    assert set(answer["labels"].numpy()[1]) == {b""}
    probabilities = tf.nn.softmax(model(tokenizer(["my cat"])).logits[0]).numpy()
    np.testing.assert_allclose(answer["scores"][2, :6], probabilities.max(-1), atol=1e-5)
    names = np.array([b"no", b"maybe", b"yes"])
    assert answer["labels"].numpy()[2, :6].tolist() == names[probabilities.argmax(-1)].tolist()


def test_answer_is_the_likeliest_span_of_the_context(tokenizer):
    model = make_model("QuestionAnswering")
    question, context = "who sat", " the old dog"
    function = build_signature(model, tokenizer)
    answer = function(tf.constant([question, "q", ""]), tf.constant([context, "", "a"]))
    assert_contract(answer, 3)
    out = model(tokenizer([question + context]))
    first = len(question)
    start, end = (
        tf.nn.log_softmax(logits[0, first:]).numpy()
        for logits in (out.start_logits, out.end_logits)
    )
    spans = {(i, j): start[i] + end[j] for i in range(12) for j in range(i, 12)}
    best = max(spans, key=spans.get)
    assert (int(answer["start"][0]), int(answer["end"][0])) == best
    np.testing.assert_allclose(answer["score"][0], np.exp(spans[best]), rtol=1e-4)
    assert answer["text"].numpy()[0].decode() == context[best[0] : best[1] + 1]
    assert answer["text"].numpy()[1:].tolist() == [b"", b"a"]
    assert answer["start"].numpy()[1:].tolist() == [-1, 0]


@pytest.mark.long
@pytest.mark.parametrize(
    ("head", "name"),
    [
        pytest.param("SequenceClassification", "classify", marks=pytest.mark.long),
        pytest.param("TokenClassification", "tag", marks=pytest.mark.long),
        ("QuestionAnswering", "answer"),
    ],
)
def test_export_is_checked_in_a_clean_process(head, name, tokenizer, tmp_path):
    report = tfgpt2.export_task(make_model(head), tokenizer, tmp_path / "1")
    assert report.signatures == ("serving_default", name) and report.checked
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    texts = tf.constant(["we sat", "so"])
    arguments = [texts, texts] if name == "answer" else [texts]
    assert_contract(getattr(loaded, name)(*arguments), 2)
    empty = tf.zeros([0], tf.string)
    assert_contract(getattr(loaded, name)(*([empty] * len(arguments))), 0)
    with pytest.raises(FileExistsError, match="never overwrites"):
        tfgpt2.export_task(make_model(head), tokenizer, tmp_path / "1")


def test_a_language_model_is_sent_to_its_own_export(tokenizer, tmp_path):
    model = tfgpt2.TFGPT2LMHeadModel(GPT2Config(vocab_size=27, n_embd=4, n_head=1, n_layer=1))
    with pytest.raises(TypeError, match=r"This export is for.*Received.*TextGenerator"):
        tfgpt2.export_task(model, tokenizer, tmp_path / "1")
    assert list(tmp_path.iterdir()) == []
