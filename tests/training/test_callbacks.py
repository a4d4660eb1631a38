"""Training callbacks: logs, plots, samples, TensorBoard, uploads, and the progress bar."""

import io
import json
import math
import types

import huggingface_hub
import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tests.support import small_trainings
from tfgpt2.training import callbacks, display
from tfgpt2.training.recipes import steps_of


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    """A training run with all callbacks, displayed on a terminal of 100 columns."""
    folder = tmp_path_factory.mktemp("full")
    screen = Console(file=io.StringIO(), width=100, force_terminal=True)
    settings = small_trainings.settings(
        folder, steps=9, eval_every=3, sample_prompt="ANNA:\n", sample_tokens=4, tensorboard=True,
        log_every=3, ema=0.9,
    )  # fmt: skip
    history = keras.callbacks.History()
    run = small_trainings.run(settings, console=screen, callbacks=[history])
    return folder / "out", run, screen.file.getvalue(), history.history


@pytest.mark.long
def test_the_progress_bar_shows_steps_and_evaluations(full_run):
    _, run, text, _ = full_run
    assert "9/9" in text and "tokens/s" in text and "loss" in text and "left" in text
    assert text.count("perplexity") == 4 and "step 9/9: loss" in text
    assert "step 0/9: validation" in text
    assert text.count("ANNA:") == 3
    assert run.bar._bar is None  # closed


def test_the_log_has_a_line_every_log_every_steps(full_run):
    out, run, _, history = full_run
    lines = small_trainings.read_log(out)
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == [1, 3, 6, 9]
    measured = [line for line in lines if "val_loss" in line]
    assert [line["step"] for line in measured] == [0, 3, 6, 9]
    # Each epoch has a single line, but for the first step.
    means = [line["loss"] for line in losses]
    means = [(means[0] + 2 * means[1]) / 3, *means[2:]]
    np.testing.assert_allclose(means, history["loss"], rtol=1e-5)
    for line, loss in zip(measured[1:], history["val_loss"], strict=True):
        assert line["val_loss"] == pytest.approx(loss)
        assert line["val_perplexity"] == pytest.approx(math.exp(loss))
    assert all(line["learning_rate"] > 0 for line in losses)
    assert all(line["tokens_per_second"] > 0 for line in losses[1:])


def test_tensorboard_has_scalars_and_samples(full_run):
    out, _, _, history = full_run
    found = {}
    for path in (out / "tensorboard").rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found.setdefault((path.parent.name, value.tag), []).append(
                    tf.make_ndarray(value.tensor).reshape(-1)[0]
                )
    epochs = found["train", "epoch_loss"]
    np.testing.assert_allclose(epochs, history["loss"], rtol=1e-5)
    np.testing.assert_allclose(found["validation", "epoch_loss"], history["val_loss"], rtol=1e-5)
    samples = found["samples", "sample"]
    assert len(samples) == 3 and all(text.startswith(b"ANNA:\n") for text in samples)


@pytest.mark.long
def test_samples_follow_the_weights(full_run):
    out, run, _, _ = full_run
    texts = []
    sampler = callbacks.SampleText(run.tokenizer, "ANNA:\n", lambda s, t: texts.append((s, t)),
                                   max_new_tokens=3, temperature=0)  # fmt: skip
    sampler.set_model(types.SimpleNamespace(optimizer=run.model.optimizer))
    from tfgpt2.text.generator import TextGenerator

    sampler._generator = TextGenerator(run.model, run.tokenizer)
    bias = run.model.transformer.ln_f.bias
    table = run.model.transformer.wte.weight
    for token in (40, 50):
        # The last hidden state is the embedding of one token.
        model = run.model
        with_token = np.zeros(bias.shape, np.float32) + 100 * np.asarray(table.value)[token]
        bias.assign(with_token)
        run.model.transformer.ln_f.weight.assign(np.zeros(bias.shape, np.float32))
        sampler.set_model(model)
        model.optimizer.use_ema, kept = False, model.optimizer.use_ema
        sampler.on_epoch_end(0)
        model.optimizer.use_ema = kept
    assert texts[0][0] == 9 and texts[0][1] != texts[1][1]


def test_the_plot_shows_both_losses(tmp_path):
    lines = [{"step": s, "loss": 5 / s, "learning_rate": 0.1} for s in range(1, 9)]
    display.draw_losses([*lines, {"step": 8, "val_loss": 1.0}], tmp_path / "a.png")
    display.draw_losses([], tmp_path / "b.png")
    first, second = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first[:4] == second[:4] == b"\x89PNG" and len(first) > len(second) + 3000


def test_a_truncated_log_is_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert callbacks.read_log(path) == [{"step": 1, "loss": 2.0}]
    assert callbacks.read_log(tmp_path / "none") == []


def test_recent_loss_from_the_mean_of_the_epoch():
    callback = callbacks.StepCallback()
    callback._seen = callback._sum = 0.0
    losses = np.random.default_rng(0).uniform(1, 9, 50)
    for stop in (3, 4, 20, 50):
        start = int(callback._seen)
        mean = np.float32(losses[:stop].mean())
        assert callback.recent(stop, mean) == pytest.approx(losses[start:stop].mean(), rel=1e-5)


def test_the_error_for_nan_without_checkpoints():
    with pytest.raises(FloatingPointError, match="step 7 is inf.*smaller learning rate"):
        callbacks.StopOnNaN().at_step(7, 1, {"loss": float("inf")})


def test_perplexity_is_finite_or_infinite():
    logs = {"loss": 1.0, "val_loss": 1000.0}
    callbacks.Perplexity().on_epoch_end(0, logs)
    assert logs["perplexity"] == pytest.approx(math.e) and logs["val_perplexity"] == math.inf


def test_the_model_is_uploaded_without_checkpoints(full_run, monkeypatch):
    """With a replacement of `HfApi`, which makes no requests."""
    out, run, _, _ = full_run
    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, **options):
            calls.append(("create", repo_id, options))

        def upload_folder(self, *, folder_path, ignore_patterns, repo_id, commit_message):
            names = [str(p.relative_to(folder_path)) for p in out.rglob("*") if p.is_file()]
            filtered = huggingface_hub.utils.filter_repo_objects(
                names, ignore_patterns=ignore_patterns
            )
            calls.append(("upload", repo_id, sorted(filtered)))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    callbacks.PushToHub(out, "me/model", token="t").on_train_end()
    assert calls[0] == ("token", "t")
    assert calls[1] == ("create", "me/model", {"private": True, "exist_ok": True})
    files = calls[2][2]
    assert {"config.json", "model.safetensors", "vocab.json", "loss.png"} <= set(files)
    assert not any(name.startswith(("checkpoints", "tensorboard", "last")) for name in files)


def test_callbacks_work_with_any_fit(tmp_path):
    from tfgpt2 import GPT2Config, TFGPT2LMHeadModel

    model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
    model.compile("sgd")
    ids = np.ones([8, 4], np.int32)
    best = []
    model.fit(
        tf.data.Dataset.from_tensor_slices({"input_ids": ids, "labels": ids}).batch(2),
        epochs=2,
        verbose=0,
        callbacks=[callbacks.StopOnNaN(), callbacks.JsonLog(tmp_path / "log", every=3),
                   callbacks.SaveBest(lambda: best.append(1))],
    )  # fmt: skip
    assert [line["step"] for line in callbacks.read_log(tmp_path / "log")] == [1, 3, 6, 8]
    assert steps_of(model) == 8 and not best
    assert json.loads((tmp_path / "log").read_text().splitlines()[0])["loss"] > 0
