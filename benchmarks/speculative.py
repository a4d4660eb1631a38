"""Speed-up of speculative decoding with prompt lookup at batch 1.

    python benchmarks/speculative.py [--short] [--rounds N]

Greedy output is identical with and without draft tokens; only the time differs. (With int8 it may
differ, since one row is multiplied as it is and several are rounded: the rows that do are counted.)
Workloads:

    bundled, copies     prompts that the bundled model keeps repeating
    bundled, prose      passages of its training text, of which it repeats little
    124M shape, copies  random weights of GPT-2's size, whose greedy output soon becomes periodic,
                        in float32 and in int8

Rounds are interleaved and the times are medians. `tokens per call` is the mean number of tokens per
call of the model, `speed-up` the ratio of total times, prefill included. The outputs are compared
first.
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
from tfgpt2.generation.compiled import CompiledDecoder
from tfgpt2.generation.from_config import decode_spec
from tfgpt2.generation.generate import merge_config, request_params
from tfgpt2.generation.inputs import check_inputs, right_aligned_prompt
from tfgpt2.nn.quantization import quantized_copy

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
METHODS = {"plain": {}, "lookup 5": {"prompt_lookup_num_tokens": 5},
           "lookup 10": {"prompt_lookup_num_tokens": 10}}  # fmt: skip


class Case:
    """One prompt, prepared for each method.

    Args:
        model: The model.
        decoder: Its compiled decoder.
        ids: Token ids of the prompt.
        new: Number of tokens to generate.
    """

    def __init__(self, model: object, decoder: CompiledDecoder, ids: list[int], new: int) -> None:
        self._decoder, self._runs = decoder, {}
        for name, options in METHODS.items():
            asked = {"do_sample": False, "max_new_tokens": new, "eos_token_id": None}
            config = merge_config(model, None, asked | options)
            inputs = check_inputs(model, config, [ids])
            spec = decode_spec(config, model.config.vocab_size)
            params, buffer = request_params(model, config, spec, inputs, None)
            prompt = right_aligned_prompt(inputs, model.config.n_positions)
            self._runs[name] = spec, prompt, params, buffer

    def run(self, method: str) -> tuple[float, np.ndarray, int]:
        """Return seconds, tokens and the number of model calls."""
        start = time.perf_counter()
        result = self._decoder.run(*self._runs[method])
        tokens = result.tokens.numpy()
        return time.perf_counter() - start, tokens, int(result.steps)


def measure(name: str, model: object, prompts: list[list[int]], new: int, rounds: int) -> None:
    """Print a row for each method.

    Raises:
        SystemExit: Draft tokens changed the output of a float model.
    """
    decoder = CompiledDecoder(model, jit_compile=True)
    cases = [Case(model, decoder, ids, new) for ids in prompts]
    calls = {method: 0 for method in METHODS}
    for case in cases:  # compile, and compare the outputs
        found = {method: case.run(method) for method in METHODS}
        for method, (_, tokens, steps) in found.items():
            calls[method] += steps
            if np.any(tokens != found["plain"][1]):
                if not model.is_quantized:
                    raise SystemExit(f"{name}: the output of {method} differs")
                print(f"{name}: the output of {method} differs", flush=True)
    times = {method: [] for method in METHODS}
    for _ in range(rounds):
        for method in METHODS:
            times[method].append(sum(case.run(method)[0] for case in cases))
    total = new * len(cases)
    plain = statistics.median(times["plain"])
    for method in METHODS:
        seconds = statistics.median(times[method])
        print(f"| {name} | {method} | {total / calls[method]:.2f} | {1000 * seconds / total:.2f} |"
              f" {plain / seconds:.2f} |", flush=True)  # fmt: skip


def large() -> object:
    """A model of GPT-2's size with random weights."""
    model = tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config())
    model(tf.constant([[0]]))
    return model


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--short", action="store_true", help="the bundled model only, 3 rounds")
    given = parser.parse_args()
    rounds = 3 if given.short else given.rounds
    print("| workload | method | tokens per call | ms per token | speed-up |")
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
    wide, prompts = large(), [np.tile(words, 4).tolist()]
    measure("124M shape, copies", wide, prompts, new, min(rounds, 5))
    measure("124M shape, copies, int8", quantized_copy(wide), prompts, new, min(rounds, 5))


if __name__ == "__main__":
    main()
