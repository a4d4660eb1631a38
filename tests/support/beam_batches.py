"""Prompts with settings of their own as rows of one batch, for the proofs of beam search."""

import json

import numpy as np
import tensorflow as tf

from tests.support import greedy_cases
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.params import DecodeSpec, Prompt, SamplingParams
from tfgpt2.generation.strategies.base import DecodeTask
from tfgpt2.generation.strategies.beam_state import EXACT, FULL, HEURISTIC

EARLY = {False: HEURISTIC, True: FULL, "never": EXACT}


def eager(function):
    return function


def graph(function):
    return tf.function(function, autograph=False)


def jit(function):
    return tf.function(function, autograph=False, jit_compile=True)


def shape_of(case):
    """What a program is made for: the model, beams and groups."""
    return (json.dumps(greedy_cases.config_of(case)), case.seed, case.options["num_beams"],
            case.options.get("num_beam_groups", 1))  # fmt: skip


def right_aligned(prompts, columns=0):
    columns = max([columns, *map(len, prompts)])
    ids = [[0] * (columns - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (columns - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return tf.constant(ids, tf.int32), tf.constant(mask, tf.int32)


def row_params(options):
    """transformers' options of each row as `SamplingParams`; sampling is off."""
    options = [{name: x for name, x in row.items() if x is not None} for row in options]
    values = {
        name: tf.constant([row.get(name, one.off) for row in options], one.dtype)
        for name, one in REQUEST_OPTIONS.items()
    }
    ends = [row.get("eos_token_id") for row in options]
    ends = [[] if eos is None else [eos] if isinstance(eos, int) else eos for eos in ends]
    most = max([1, *map(len, ends)])
    ends = [[*eos, *[-1] * (most - len(eos))] for eos in ends]
    return params_of(values, tf.constant(ends, tf.int32))


def params_of(values, eos, **options):
    """`SamplingParams` of one tensor for each request option, and of other options."""
    own = {name: x for name, x in values.items() if name not in ("max_new_tokens", "seed")}
    return SamplingParams(values["max_new_tokens"], values["seed"], eos, own | options)


def beam_params(options):
    """transformers' options of each row as the parameters of beam search."""
    early = [EARLY[row.get("early_stopping", False)] for row in options]
    number = lambda name, off: tf.constant([row.get(name, off) for row in options], tf.float32)  # noqa: E731
    params = row_params(options)
    return params._replace(
        options=params.options
        | {
            "length_penalty": number("length_penalty", 1.0),
            "early_stopping": tf.constant(early, tf.int32),
            "diversity_penalty": number("diversity_penalty", 0.0),
            "pad_token_id": tf.constant([row.get("pad_token_id", -1) for row in options], tf.int32),
        }
    )


def run_search(strategy, model, prompts, params, run_as, *, columns=0, room=None, spec=None,
               token_bytes=None):  # fmt: skip
    """Runs `strategy.search`, or `strategy.run` where it has none: numpy arrays."""
    room = room or int(tf.reduce_max(params.max_new_tokens))
    spec = spec or DecodeSpec(strategy)

    def run(ids, mask, params, output_buffer):
        task = DecodeTask(model, Prompt(ids, mask), params, spec, output_buffer, token_bytes,
                          in_place=run_as is jit)  # fmt: skip
        return getattr(strategy, "search", strategy.run)(task)

    out = run_as(run)(
        *right_aligned(prompts, columns), params, tf.zeros([len(prompts), room], tf.int32)
    )
    return tf.nest.map_structure(lambda x: x.numpy(), out)


def texts(found, row, best, *, width, pad, eos):
    """New tokens of a row's best texts as transformers writes them.

    Its scorer drops the token that ended a text and writes the first end token in its place.
    """
    result = []
    for k in range(best):
        text = found.tokens[row, k, : found.count[row, k]].tolist()
        if eos and text[-1] in eos:
            text[-1] = eos[0]
        result.append(text + [pad] * (width - len(text)))
    return result


def check_traces(found):
    """Each token's beam index is the place of the text before it.

    Two texts that were one running text at some step hold the same tokens before that step, and
    texts that were different ones hold different tokens.
    """
    rows, beams, size = found.tokens.shape
    inside = np.arange(size) < found.count[..., None]
    assert ((found.beam_indices >= 0) == inside).all()
    places = np.broadcast_to(np.arange(rows)[:, None, None], inside.shape)
    assert (found.beam_indices[inside] // beams == places[inside]).all()
    for row in range(rows):
        for step in range(1, size):
            before = {}
            for k in np.flatnonzero(inside[row, :, step]):
                text = tuple(found.tokens[row, k, :step])
                assert before.setdefault(int(found.beam_indices[row, k, step]), text) == text
