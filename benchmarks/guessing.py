"""How much time guessing saves at batch 1, and where it loses.

    python benchmarks/guessing.py [--short] [--rounds N]

Greedy text is the same with and without guesses; only the time differs. Three kinds of text:

    bundled, copies     passages that the bundled model goes on repeating: copy-heavy
    bundled, prose      passages of its own training text, of which it repeats little
    124M shape, copies  random weights of GPT-2's size, whose greedy text soon runs in a circle

Each round runs every way once, in turn, so that a machine that slows down slows all; the figures
are medians. `tokens per call` says how many tokens one reading of the weights gave, `speed-up` is
plain time over time with guesses, from prompt to last token. The texts are compared first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import tensorflow as tf

import tfgpt2
from tfgpt2.generation.compiled import Decoder
from tfgpt2.generation.generate import _config, _request
from tfgpt2.generation.inputs import lay_out, read_inputs
from tfgpt2.generation.params import program_of

COPIES = [
    "First Citizen:\nWe are accounted poor citizens, the patricians good.\n\n" * 3,
    "one, two, three, four, one, two, three, four, one, two, three, four, one, two,",
    "the king, the queen, the king, the queen, the king, the queen, the king,",
    "ROMEO:\nI will.\n\nJULIET:\nI will not.\n\n" * 4,
]
PROSE = [
    "ROMEO:\nBut soft, what light through yonder window breaks?",
    "KING RICHARD III:\nNow is the winter of our discontent",
    "MENENIUS:\nWhat work's, my countrymen, in hand? where go you",
    "GLOUCESTER:\nThe night has been unruly",
]
WAYS = {"plain": {}, "lookup 5": {"prompt_lookup_num_tokens": 5},
        "lookup 10": {"prompt_lookup_num_tokens": 10}}  # fmt: skip


class Case:
    """One prompt, ready to run in each way.

    Args:
        model: The model.
        decoder: Its programs.
        ids: The prompt's tokens.
        new: Tokens to generate.
    """

    def __init__(self, model: object, decoder: Decoder, ids: list[int], new: int) -> None:
        self._decoder, self._runs = decoder, {}
        for name, options in WAYS.items():
            asked = {"do_sample": False, "max_new_tokens": new, "eos_token_id": None}
            config = _config(model, None, asked | options)
            texts = read_inputs(model, config, [ids])
            program = program_of(config, model.config.vocab_size)
            request, room = _request(model, config, program, texts, None)
            self._runs[name] = program, lay_out(texts, model.config.n_positions), request, room

    def run(self, way: str) -> tuple[float, np.ndarray, int]:
        """Returns seconds, tokens and how often the model was asked."""
        start = time.perf_counter()
        result = self._decoder.run(*self._runs[way])
        tokens = result.tokens.numpy()
        return time.perf_counter() - start, tokens, int(result.steps)


def measure(name: str, model: object, prompts: list[list[int]], new: int, rounds: int) -> None:
    """Prints a row for each way."""
    decoder = Decoder(model, jit_compile=True)
    cases = [Case(model, decoder, ids, new) for ids in prompts]
    calls = {way: 0 for way in WAYS}
    for case in cases:  # compiles, and compares the texts
        found = {way: case.run(way) for way in WAYS}
        for way, (_, tokens, steps) in found.items():
            calls[way] += steps
            if np.any(tokens != found["plain"][1]):
                raise SystemExit(f"{name}: {way} gives another text")
    times = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            times[way].append(sum(case.run(way)[0] for case in cases))
    total = new * len(cases)
    plain = statistics.median(times["plain"])
    for way in WAYS:
        seconds = statistics.median(times[way])
        print(f"| {name} | {way} | {total / calls[way]:.2f} | {1000 * seconds / total:.2f} |"
              f" {plain / seconds:.2f} |", flush=True)  # fmt: skip


def large() -> object:
    """Random weights of GPT-2's size."""
    model = tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config())
    model(tf.constant([[0]]))
    return model


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--short", action="store_true", help="the bundled model only, 3 rounds")
    given = parser.parse_args()
    rounds = 3 if given.short else given.rounds
    print("| text | way | tokens per call | ms per token | speed-up |")
    print("|---|---|---|---|---|")
    model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    new = 64
    for name, texts in (("bundled, copies", COPIES), ("bundled, prose", PROSE)):
        prompts = [ids[-32:] for ids in tokenizer.tokenize(texts).to_list()]  # one bucket
        measure(name, model, prompts, new, rounds)
    if given.short:
        return
    words = np.random.RandomState(0).randint(0, 50257, 8)
    measure("124M shape, copies", large(), [np.tile(words, 4).tolist()], new, min(rounds, 5))


if __name__ == "__main__":
    main()
