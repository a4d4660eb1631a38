"""Strategies that follow several texts at once, with the loop's arguments and results."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation import params as planning
from tfgpt2.generation.constraints import masking as automaton
from tfgpt2.generation.logits import pipeline as rules
from tfgpt2.generation.logits.base import Ends, Process, Told
from tfgpt2.generation.request import History, Program, Request, Result
from tfgpt2.generation.strategies import beam_search as beam
from tfgpt2.generation.strategies import contrastive_search as contrastive
from tfgpt2.generation.strategies.beam_search import BeamRequest
from tfgpt2.generation.strategies.contrastive_search import ContrastiveRequest
from tfgpt2.generation.strategies.sampling import Task


def best(result: Result, program: Program) -> Result:
    """Keeps the likeliest texts of each prompt, by mean log-probability of a token.

    Args:
        result: `program.texts` rows for each prompt.
        program: Its `returns` say how many stay, the likeliest first.
    """
    if not program.best_of:
        return result
    mean = tf.math.divide_no_nan(
        tf.reduce_sum(result.logprobs, axis=1), tf.cast(result.count, tf.float32)
    )  # [B * texts]
    mean = tf.reshape(mean, [-1, program.texts])  # [B, texts]
    order = tf.math.top_k(mean, program.returns).indices  # [B, returns]
    first = tf.range(tf.shape(mean)[0])[:, None] * program.texts
    index = tf.reshape(first + order, [-1])  # [B * returns]
    return _take(result, index)


def _take(result: Result, index: tf.Tensor) -> Result:
    steps = result.steps
    taken = tf.nest.map_structure(lambda x: tf.gather(x, index), result._replace(steps=()))
    return taken._replace(steps=steps)


def beams(task: Task, room: tf.Tensor) -> Result:
    """Beam search, in groups where the program has some: `returns` texts of each prompt.

    Args:
        task: What to do.
        room: `[B, T]`; its shape is the most tokens a row can get.
    """
    request, program = task.request, task.program
    asked = BeamRequest(
        row=_core(request),
        length_penalty=request.length_penalty,
        early_stopping=request.early_stopping,
        diversity_penalty=request.diversity_penalty,
        pad=request.pad,
    )
    found = beam.decode(
        task.model,
        task.prompt.ids,
        task.prompt.mask,
        asked,
        room,
        beams=program.beams,
        in_place=task.in_place,
        groups=program.groups,
        process=_process(task, room),
        vocabulary=task.vocabulary if request.stops else None,
        ends=_ends(task),
    )
    best = tf.nest.map_structure(lambda x: _flat(x[:, : program.returns]), found)
    return Result(
        tokens=best.tokens,
        logprobs=best.logprobs,
        count=best.count,
        reason=best.reason,
        cut=best.cut,
        score=best.score,
        parents=best.beam_indices,
    )


def contrast(task: Task, room: tf.Tensor) -> Result:
    """Contrastive search; the arguments are those of `beams`."""
    request = task.request
    return contrastive.decode(
        task.model,
        task.prompt.ids,
        task.prompt.mask,
        ContrastiveRequest(_core(request), request.penalty_alpha),
        room,
        task.vocabulary if request.stops else None,
        candidates=task.program.candidates,
        in_place=task.in_place,
        process=_process(task, room),
        ends=_ends(task),
    )


def _flat(x: tf.Tensor) -> tf.Tensor:
    """`[B, n, ...]` -> `[B * n, ...]`."""
    return tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], axis=0))


def _core(request: Request) -> Request:
    """The settings that a search reads itself; the others are the process's."""
    read = (*Request._fields[:10], "typical_p", "epsilon_cutoff", "eta_cutoff",
            "renormalize_logits", "guidance_scale")  # fmt: skip
    return Request(**{name: getattr(request, name) for name in read})


def _process(task: Task, room: tf.Tensor) -> Process:
    """What is done to the scores of texts of which a prompt has several."""
    request, prompt = task.request, task.prompt

    def process(scores: tf.Tensor, told: Told) -> tf.Tensor:
        copies = tf.shape(told.tokens)[0] // tf.shape(prompt.ids)[0]
        row = planning.repeat_rows(request, copies)
        before = tf.shape(prompt.ids)[1]
        count = tf.fill([tf.shape(told.tokens)[0]], told.step)  # [R]
        history = History(told.tokens, told.written, before, count)
        limit = tf.minimum(row.max_new_tokens, tf.shape(room)[1])  # [R]
        plain = scores
        scores = rules.process(scores, history, row, task.program, limit)
        if not row.constraint:
            return scores
        # Where each text is in its automaton follows from its tokens.
        _, state = tf.while_loop(
            lambda step, state: step < told.step,
            lambda step, state: (
                step + 1,
                automaton.advance(row.constraint, state, told.tokens[:, before + step]),
            ),
            (tf.constant(0), row.constraint.start),
        )
        return rules.constrain(scores, plain, row.constraint, state, row.eos, limit - count)

    return process


def _ends(task: Task) -> Ends | None:
    """A user's criteria as what ends texts of which a prompt has several."""
    if not task.program.criteria:
        return None
    return lambda told: rules.met(task.program, told.tokens, told.written)
