"""A text given out piece by piece while it is generated."""

from __future__ import annotations

import codecs
from collections.abc import Generator

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.params import DecodeSpec
from tfgpt2.generation.results import check_finite
from tfgpt2.text.pipeline import TextPipeline, TextRequest

_STEP = 4  # tokens between two pieces: few calls, and still a steady flow


def stream_text(
    pipeline: TextPipeline, spec: DecodeSpec, request: TextRequest
) -> Generator[str, None, int]:
    """Decodes a few tokens at a time and yields the text that can no longer change.

    Args:
        pipeline: The pipeline.
        spec: What to run, with a strategy that streams.
        request: One prompt.

    Yields:
        Pieces of valid text; together the whole continuation.

    Returns:
        The number of tokens, an end token included, as the generator's value.
    """
    # The end of the text might be the beginning of a stop string.
    held_back = max(0, int(tf.reduce_max(request.params.stop_strings.lengths)) - 1)
    utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
    texts = pipeline.token_texts
    state, done = pipeline.decoder.start(spec, *request), 0
    while True:
        running = int(state.reason[0]) == stopping.RUNNING
        check_finite(state.logprobs.numpy())
        tokens = state.tokens[0, : int(state.count[0])].numpy().tolist()
        written, cut = sum(len(texts.written[token]) for token in tokens), int(state.stop.cut[0])
        end = cut if cut >= 0 else written - (held_back if running else 0)
        text = texts.shown_before(tokens, end)
        piece = utf8.decode(text[done:], final=not running)
        if piece:
            yield piece
        if not running:
            return len(tokens)
        done = max(done, len(text))
        state = pipeline.decoder.advance(spec, *request, state, state.count[0] + _STEP)
