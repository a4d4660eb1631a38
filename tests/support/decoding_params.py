"""Parameters and contexts of decoding, for tests of single processors."""

import tensorflow as tf

from tfgpt2.generation.logits.base import ProcessorContext
from tfgpt2.generation.params import SamplingParams


def params_of(**options):
    """`SamplingParams` of which only the options are set."""
    return SamplingParams((), (), (), options)


def context_of(ids, num_new_tokens=None, **options):
    """A `ProcessorContext` of prompts `[R, P]`, without padding."""
    rows, columns = tf.unstack(tf.shape(ids))
    none = tf.zeros([rows], tf.int32)
    return ProcessorContext(
        input_ids=ids,
        mask=tf.ones_like(ids, tf.bool),
        prompt_columns=columns,
        num_new_tokens=none if num_new_tokens is None else num_new_tokens,
        max_new_tokens=none + 8,
        params=params_of(**options),
    )
