"""Light weights against float32: decode step time, and int8's loss of quality.

    python benchmarks/int8.py                 # speed at the 124M shape, random weights
    python benchmarks/int8.py --types int8 bfloat16 float16 --batches 1 2 4 8
    python benchmarks/int8.py --quality       # perplexity and greedy tokens of trained models
    python benchmarks/int8.py --quality --data ../shared/data

The step time is the difference between decoding many tokens and one, divided by the number of
additional tokens, so prefill is excluded. Rounds are interleaved; the table shows medians and their
ratio. CPU is the processor time of all threads, which depends less on the load of the machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import tensorflow as tf

import tfgpt2
from tfgpt2.evaluation.perplexity import perplexity
from tfgpt2.nn.quantization import quantized_copy

PROMPT, STEPS = 32, 32
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 50, 16, 32
ROOT = Path(__file__).resolve().parent.parent


def make_decoder(model, rows):
    """A compiled greedy decoder: number of steps -> wall and CPU seconds."""
    ids = tf.constant(np.random.default_rng(0).integers(0, model.config.vocab_size, (rows, PROMPT)))
    ids = tf.cast(ids, tf.int32)

    @tf.function(jit_compile=True, autograph=False)
    def decode(ids, steps):
        columns = tf.constant(PROMPT + STEPS + 1)
        logits, cache = model.prefill(ids, tf.ones_like(ids), columns=columns)
        everywhere = tf.ones([rows, 1], tf.bool)

        def step(count, token, cache):
            logits, cache = model.decode_step(token, everywhere, cache, in_place=True)
            return count + 1, tf.argmax(logits, -1, tf.int32), cache  # [B, 1]

        first = tf.argmax(logits, -1, tf.int32)[:, None]  # [B, 1]
        start = (tf.constant(0), first, cache)
        return tf.while_loop(lambda count, *_: count < steps, step, start)[1]

    def run(steps):
        wall, cpu = time.perf_counter(), time.process_time()
        decode(ids, tf.constant(steps)).numpy()
        return time.perf_counter() - wall, time.process_time() - cpu

    run(1)
    return run


def make_models(types: list[str]) -> dict[str, tfgpt2.TFGPT2LMHeadModel]:
    """The same random model with weights of each type."""
    wide = tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config())
    models = {"float32": wide}
    for name in types:
        if name == "int8":
            models[name] = quantized_copy(wide)
        else:
            models[name] = tfgpt2.TFGPT2LMHeadModel(wide.config, dtype=name)
            models[name].set_weights([w.value for w in wide.weights])
    return models


def speed(types: list[str], rounds: int, batches: list[int]) -> None:
    """Print the table of decode step times."""
    models = make_models(types)
    runs = {(rows, name): make_decoder(m, rows) for rows in batches for name, m in models.items()}
    times = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            many, one = run(STEPS + 1), run(1)
            steps = [(a - b) / STEPS * 1e3 for a, b in zip(many, one, strict=True)]
            times[key].append([*steps, one[0] * 1e3])
    machine = f"{os.cpu_count()} CPUs ({platform.machine()}), load {os.getloadavg()[0]:.1f}"
    print(f"TensorFlow {tf.__version__}, {machine}")
    print(f"124M shape, prompt {PROMPT}, {STEPS} steps, {rounds} rounds, medians; ms, of float32")
    print("| rows | weights | step | | CPU time of a step | | prompt and first step | |")
    print("|---|---|---|---|---|---|---|---|")
    for rows in batches:
        for name in models:
            cells = []
            for kind in range(3):
                time_of = {n: statistics.median(t[kind] for t in times[rows, n]) for n in models}
                cells += [f"{time_of[name]:.1f}", f"{time_of[name] / time_of['float32']:.2f}"]
            print(f"| {rows} | {name} | {' | '.join(cells)} |")


def quality(data: Path) -> None:
    """Print perplexity and token agreement of trained models."""
    shakespeare = (data / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    slm = data / "checkpoints" / "slm4096"
    corpus = (slm / "corpus.txt").read_text(encoding="utf-8")
    cases = {
        "shakespeare-tiny": ("shakespeare-tiny", shakespeare[-len(shakespeare) // 10 :]),
        "slm4096": (str(slm), corpus[-min(len(corpus), 100_000) :]),
    }
    print(
        f"{PROMPTS} greedy continuations of {NEW_TOKENS} tokens; first difference: after how many"
    )
    print("| model | bytes of text | perplexity float32 | int8 | change | same next token |"
          " same continuations | first difference |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for title, (name, text) in cases.items():
        wide = tfgpt2.TFGPT2LMHeadModel.from_pretrained(name)
        tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained(name)
        small = quantized_copy(wide)
        small.generation_config = wide.generation_config
        a, b = (perplexity(model, tokenizer, text).perplexity for model in (wide, small))
        same, alike, until = agreement(wide, small, tokenizer, text)
        print(f"| {title} | {len(text.encode())} | {a:.3f} | {b:.3f} | {100 * (b / a - 1):+.2f} % |"
              f" {100 * same:.1f} % | {alike} of {PROMPTS} | {until:.1f} |")  # fmt: skip


def agreement(wide, small, tokenizer, text: str) -> tuple[float, int, float]:
    """Agreement of the greedy tokens of two models.

    Returns:
        The share of positions where both predict the same token after the same context (the float
        model's continuations), the number of identical continuations, and the mean number of
        tokens before the first difference.
    """
    ids = tokenizer([text])["input_ids"].numpy()[0]
    starts = np.linspace(0, len(ids) - PROMPT_TOKENS, PROMPTS).astype(int)
    prompts = np.stack([ids[start : start + PROMPT_TOKENS] for start in starts])
    free = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    a, b = (model.generate(prompts, **free).numpy()[:, PROMPT_TOKENS:] for model in (wide, small))
    equal = np.cumprod(a == b, axis=1)
    whole = np.concatenate([prompts, a], axis=1)[:, :-1]
    choices = [m(whole).logits.numpy()[:, PROMPT_TOKENS - 1 :].argmax(-1) for m in (wide, small)]
    return float(np.mean(choices[0] == choices[1])), int(equal[:, -1].sum()), equal.sum(1).mean()


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quality", action="store_true", help="quality instead of speed")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    types = ("int8", "bfloat16", "float16")
    parser.add_argument("--types", nargs="+", choices=types, default=list(types))
    arguments = parser.parse_args()
    if arguments.quality:
        quality(arguments.data)
    else:
        speed(arguments.types, arguments.rounds, arguments.batches)


if __name__ == "__main__":
    main()
