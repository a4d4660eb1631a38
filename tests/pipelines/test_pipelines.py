"""`tfgpt2.pipeline`: transformers' arguments and forms of results."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2

TEXT = "Hamlet speaks to Horatio"
LABELS = {0: "O", 1: "B-PER", 2: "I-PER"}


@pytest.fixture(scope="module")
def tokenizer():
    return tfgpt2.AutoTokenizer.from_pretrained("shakespeare-tiny")


@pytest.fixture(scope="module")
def make(tokenizer, tmp_path_factory):
    """A pipeline of a small model with random weights, which is also on disk."""
    made = {}

    def pipeline(task, head, **fields):
        key = (task, repr(fields))
        if key not in made:
            keras.utils.set_random_seed(0)
            config = tfgpt2.GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=64,
                                       initializer_range=0.6, pad_token_id=0,
                                       vocab_size=len(tokenizer), **fields)  # fmt: skip
            model = getattr(tfgpt2, head)(config)
            folder = tmp_path_factory.mktemp("model")
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[key] = tfgpt2.pipeline(task, model=model, tokenizer=tokenizer), folder
        return made[key]

    return pipeline


def oracle(task, folder, **options):
    """transformers' pipeline of the same files, in PyTorch."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    return transformers.pipeline(task, model=str(folder), device="cpu", **options)


def assert_same(found, expected):
    """Equal results, up to rounding of the numbers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list) and (not expected or isinstance(expected[0], (dict, list))):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, (float, np.floating, list)):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    else:
        assert found == expected


@pytest.mark.parametrize("options", [
    {}, {"top_k": 2}, {"top_k": None}, {"function_to_apply": "sigmoid"},
    {"function_to_apply": "none", "top_k": None},
], ids=str)  # fmt: skip
def test_text_classification(make, options):
    ours, folder = make("text-classification", "TFGPT2ForSequenceClassification", num_labels=3)
    theirs = oracle("text-classification", folder)
    for inputs in (TEXT, [TEXT, "To be"], {"text": TEXT, "text_pair": "To be"}):
        assert_same(ours(inputs, **options), theirs(inputs, **options))


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_token_classification(make, strategy):
    ours, folder = make("ner", "TFGPT2ForTokenClassification", id2label=LABELS)
    theirs = oracle("token-classification", folder)
    for inputs in (TEXT, [TEXT, "To be, or not to be"]):
        options = {"aggregation_strategy": strategy, "ignore_labels": []}
        assert_same(ours(inputs, **options), theirs(inputs, **options))
    kept = {one.get("entity", one.get("entity_group")) for one in ours(TEXT)}
    assert "O" not in kept


def test_feature_extraction(make):
    ours, folder = make("feature-extraction", "TFGPT2Model")
    assert_same(ours(TEXT), oracle("feature-extraction", folder)(TEXT))
    assert isinstance(ours(TEXT, return_tensors=True), tf.Tensor)


def test_question_answering(make):
    """The best span is that of the model's own scores, also where the context is cut in parts."""
    ours, _ = make("question-answering", "TFGPT2ForQuestionAnswering")
    question, context = "Who speaks?", "Hamlet speaks to Horatio, and Horatio to the ghost."
    answer = ours(question=question, context=context)
    assert set(answer) == {"score", "start", "end", "answer"}
    assert answer["answer"] == context[answer["start"] : answer["end"]] and 0 < answer["score"] <= 1
    pair = {"question": question, "context": context}
    assert_same(ours([pair, pair]), [answer, answer])
    assert_same(ours(question=[question, question], context=context), [answer, answer])
    best = ours(pair, top_k=3)
    assert_same(best[0], answer)
    assert best[0]["score"] >= best[1]["score"] >= best[2]["score"]
    exact = ours(pair, align_to_words=False, max_answer_len=1)
    inputs = ours.tokenizer(question, context)
    out = ours.forward(inputs)
    inside = np.array([one == 1 for one in inputs.sequence_ids()])
    score = np.where(inside, np.exp(out.start_logits[0] + out.end_logits[0]), -1)
    assert exact["start"] == inputs.token_to_chars(int(score.argmax())).start
    parts = ours(pair, max_seq_len=12, doc_stride=2)
    assert parts["answer"] == context[parts["start"] : parts["end"]]
    assert ours(pair, handle_impossible_answer=True, top_k=50)[-1]["score"] >= 0
    with pytest.raises(TypeError, match="A question and a context"):
        ours({"question": question})


def test_text_generation(tokenizer):
    model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
    writer = tfgpt2.pipeline("text-generation", model=model, tokenizer=tokenizer, max_new_tokens=5)
    options = {"do_sample": False, "jit_compile": False}
    ids = model.generate(tokenizer("To be", return_tensors="tf")["input_ids"], max_new_tokens=5,
                         **options)  # fmt: skip
    text = tokenizer.decode(ids[0])
    assert writer("To be", **options) == [{"generated_text": text}]
    new = writer("To be", return_full_text=False, **options)
    assert new == [{"generated_text": text.removeprefix("To be")}]
    tokens = writer("To be", return_tensors=True, **options)
    assert tokens == [{"generated_token_ids": ids[0].numpy().tolist()}]


@pytest.mark.long
def test_rows_draws_stop_strings_and_chats(tokenizer):
    model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
    writer = tfgpt2.pipeline("text-generation", model=model, tokenizer=tokenizer, max_new_tokens=5)
    options = {"do_sample": False, "jit_compile": False}
    text = writer("To be", **options)[0]["generated_text"]
    assert writer(["To be"] * 2, **options) == [[{"generated_text": text}]] * 2
    drawn = {"jit_compile": False, "do_sample": True, "num_return_sequences": 2}
    assert len(writer("To be", **drawn)) == 2
    assert list(writer(iter(["To be"]), **options)) == [[{"generated_text": text}]]
    stopped = writer("To be", stop_strings=[text[6:8]], **options)[0]["generated_text"]
    assert len(stopped) <= len(text)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    chat = [{"role": "user", "content": "To be"}]
    (answer,) = writer(chat, **options)
    assert answer["generated_text"][:1] == chat
    assert answer["generated_text"][1]["role"] == "assistant"


def test_pipelines_are_made_by_name(make):
    _, folder = make("text-classification", "TFGPT2ForSequenceClassification", num_labels=3)
    judge = tfgpt2.pipeline("sentiment-analysis", model=folder, framework="tf", device=-1, top_k=1)
    assert judge.task == "text-classification" and len(judge(TEXT)) == 1
    assert tfgpt2.pipeline(model=judge.model, tokenizer=folder).task == "text-classification"
    for arguments, error in (
        ({"task": "text-generatoin", "model": folder}, "Did you mean 'text-generation'"),
        ({"task": "fill-mask", "model": folder}, "no pipeline for the task"),
        ({"task": "text-generation"}, "needs a model"),
        ({"task": "text-generation", "model": judge.model}, "needs a TFGPT2LMHeadModel"),
        ({"task": "ner", "model": folder, "device": 0}, "places tensors by itself"),
        ({"task": "text-classification", "model": judge.model}, "does not name its tokenizer"),
    ):
        with pytest.raises((TypeError, ValueError), match=error):
            tfgpt2.pipeline(**arguments)
    with pytest.raises(TypeError, match="no option 'agregation_strategy'"):
        make("ner", "TFGPT2ForTokenClassification", id2label=LABELS)[0](
            TEXT, agregation_strategy=""
        )
