"""`tfgpt2 eval` and `tfgpt2 train-tokenizer`."""

import json

import pytest

import tfgpt2
from tfgpt2.evaluation.cloze import lambada
from tfgpt2.evaluation.perplexity import perplexity

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"


@pytest.fixture(scope="module")
def parts():
    return (
        tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny"),
        tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny"),
    )


@pytest.mark.long
def test_perplexity_as_a_table_and_as_json(run, parts, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    options = ("--max-length", 16, "--stride", 8, "-b", 4)
    found = json.loads(run("eval", "perplexity", tmp_path / "text.txt", *options, "--json"))
    expected = perplexity(*parts, TEXT, max_length=16, stride=8, batch_size=4)
    assert found["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)
    assert found["model"] == "shakespeare-tiny" and found["windows"] == expected.windows
    table = run("eval", "perplexity", tmp_path / "text.txt", *options)
    assert "bits per byte" in table and f"{expected.perplexity:,.5g}" in table


@pytest.mark.long
def test_lambada_and_choices(run, parts, tmp_path):
    lines = ["My good lord", "To be, or not to be"]
    (tmp_path / "lambada.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in lines))
    found = json.loads(run("eval", "lambada", tmp_path / "lambada.jsonl", "-b", 2, "--json"))
    expected = lambada(*parts, lines, batch_size=2)
    assert found["accuracy"] == expected.accuracy and found["passages"] == 2
    question = {"context": "My good", "choices": ["lord", "xylophone"], "answer": 0}
    (tmp_path / "choices.jsonl").write_text(json.dumps(question))
    table = run("eval", "choices", tmp_path / "choices.jsonl", "-b", 2)
    assert "accuracy per byte" in table and "questions" in table


def test_a_vocabulary_is_trained(run, tmp_path):
    (tmp_path / "a.txt").write_text(TEXT * 5)
    (tmp_path / "b.txt").write_text("low lower lowest " * 5)
    output = run(
        *("train-tokenizer", tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "vocabulary"),
        *("--vocab-size", 280, "--special-token", "<|end|>"),
    )
    assert "vocab.json" in output and "merges.txt" in output
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained(tmp_path / "vocabulary")
    assert tokenizer.vocab_size == 280 and tokenizer.eos_token_id == 0
