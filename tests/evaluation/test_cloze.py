"""LAMBADA and multiple choice compared to PyTorch, one text at a time."""

import json
import math

import numpy as np
import pytest

from tfgpt2.evaluation.cloze import Question, choices, lambada, read_lines

PASSAGES = [
    "My gracious lord, I do beseech you, hear me speak; my good lord",
    "To be, or not to be: that is the question, and not to",
    "What is the matter, sir? I know not what the matter is, but go to the king",
    "ROMEO:\nI will be satisfied: let me see the Duke of York",
    "A  double space before the last  word",
]
QUESTIONS = [
    Question("My good", ["lord", "xylophone", "elephants"], 0),
    Question("O Romeo, Romeo, wherefore art thou", ["Romeo?", "a", "the king of naples?"], 0),
    Question("What news with", ["you?", "thee, my gracious lord of Gloucester?"], 1),
    Question("Ends in spaces  ", ["lord", "café"], 1),
]


@pytest.fixture(scope="module")
def torch_recipes():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.support import torch_recipes

    return torch_recipes


@pytest.mark.long
def test_lambada_equals_pytorch(bundled, load, torch_recipes, tmp_path):
    pairs = [text.rpartition(" ") for text in PASSAGES]
    expected = [
        torch_recipes.continuation(str(bundled), a.rstrip(), text[len(a.rstrip()) :])
        for text, (a, _, _) in zip(PASSAGES, pairs, strict=True)
    ]
    found = lambada(*load(bundled), PASSAGES, batch_size=2, jit_compile=False)
    assert found.passages == 5
    assert found.accuracy == np.mean([greedy for _, greedy, _ in expected])
    assert 0 < found.accuracy < 1
    mean = np.mean([total for total, _, _ in expected])
    assert found.perplexity == pytest.approx(math.exp(-mean), rel=1e-4)
    file = tmp_path / "lambada.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in PASSAGES) + "\n\n")
    assert lambada(*load(bundled), file, batch_size=2, jit_compile=False) == found
    one = lambada(*load(bundled), str(file), limit=1, batch_size=2, jit_compile=False)
    assert one.passages == 1


@pytest.mark.long
def test_the_first_passages_of_the_lambada_test_set(shared_data, bundled, load, torch_recipes):
    file = shared_data / "text" / "lambada_test.jsonl"
    found = lambada(*load(bundled), file, limit=60)
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()[:60]]
    expected = []
    for text in texts:
        context, _, word = text.rpartition(" ")
        expected.append(torch_recipes.continuation(str(bundled), context, f" {word}"))
    assert found.accuracy == np.mean([greedy for _, greedy, _ in expected])
    mean = np.mean([total for total, _, _ in expected])
    assert found.perplexity == pytest.approx(math.exp(-mean), rel=1e-4)


def test_choices_equal_pytorch(bundled, load, torch_recipes, tmp_path):
    right = []
    for question in QUESTIONS:
        context = question.context.rstrip()
        spaces = question.context[len(context) :]
        scores = [
            torch_recipes.continuation(str(bundled), context, f"{spaces} {choice}")
            for choice in question.choices
        ]
        totals = np.array([total for total, _, _ in scores])
        lengths = (
            np.ones(len(totals)),
            np.array([count for _, _, count in scores]),
            np.array([len(choice.encode()) for choice in question.choices]),
            np.array([len(choice) for choice in question.choices]),
        )
        right.append([np.argmax(totals / n) == question.answer for n in lengths])
    found = choices(*load(bundled), QUESTIONS, batch_size=4, jit_compile=False)
    assert (
        found.accuracy,
        found.accuracy_per_token,
        found.accuracy_per_byte,
        found.accuracy_per_character,
    ) == tuple(np.mean(right, axis=0))
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(vars(question)) + "\n" for question in QUESTIONS))
    assert choices(*load(bundled), file, batch_size=4, jit_compile=False) == found


def test_an_empty_context_is_the_start_token(bundled, load):
    found = choices(
        *load(bundled), [Question("", ["ROMEO:", "qqxzjk"], 0)], batch_size=2, jit_compile=False
    )
    assert found.accuracy == 1


def test_a_byte_order_mark_is_no_part_of_a_line(tmp_path):
    file = tmp_path / "marked.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text": "a good one"}\n')
    assert read_lines(file) == [(1, {"text": "a good one"})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": 3}', "Line 2 of the file has no str 'text'"),
        ('{"texts": "a b"}', "Did you mean 'texts'"),
        ("{", "Line 2 of the file is not valid JSON"),
        ("[]", "Line 2 of the file is not an object"),
        ('{"text": "word"}', "Passage 2 must be two or more words"),
        ('{"text": "ends in a space "}', "Passage 2 must be two or more words"),
    ],
)
def test_errors_of_bad_lines(bundled, load, tmp_path, line, message):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "a good one"}\n' + line)
    with pytest.raises(ValueError, match=message):
        lambada(*load(bundled), file)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question("a", ["b"], 0), "Question 1 must have two or more non-empty choices"),
        (Question("a", ["b", ""], 0), "Question 1 must have two or more non-empty choices"),
        (Question("a", ["b", "c"], 2), "index of one of them"),
    ],
)
def test_errors_of_bad_questions(bundled, load, question, message):
    with pytest.raises(ValueError, match=message):
        choices(*load(bundled), [question])
    with pytest.raises(ValueError, match="There are no examples"):
        choices(*load(bundled), [])
