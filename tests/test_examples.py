"""The example programs at a small size."""

import json
import os
import subprocess
import sys

import pytest

import tfgpt2
from tests.support.paths import EXAMPLES

SPEECH = "{name}:\nWhat say you, {name}, of the {thing} that we saw?\nIt was a {thing}, I say.\n\n"


def run(program, *arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLES / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.long
def test_training_from_scratch_makes_a_loadable_checkpoint(tmp_path):
    names, things = ("ANNA", "BERT", "CARL", "DORA"), ("horse", "crown", "ghost", "letter", "ship")
    speeches = [SPEECH.format(name=n, thing=t) for n in names for t in things]
    (tmp_path / "text.txt").write_text("".join(speeches * 10))
    output = run(
        *("01_train_from_scratch.py", "--text", tmp_path / "text.txt"),
        *("--output", tmp_path / "model", "--vocab-size", 300, "--width", 32, "--layers", 2),
        *("--heads", 2, "--context", 48, "--batch", 8, "--steps", 60, "--steps-per-epoch", 30),
        *("--learning-rate", 0.01, "--dropout", 0),
    )
    report = json.loads((tmp_path / "model" / "training.json").read_text())
    losses = report["history"]["val_loss"]
    assert losses[-1] < losses[0] and report["validation nats per byte"] < 1.5
    assert f"{report['parameters']}" in output
    generator = tfgpt2.TextGenerator.from_pretrained(tmp_path / "model")
    text = generator.generate("ANNA:\n", temperature=0, max_new_tokens=30)
    assert "say" in text or "What" in text


@pytest.mark.long
def test_a_saved_model_runs_without_this_package(tmp_path):
    generator = tfgpt2.TextGenerator.from_pretrained("shakespeare-tiny")
    generator.export(tmp_path / "1", jit_compile=False, check=False)
    output = run("02_run_saved_model.py", tmp_path / "1", "ROMEO:\nI ")
    assert output.startswith("ROMEO:\nI ") and "150 tokens, finish_reason length" in output


@pytest.mark.long
def test_an_adapter_is_trained_switched_and_merged(tmp_path):
    names = ("ANNA", "BERT", "CARL")
    text = "".join(SPEECH.format(name=n, thing=t) for n in names for t in ("horse", "crown") * 4)
    (tmp_path / "text.txt").write_text(text)
    output = run(
        *("08_lora.py", "--text", tmp_path / "text.txt", "--output", tmp_path / "style"),
        *("--rank", 4, "--targets", "c_attn,c_fc", "--batch", 4, "--epochs", 2),
    )
    first, last = output[output.index("\nloss ") + 6 :].split("\n")[0].split(" -> ")
    assert float(last) < float(first)
    assert "trainable parameters: 48,384 of 3,9" in output
    base, style = (output.split(f"--- {name}\n")[1].split("---")[0] for name in ("base", "style"))
    assert base != style
    assert (tmp_path / "style" / "adapter_model.safetensors").stat().st_size < 250_000
    merged = tfgpt2.TextGenerator.from_pretrained(tmp_path / "style" / "merged")
    assert merged.generate("ROMEO:\n", temperature=0, max_new_tokens=40) in style


@pytest.mark.long
def test_a_corpus_is_scored_and_filtered(tmp_path):
    good = ["What say you of the king?", "I pray you, speak to me.", "My lord, he is not here."]
    bad = ["zx qq vv kk jj xx ww qq zz", "8f3a 99x1 0x7f zz81 qq0 1k9", "}{ ;; ## %% $$ @@ ~~"]
    lines = [line for pair in zip(good, bad, strict=True) for line in pair]
    (tmp_path / "corpus.txt").write_text("\n".join([*lines, "Ay."]))
    arguments = ("13_score_and_filter.py", tmp_path / "corpus.txt", "--output", tmp_path / "out")
    assert "7 rows scored now, 6 usable, 3 kept" in run(*arguments).replace("\n", " ")
    kept = (tmp_path / "out" / "kept.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in kept] == good
    assert "0 rows scored now" in run(*arguments)
