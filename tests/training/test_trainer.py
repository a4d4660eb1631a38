"""The trainer: its output files, its plan, where it stops, and its errors."""

import json
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgpt2
from tests.support import small_trainings
from tfgpt2.training import plan, recipes
from tfgpt2.training.callbacks import read_log
from tfgpt2.training.data import corpus
from tfgpt2.training.settings import TrainSettings, read_yaml, write_yaml


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    settings = small_trainings.settings(
        folder, steps=75, eval_every=25, dropout=0.0, log_every=5, n_embd=32
    )
    return folder, small_trainings.run(settings)


def test_a_small_model_learns_and_loads(trained):
    folder, run = trained
    out, report = folder / "out", run.report
    assert {"loss.png", "log.jsonl", "training.json", "train.yaml", "last", "checkpoints"} <= {
        path.name for path in out.iterdir()
    }
    assert report.steps == 75 and not report.stopped and report.path == out
    measured = [line["val_loss"] for line in small_trainings.read_log(out) if "val_loss" in line]
    assert len(measured) == 4 and measured[-1] < measured[1] - 0.3 < 7
    assert report.loss_before == measured[0] > measured[1]
    assert report.best_step == 25 * measured.index(min(measured))
    assert report.val_loss == min(measured) == run.best.best
    assert json.loads((out / "training.json").read_text())["report"]["steps"] == 75
    assert (out / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    generator = tfgpt2.TextGenerator.from_pretrained(out)
    text = generator.generate("ANNA:\nWhat say you of the", temperature=0, max_new_tokens=2)
    assert isinstance(text, str) and text
    last = tfgpt2.TFGPT2LMHeadModel.from_pretrained(out / "last")
    for mine, saved in zip(run.model.weights, last.weights, strict=True):
        np.testing.assert_array_equal(recipes.value_of(mine), recipes.value_of(saved))


def test_the_validation_loss_is_that_of_the_saved_model(trained):
    folder, run = trained
    model = tfgpt2.TFGPT2LMHeadModel.from_pretrained(folder / "out")
    tokens = np.array(run.held_out.tokens[: len(run.held_out) // 16 * 16], np.int32)
    ids = tokens.reshape(-1, 16)
    assert len(ids) >= 2
    loss = float(model(ids, labels=ids).loss)  # all rows have 15 scored tokens
    assert loss == pytest.approx(run.report.val_loss, abs=1e-4)


def test_training_texts_and_held_out_ones_do_not_overlap(trained):
    _, run = trained
    whole = corpus.tokenize(
        [small_trainings.write_text(run.output.parent / "again.txt")], run.tokenizer
    )
    joined = np.concatenate([run.corpus.tokens, run.held_out.tokens])
    np.testing.assert_array_equal(joined, whole.tokens)
    assert run.corpus.starts[-1] == len(run.corpus)
    assert run.held_out.starts[0] == 0 and run.held_out.starts[-1] == len(run.held_out)


def make_corpus(lengths):
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return corpus.Corpus(np.arange(starts[-1], dtype=np.int32), starts)


@pytest.mark.parametrize(
    "lengths, share, head",
    [
        ([100], 0.2, 80),  # one document: cut at a block
        ([50, 32, 18], 0.2, 50),  # the last document is too short for two blocks
        ([79, 21], 0.2, 79),  # cut where a document begins, if one is near
        ([20, 80], 0.2, 80),  # no document begins near enough
        ([100], 0.0, 100),
    ],
)
def test_held_out_texts_begin_at_a_document_if_one_is_near(lengths, share, head):
    first, second = plan.hold_out(make_corpus(lengths), share, 10)
    if lengths == [50, 32, 18]:
        head = 80  # at a block: 50 is farther away than half a share
    assert len(first) == head and first.starts[-1] == head
    if share:
        np.testing.assert_array_equal(second.tokens, np.arange(head, 100))
        assert second.starts[-1] == 100 - head and second.blocks(10) >= 1
    else:
        assert second is None


def test_fit_calls_cover_every_step_once():
    for done, steps, every in ((0, 10, 10), (0, 25, 10), (7, 25, 10), (20, 25, 10), (25, 25, 10),
                               (3, 5, 10), (24, 50, 10)):  # fmt: skip
        seen = done
        for call in plan.fit_calls(done, steps, every):
            assert call.first == seen and call.epoch == seen // every
            seen += call.epochs * call.steps
        assert seen == steps


def test_the_plan_computes_missing_settings(tmp_path):
    text = make_corpus([1000])
    settings = small_trainings.settings(
        tmp_path, steps=None, epochs=3, warmup=None, eval_every=None
    )
    found = plan.make_plan(settings, 16, text)
    assert found == (16, 15, 45, 15, 15, 2, pytest.approx(0.001))
    settings = small_trainings.settings(tmp_path, steps=None, accumulate=3, floor=0.0)
    found = plan.make_plan(settings, 16, text)
    assert (found.epoch, found.steps, found.floor) == (5, 5, 0.0)


class NaNWeights(keras.callbacks.Callback):
    """Sets weights to NaN after some steps, as happens with too high a learning rate."""

    def __init__(self, step):
        super().__init__()
        self.at = step

    def on_train_batch_begin(self, batch, logs=None):
        if recipes.steps_of(self.model) == self.at:
            weight = self.model.transformer.wte.weight
            weight.assign(tf.fill(weight.shape, float("nan")))


@pytest.mark.long
def test_nan_stops_training_and_keeps_the_last_good_checkpoint(tmp_path):
    settings = small_trainings.settings(tmp_path, checkpoint_every=2)
    with pytest.raises(FloatingPointError, match="step 6 is nan.*step-00000004"):
        small_trainings.run(settings, callbacks=[NaNWeights(5)])
    names = sorted(path.name for path in (tmp_path / "out/checkpoints").iterdir())
    assert names[-1] == "step-00000004"
    assert small_trainings.run(settings, resume=True).report.steps == 8


def test_bad_texts_are_named(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 99)
    (tmp_path / "short.txt").write_text("To be")
    (tmp_path / "two.txt").write_text("To be, or not to be: that is the question. " * 2)
    for name, kind, message in (
        ("empty.txt", ValueError, "empty"),
        ("latin.txt", ValueError, "not UTF-8"),
        ("short.txt", ValueError, "shorter than a block"),
        ("two.txt", ValueError, "held|hold|too few"),
    ):
        with pytest.raises(kind, match=message):
            small_trainings.run(small_trainings.settings(tmp_path, texts=str(tmp_path / name)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"texts": ()}, "texts"),
        ({"output": ""}, "output"),
        ({"tokenizer": None}, "vocabulary"),
        ({"model": "shakespeare-tiny"}, "from scratch"),
        ({"batch_size": 0}, "batch_size"),
        ({"dropout": 1.0}, "dropout"),
        ({"schedule": "cosin"}, "cosine"),
        ({"dtype": "float16"}, "dtype"),
        ({"lora_rank": 4}, "adapter"),
        ({"steps": 2.5}, "steps"),
    ],
)
def test_errors_of_settings(tmp_path, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        small_trainings.settings(tmp_path, **options)


def test_settings_in_yaml_and_unknown_settings(tmp_path):
    settings = small_trainings.settings(tmp_path, freeze=("wte", "h.0"), chunked_loss=True)
    write_yaml(settings, tmp_path / "a.yaml")
    assert TrainSettings.from_dict(read_yaml(tmp_path / "a.yaml")) == settings
    (tmp_path / "b.yaml").write_text("texts: [a, b]\noutput: out\nlearning_rate: 3e-4\n")
    assert read_yaml(tmp_path / "b.yaml")["learning_rate"] == 3e-4
    with pytest.raises(TypeError, match="Did you mean 'batch_size'"):
        TrainSettings.from_dict({"batchsize": 3})
    for wrong in ("- a\n- b\n", "a: [", ""):
        (tmp_path / "c.yaml").write_text(wrong)
        with pytest.raises(ValueError, match="c.yaml"):
            read_yaml(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "line, message",
    [
        ("learning_rate: .nan", r"`learning_rate` must be a number in \(0, inf\).*=nan"),
        ("learning_rate: .inf", r"\(0, inf\).*learning_rate=inf"),
        ("learning_rate: -1", r"\(0, inf\).*learning_rate=-1"),
        ("learning_rate: fast", "`learning_rate` must be a number. Received: .*'fast'"),
        ("learning_rate: [1]", "must be a number. Received: learning_rate=\\[1\\]"),
        ("learning_rate: true", "must be a number. Received: learning_rate=True"),
        ("learning_rate: 1" + "0" * 400, r"\(0, inf\)"),
        ("weight_decay: .inf", r"\[0, inf\).*weight_decay=inf"),
        ("beta_1: 1.0", r"\[0, 1\).*beta_1=1"),
        ("z_loss: -0.1", r"\[0, inf\).*z_loss=-0.1"),
        ("floor: 1.0", "`floor` must be at most `learning_rate`"),
        ("lora_alpha: 0", r"\(0, inf\).*lora_alpha=0"),
        ("clip_norm: .nan", r"\(0, inf\).*clip_norm=nan"),
        ("ema: {a: 1}", "`ema` must be a number or null"),
        ("batch_size: true", "`batch_size` must be an integer. Received: batch_size=True"),
        ("batch_size: '8'", "must be an integer. Received: batch_size='8'"),
        ("steps: 1e3", "`steps` must be an integer or null. Received: steps='1e3'"),
        ("seed: 2147483648", "`seed` must be less than 2\\^31"),
        ("document_mask: 1", "`document_mask` must be true or false"),
        ("document_mask: 'yes'", "`document_mask` must be true or false"),
        ("separator: 5", "`separator` must be a text or null. .*quote"),
        ("model: 2024-01-02", "`model` must be a text or null"),
        ("model: 2024-13-45", "cannot be read: month must be"),
        ("model: !!python/name:os.getcwd", "cannot be read: could not determine a constructor"),
        ("output: 2024", "`output` must be a text"),
        ("texts: [a, 1]", "`texts` must be a text or a list of texts"),
        ("texts: {a: b}", "`texts` must be a text or a list of texts"),
        ("freeze: 3", "`freeze` must be a text or a list of texts"),
        ("seed: 1\nseed: 2", "gives a name twice.*setting='seed'"),
        ("fix: 1", "no setting 'fix'"),
        ("1: 2", "no setting 1"),
        ("model: &a x\ntokenizer: *a", "anchors and aliases"),
        ("a: &a [x, x]\nb: &b [*a, *a]\ntexts: [*b, *b]", "anchors and aliases"),
        ("texts: [a", "cannot be read"),
        ("texts: " + "[" * 3000, "nest values deeply"),
        ("seed: 1" + ":1" * 5000, "more than 4096 characters without quotes"),
        ("texts: " + "a" * 2**18, "more than 262144 characters"),
    ],
)
def test_values_of_the_wrong_kind_in_yaml(tmp_path, line, message):
    name = line.partition(":")[0]
    values = {"texts": "a", "output": "b", "tokenizer": "c"}
    lines = [f"{key}: {value}" for key, value in values.items() if f"\n{key}" not in f"\n{line}"]
    path = tmp_path / f"{name}.yaml"
    path.write_text("\n".join([*lines, line]))
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        TrainSettings.from_dict(read_yaml(path))
    assert "Received: " in str(raised.value)


@pytest.mark.parametrize(
    "lines",
    [
        "seed: 1" + ":1" * 120_000,  # a number of base 60
        "texts: " + "[" * 130_000,
        "\n".join(f"k{i}: 1" for i in range(10_000)),
        "seed: " + "9" * 250_000,
    ],
)
def test_what_takes_long_in_yaml_is_refused_before(tmp_path, lines):
    path = tmp_path / "a.yaml"
    path.write_text(lines)
    start = time.process_time()
    with pytest.raises((ValueError, TypeError), match="Received: "):
        TrainSettings.from_dict(read_yaml(path))
    assert time.process_time() - start < 8


def test_many_files_and_long_quoted_texts_in_yaml(tmp_path):
    files = [f"folder/file-{i}.txt" for i in range(2000)]
    path = tmp_path / "a.yaml"
    path.write_text(f"texts: {files}\noutput: b\nsample_prompt: '{'a b ' * 3000}'")
    values = read_yaml(path)
    assert values["texts"] == files and len(values["sample_prompt"]) == 12_000


def test_settings_are_converted_to_their_kind(tmp_path):
    settings = TrainSettings(texts=[tmp_path / "a", "b"], output=tmp_path, model=tmp_path,
                             dropout=0, learning_rate=np.float32(0.5), steps=np.int64(7),
                             clip_norm=None)  # fmt: skip
    assert settings.texts == (str(tmp_path / "a"), "b") and settings.model == str(tmp_path)
    assert type(settings.learning_rate) is type(settings.dropout) is float
    assert type(settings.steps) is int and settings.clip_norm is None
    write_yaml(settings, tmp_path / "a.yaml")
    assert TrainSettings.from_dict(read_yaml(tmp_path / "a.yaml")) == settings
    (tmp_path / "b.yaml").write_bytes(b"\xef\xbb\xbftexts: a\noutput: '2024'\nseparator: '1'\n")
    assert read_yaml(tmp_path / "b.yaml") == {"texts": "a", "output": "2024", "separator": "1"}


@pytest.mark.long
def test_an_adapter_is_trained_saved_and_merged(tmp_path):
    options = dict(n_layer=None, n_head=None, n_embd=None, n_positions=None, block_size=16)
    settings = small_trainings.settings(
        tmp_path, model="shakespeare-tiny", tokenizer=None, lora_rank=2, steps=2, eval_every=2,
        dtype="mixed_bfloat16", chunked_loss=True, gradient_checkpointing=True, blockwise=True,
        **options,
    )  # fmt: skip
    run = small_trainings.run(settings)
    assert (tmp_path / "out/adapter/adapter_model.safetensors").exists()
    base = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
    merged = tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path / "out")
    changed = {
        weight.path.split("/", 1)[1]
        for weight, other in zip(base.weights, merged.weights, strict=True)
        if not np.array_equal(recipes.value_of(weight), recipes.value_of(other))
    }
    assert changed and all(path.endswith("c_attn/weight") for path in changed)
    assert run.report.val_loss < 10


@pytest.mark.long
def test_without_validation_the_last_model_is_saved(tmp_path):
    run = small_trainings.run(
        small_trainings.settings(
            tmp_path, validation_share=0.0, steps=2, document_mask=True, ema=0.5
        )
    )
    assert run.report.val_loss is None and not (tmp_path / "out/last").exists()
    saved = tfgpt2.TFGPT2LMHeadModel.from_pretrained(tmp_path / "out")
    with recipes.averaged(run.model):
        for mine, other in zip(run.model.weights, saved.weights, strict=True):
            np.testing.assert_array_equal(recipes.value_of(mine), recipes.value_of(other))
    assert read_log(tmp_path / "out/log.jsonl")[0]["step"] == 1
    assert run.report.loss_before > 0 and run.report.best_step is None


@pytest.mark.long
def test_separate_validation_texts(tmp_path):
    small_trainings.write_text(tmp_path / "held.txt", repeats=1)
    run = small_trainings.run(
        small_trainings.settings(tmp_path, validation=str(tmp_path / "held.txt"), steps=2)
    )
    assert len(run.held_out) < len(run.corpus) and run.report.val_loss > 0


def test_batches_that_split_evenly(tmp_path):
    assert plan.even_batch(31, 8, 1) == 8  # the last one may be smaller
    for blocks in range(2, 40):
        for replicas in (2, 3):
            if blocks >= replicas:
                batch = plan.even_batch(blocks, 8, replicas)
                assert batch % replicas == 0 and blocks % batch < replicas
    with pytest.raises(ValueError, match="each replica"):
        plan.even_batch(1, 8, 2)
    with pytest.raises(ValueError, match="multiple"):
        plan.make_plan(
            small_trainings.settings(tmp_path, batch_size=3), 16, make_corpus([1000]), replicas=2
        )
