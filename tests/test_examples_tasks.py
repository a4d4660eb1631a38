"""The examples of tasks at a small size, and checks of their results."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tests.support.paths import EXAMPLES
from tfgpt2 import GPT2Config, TextGenerator, TFGPT2LMHeadModel, TFGPT2Tokenizer

RHYME = "The {a} and the {b} went over the hill,\nThe {a} came home and the {b} sits still.\n\n"
THINGS = ("cat", "dog", "fox", "owl", "hen", "cow")


def run(program, *arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLES / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def numbers(pattern, output):
    found = re.search(pattern, output)
    assert found, output
    return [float(number) for number in found.groups()]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint of two small blocks with random weights and the bundled vocabulary."""
    tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    config = GPT2Config(
        n_layer=2, n_embd=48, n_head=2, n_positions=128, vocab_size=1024, bos_token_id=0,
        eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, summary_first_dropout=0.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("small")
    tf.random.set_seed(0)
    TextGenerator(TFGPT2LMHeadModel(config), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rhymes(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "rhymes.txt"
    pairs = [(a, b) for a in THINGS for b in THINGS if a != b]
    path.write_text("".join(RHYME.format(a=a, b=b) for a, b in pairs), encoding="utf-8")
    return path


@pytest.mark.long
def test_fine_tuning_lowers_the_loss_on_held_out_text(small, rhymes, tmp_path):
    output = run(
        *("03_fine_tune_an_author.py", "--text", rhymes, "--output", tmp_path / "author"),
        *("--model", small, "--separator", "\\n\\n", "--block-size", 32, "--batch", 4),
        *("--epochs", 8, "--learning-rate", 0.01, "--max-new-tokens", 12),
    )
    before, after = numbers(r"held-out loss ([\d.]+) -> ([\d.]+) nats", output)
    assert before > 6 and after < 3
    author = TextGenerator.from_pretrained(tmp_path / "author")
    assert "hill" in author.generate("The cat and the dog", temperature=0, max_new_tokens=12)


@pytest.mark.long
def test_choices_are_learned_by_both_heads(small, tmp_path):
    rows = []
    for i in range(60):
        right = i % 2
        choices = [" it was good.", " it was bad."]
        rows.append({"prompt": ("Joy!", "Woe!")[right], "choices": choices, "label": right})
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    output = run(
        *("09_multiple_choice.py", "--output", tmp_path / "chooser", "--data", data),
        *("--model", small, "--max-length", 16, "--epochs", 12, "--learning-rate", 0.01),
    )
    _, after, count = numbers(r"held-out accuracy ([\d.]+) -> ([\d.]+) on (\d+) rows", output)
    assert after == 1.0 and count == 12
    model = TFGPT2LMHeadModel.from_pretrained(tmp_path / "chooser")
    tokenizer = TFGPT2Tokenizer.from_pretrained(tmp_path / "chooser")
    good, bad = (
        float(model(**tokenizer(f"Joy! it was {word}."), labels=tokenizer.tokenize(
            [f"Joy! it was {word}."]).to_tensor()).loss) for word in ("good", "bad")
    )  # fmt: skip
    assert good < bad


@pytest.mark.long
def test_synthetic_choices_are_learned(tmp_path):
    output = run(
        *("09_multiple_choice.py", "--output", tmp_path / "chooser", "--rows", 300),
        *("--epochs", 2),
    )
    _, after = numbers(r"held-out accuracy ([\d.]+) -> ([\d.]+)", output)
    assert after > 0.6  # chance is 0.33


@pytest.mark.long
def test_a_new_language_keeps_shared_tokens(tmp_path):
    words = ("Häuser", "Mühlen", "Gärten", "Brücken", "Straßen")
    text = "".join(
        f"Die {a} stehen neben den {b}, und die {b} gehören zu den {c}n.\n"
        for a in words for b in words for c in words
    )  # fmt: skip
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    arguments = [
        *("04_new_language.py", "--text", tmp_path / "text.txt", "--vocab-size", 400),
        *("--block-size", 32, "--batch", 8, "--epochs", 2),
    ]
    output = run(*arguments, "--output", tmp_path / "german")
    before, carried = numbers(r"held-out bits per byte ([\d.]+) -> ([\d.]+)", output)
    assert carried < before / 3
    old, new = numbers(r"old vocabulary: ([\d.]+)[^\n]*\nnew vocabulary: ([\d.]+)", output)
    assert new > 1.5 * old
    shared, total = numbers(r"(\d+) of (\d+) tokens are in both", output)
    tokens = TFGPT2Tokenizer.from_pretrained(tmp_path / "german").token_bytes
    known = set(TFGPT2Tokenizer.from_pretrained("shakespeare-tiny").token_bytes)
    assert (shared, total) == (sum(token in known for token in tokens), len(tokens))
    # The pretrained network helps: from scratch, the same steps reach a higher loss.
    output = run(*arguments, "--output", tmp_path / "fresh", "--no-carry")
    assert carried < numbers(r"held-out bits per byte [\d.]+ -> ([\d.]+)", output)[0]


@pytest.mark.long
def test_a_functional_classifier_learns_and_is_exported(tmp_path):
    output = run("05_classify.py", "--output", tmp_path / "mood", "--rows", 300, "--epochs", 2)
    accuracy, count = numbers(r"held-out accuracy ([\d.]+) on (\d+) texts", output)
    assert accuracy > 0.9 and count == 60
    loaded = tf.saved_model.load(str(tmp_path / "mood" / "1"))
    answer = loaded.classify(tf.constant(["the duchess sang with joy.", "the duchess wept aloud."]))
    assert answer["label"].numpy().tolist() == [b"glad", b"sad"]


@pytest.mark.long
def test_a_tagger_labels_new_names(tmp_path):
    output = run("06_tag.py", "--output", tmp_path / "names", "--rows", 300, "--epochs", 2)
    words, names = numbers(r"held-out accuracy ([\d.]+) of words, ([\d.]+) of names", output)
    assert words > 0.9 and names > 0.8
    assert re.search(r"\n +[A-Z][a-z]+  (person|place)\n", output)


@pytest.mark.long
def test_answers_are_found(tmp_path):
    output = run(
        *("07_question_answering.py", "--output", tmp_path / "answers", "--rows", 600),
        *("--epochs", 2),
    )
    exact, count = numbers(r"held-out exact match ([\d.]+) of (\d+) questions", output)
    assert exact > 0.8 and count == 60  # three facts, thirty answers
    loaded = tf.saved_model.load(str(tmp_path / "answers" / "1"))
    context = " Hamlet keeps a toad. Hamlet lives in Rome. Hamlet is loved by the nurse."
    for question, answer in (("Where lives", "Rome"), ("Who loves", "nurse")):
        found = loaded.answer(tf.constant([f"{question} Hamlet?"]), tf.constant([context]))
        assert found["text"].numpy()[0].decode().strip() == answer


@pytest.mark.long
def test_decoding_strategies(tmp_path):
    output = run("10_decoding_strategies.py", "--max-new-tokens", 12, "--save", tmp_path / "a.json")
    found = {one["strategy"]: one for one in json.loads((tmp_path / "a.json").read_text())}
    assert len(found) == 12 and all(name.split(",")[0] in output for name in found)
    greedy = found["greedy"]
    assert found["greedy with lookup"]["text"] == greedy["text"]
    assert found["beams"]["logprob"] > greedy["logprob"] > found["sampling"]["logprob"]
    assert re.fullmatch(r"[a-z ,]*[.!?]?", found["constrained: a regular expression"]["text"])
    assert found["constrained: one of these"]["text"].strip().endswith(("day?", "night?"))
    # The log-probability equals that computed from the logits of the whole text.
    generator = TextGenerator.from_pretrained("shakespeare-tiny")
    prompt = "Shall I compare thee to"
    ids = generator.tokenizer.tokenize(prompt)
    whole = generator.tokenizer.tokenize(prompt + greedy["text"])
    assert whole[: len(ids)].numpy().tolist() == ids.numpy().tolist()
    logprobs = tf.nn.log_softmax(generator.model(whole[None]).logits[0]).numpy()
    total = sum(logprobs[i - 1, whole[i]] for i in range(len(ids), len(whole)))
    np.testing.assert_allclose(greedy["logprob"], total, atol=1e-3)


@pytest.mark.long
def test_served_texts_equal_those_of_the_model(tmp_path):
    output = run(
        *("12_export_and_serve.py", "--output", tmp_path / "demo", "--no-jit-compile"),
        *("--max-new-tokens", 12),
    )
    assert "served equals live: True; server stopped with status 0" in output
    generator = tfgpt2.TextGenerator.from_pretrained("shakespeare-tiny")
    prompts = ["ROMEO:\nI ", "The king "]
    settings = {"temperature": 0.8, "top_p": 1.0, "top_k": 0, "max_new_tokens": 12, "seed": 1}
    for prompt, text in zip(prompts, generator.generate(prompts, **settings), strict=True):
        assert f"\n{prompt}{text}" in output
    assert (tmp_path / "demo" / "1" / "saved_model.pb").exists()


def test_the_table_of_examples_lists_the_programs():
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    programs = {path.name for path in EXAMPLES.glob("[0-9]*.py")}
    rows = re.findall(r"^\| (\d\d) \|", table, re.M)
    assert sorted(rows) == sorted(name[:2] for name in programs)
    assert set(re.findall(r"`(\d\d_\w+\.py)", table)) <= programs
