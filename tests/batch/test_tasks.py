"""The tasks with a small model: results are those of the signatures and of `TextGenerator`."""

import json
import math
import shutil

import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tests.support.batch_jobs import contents, read_lines, write_lines
from tfgpt2.batch.job import run_job
from tfgpt2.batch.settings import JobSettings
from tfgpt2.batch.tasks.classify import Classify
from tfgpt2.batch.tasks.generate import Generate
from tfgpt2.batch.tasks.registry import TASKS
from tfgpt2.batch.tasks.text_scoring import Embed, Score
from tfgpt2.evaluation.perplexity import perplexity
from tfgpt2.serving.export.signatures import registry

TEXTS = ["To be, or not to be", "ROMEO:\n", "What", "", "that is the question " * 4, "caf\u00e9"]
SETTINGS = JobSettings(batch_size=4, rows_per_file=4, jit_compile=False)


@pytest.fixture(scope="module")
def generator(tiny):
    return tfgpt2.TextGenerator.from_pretrained(
        tiny, jit_compile=False, on_long_prompt="truncate_left"
    )


@pytest.fixture(scope="module")
def export(generator, tmp_path_factory):
    """An export of the model, with two of its versions' directories."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "9").mkdir()  # without a SavedModel
    names = ["generate", "score", "embed", "tokenize"]
    generator.export(
        folder / "10", signatures=names, jit_compile=False, check=False, output_buckets=[16]
    )
    return folder


def run(task, texts, tmp_path, model, settings=SETTINGS, name="out"):
    rows = [one if isinstance(one, dict) else {"text": one} for one in texts]
    source = write_lines(tmp_path / "in.jsonl", rows)
    run_job(task, [source], tmp_path / name, model=str(model), settings=settings)
    return read_lines(tmp_path / name)


def test_scores_are_those_of_the_signature(tiny, generator, tmp_path):
    rows = run(Score(token_details=True), TEXTS, tmp_path, tiny)
    expected = {n: x.numpy() for n, x in generator.pipeline.score(tf.constant(TEXTS)).items()}
    for name in ("logprob", "perplexity", "num_tokens", "truncated"):
        assert np.allclose([row[name] for row in rows], expected[name], rtol=1e-5), name
    details = zip(rows, expected["token_logprobs"], expected["text_tokens"], strict=True)
    for row, logprobs, count in details:
        assert np.allclose(row["token_logprobs"], logprobs[:count], atol=1e-5)
        assert len(row["token_logprobs"]) == count


def test_a_model_has_the_same_digest_again_and_elsewhere_and_others_have_others(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "copy")
    config = json.loads((tiny / "config.json").read_text())
    first, again = (Embed().load(str(path)).digest for path in (tiny, tmp_path / "copy"))
    assert first == again
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 0.1}))
    assert Embed().load(str(tmp_path / "copy")).digest != first


@pytest.mark.long
def test_an_export_scores_the_same(tiny, export, tmp_path):
    rows = run(Score(token_details=True), TEXTS, tmp_path, tiny)
    exported = run(Score(token_details=True), TEXTS, tmp_path, export, name="exported")
    for row, other in zip(rows, exported, strict=True):
        assert row["logprob"] == pytest.approx(other["logprob"], rel=1e-5)
        assert row.keys() == other.keys()


@pytest.mark.long
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_embeddings_are_those_of_the_signature(tiny, export, tmp_path, pooling):
    rows = run(Embed(pooling), TEXTS, tmp_path, tiny)
    loaded = tf.saved_model.load(str(export / "10"))
    expected = loaded.embed(tf.constant(TEXTS))[pooling].numpy()
    found = np.array([row["embedding"] for row in rows], np.float32)
    assert found.shape == (6, 16) and np.allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="pooling"):
        Embed("max")


@pytest.mark.long
def test_lines_give_the_perplexity_of_the_evaluation(tiny, generator, tmp_path, shared_data):
    raw = (shared_data / "text" / "wiki.test.raw").read_text(encoding="utf-8")
    lines = [line[:150] for line in raw.split("\n")[:40]]
    lines = [line for line in lines if 2 <= len(generator.tokenizer.tokenize(line)) <= 64]
    assert len(lines) > 5
    (tmp_path / "wiki.txt").write_text("\n".join(lines), encoding="utf-8")
    run_job(Score(), [tmp_path / "wiki.txt"], tmp_path / "out", model=str(tiny), settings=SETTINGS)
    rows = read_lines(tmp_path / "out")
    single = [
        perplexity(generator.model, generator.tokenizer, line, jit_compile=False, batch_size=1)
        for line in lines[:5]
    ]
    for row, one in zip(rows, single, strict=False):
        assert row["perplexity"] == pytest.approx(one.perplexity, rel=1e-4)
        assert row["num_tokens"] == one.scored
    nats = -sum(row["logprob"] for row in rows[:5])
    tokens = sum(row["num_tokens"] for row in rows[:5])
    together = math.exp(sum(one.nll for one in single) / sum(one.scored for one in single))
    assert math.exp(nats / tokens) == pytest.approx(together, rel=1e-4)


@pytest.mark.long
def test_rows_have_their_own_settings(tiny, generator, tmp_path):
    rows = [
        {"text": "To be", "t": 0.0, "max_new_tokens": 5, "stop": None, "seed": None},
        {"text": "To be", "t": 1.0, "max_new_tokens": 7, "seed": 11},
        {"text": "ROMEO:\n", "t": None, "max_new_tokens": 3},
        {"text": "What", "t": 1.0},
        {"text": "What", "t": 1.0, "seed": 4},
        {"text": "What", "t": -1.0},
        {"text": "What", "max_new_tokens": "many"},
        {"text": "What", "max_new_tokens": 0},
        {"text": "What", "stop": 5},
    ]
    columns = {name: name for name in ("max_new_tokens", "seed", "stop")} | {"temperature": "t"}
    task = Generate({"max_new_tokens": 6, "temperature": 0.5, "seed": 1}, (), columns)
    found = run(task, rows, tmp_path, tiny)
    expected = generator.generate(
        [row["text"] for row in rows[:5]],
        temperature=[0.0, 1.0, 0.5, 1.0, 1.0],
        max_new_tokens=[5, 7, 3, 6, 6],
        seed=[1, 11, 3, 4, 4],
        details=True,
    )
    for row, one in zip(found, expected, strict=False):
        assert row["generated_text"] == one.text and row["error"] is None
        assert row["logprob"] == pytest.approx(one.logprob, rel=1e-4)
        assert (row["num_tokens"], row["finish_reason"]) == (len(one.token_ids), one.finish_reason)
        assert row["prompt_tokens"] == one.prompt_tokens
    assert [row["error"] and row["error"].split("`")[1] for row in found[5:]] == [
        *("temperature", "max_new_tokens", None, "stop")
    ]
    assert found[7]["generated_text"] == "" and found[5]["generated_text"] is None


@pytest.mark.long
def test_settings_in_csv_are_numbers(tiny, generator, tmp_path):
    lines = "text,temperature,max_new_tokens\nTo be,0,3\nTo be,,\nTo be,x,1\n"
    (tmp_path / "a.csv").write_text(lines)
    columns = {name: name for name in ("temperature", "max_new_tokens")}
    task = Generate({"max_new_tokens": 5, "temperature": 0}, setting_columns=columns)
    run_job(task, [tmp_path / "a.csv"], tmp_path / "out", model=str(tiny), settings=SETTINGS)
    rows = read_lines(tmp_path / "out")
    assert [row["num_tokens"] for row in rows] == [3, 5, None]
    assert "`temperature` must be a number" in rows[2]["error"]
    assert rows[0]["temperature"] == "0"  # columns are kept as they are


@pytest.mark.long
def test_stops_prefix_several_texts_and_token_details(tiny, tmp_path):
    generator = tfgpt2.TextGenerator.from_pretrained(
        tiny, jit_compile=False, prefix="To be, or not"
    )
    options = {"max_new_tokens": 6, "temperature": 1.0, "num_return_sequences": 2, "seed": 5}
    task = Generate(options, stop=("e",), prefix="To be, or not", token_details=True)
    found = run(task, TEXTS[:3], tmp_path, tiny)
    expected = generator.generate(
        TEXTS[:3], stop="e", details=True, **options | {"seed": [5, 6, 7]}
    )
    for row, several in zip(found, expected, strict=True):
        assert row["generated_text"] == [one.text for one in several]
        assert row["token_ids"] == [one.token_ids for one in several]
        assert len(row["token_logprobs"][1]) == row["num_tokens"][1]
        assert row["prompt_tokens"] == several[0].prompt_tokens


@pytest.mark.long
def test_a_prompt_that_does_not_fit_is_an_error_or_cut(tiny, tmp_path):
    texts = ["To be " * 100, "What"]
    options = {"max_new_tokens": 4, "temperature": 0}
    rows = run(Generate(options, on_long_prompt="error"), texts, tmp_path, tiny)
    assert "leaves no room" in rows[0]["error"] and rows[1]["error"] is None
    rows = run(Generate(options), texts, tmp_path, tiny, name="cut")
    assert rows[0]["truncated"] > 0 and rows[0]["num_tokens"] == 4


@pytest.mark.long
def test_an_export_generates_the_same_and_refuses_what_it_cannot(tiny, export, tmp_path):
    task = Generate({"max_new_tokens": 5, "temperature": 0.9, "seed": 2}, stop=("zzz",))
    rows = run(task, TEXTS, tmp_path, tiny)
    assert run(task, TEXTS, tmp_path, export, name="exported") == rows
    assert json.loads((tmp_path / "exported" / "_job.json").read_text())["model_name"] == str(
        export
    )
    for bad, message in (
        (Generate({"num_beams": 2}), "does not take `num_beams`"),
        (Generate(setting_columns={"typical_p": "text"}), "does not take `typical_p`"),
        (Generate(prefix="To be or"), "fixed in an export"),
        (Classify(), "no signature 'classify'"),
    ):
        with pytest.raises(ValueError, match=message):
            run(bad, TEXTS, tmp_path, export, name="bad")
    assert contents(tmp_path / "bad") == {}


def test_options_are_checked_before_a_model_is_loaded():
    with pytest.raises(ValueError, match="top_p"):
        Generate({"top_p": 2})
    with pytest.raises(ValueError, match="one value for all rows"):
        Generate({"top_p": [0.5]})
    with pytest.raises(ValueError, match="Did you mean 'top_p'"):
        Generate(setting_columns={"top_pp": "x"})
    assert sorted(TASKS) == ["classify", "embed", "generate", "score"]


def test_classify(tmp_path):
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    config = tfgpt2.GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=32, n_embd=8, n_layer=1, n_head=1,
        id2label={0: "sad", 1: "gay", 2: "calm"},
    )  # fmt: skip
    model = tfgpt2.TFGPT2ForSequenceClassification(config)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = run(Classify(), TEXTS, tmp_path, tmp_path / "model")
    signature = registry.create_task(model, tokenizer)
    for row, text in zip(rows, TEXTS, strict=True):  # alone: neighbours make no difference
        expected = signature({"text": tf.constant([text])})
        assert row["label"].encode() == expected["label"][0].numpy()
        assert np.allclose(row["scores"], expected["scores"][0].numpy(), atol=1e-5)
        assert row["score"] == max(row["scores"])


def test_scores_that_are_not_numbers_are_an_error_of_the_row(tmp_path):
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    config = tfgpt2.GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=32, n_embd=8, n_layer=1, n_head=1
    )
    model = tfgpt2.TFGPT2LMHeadModel(config)
    model.transformer.ln_f.bias.assign([math.nan] * 8)
    tfgpt2.TextGenerator(model, tokenizer).save_pretrained(tmp_path / "model")
    rows = run(Score(), ["To be"], tmp_path, tmp_path / "model")
    assert "scores are not numbers" in rows[0]["error"] and rows[0]["logprob"] is None
