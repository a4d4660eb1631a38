"""Results of `generate(return_dict_in_generate=True)`, in classes named as in transformers."""

from __future__ import annotations

from typing import Any

from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.modes import GenerationMode, mode_of
from tfgpt2.outputs import ModelOutput


class TFGenerateOutput(ModelOutput):
    """Results of `model.generate(return_dict_in_generate=True)`.

    Each prompt has `num_return_sequences` rows, the best first; `R` counts them. Fields that were
    not asked for are absent. The fields of transformers come first, in its order; this package's
    own ones, from `token_logprobs` on, follow them.

    Attributes:
        sequences: int32 `[R, P + T]`, prompts and continuations, padded after a row's end.
        sequences_scores: float32 `[R]` of beam search, the sum of the (processed)
            log-probabilities divided by the number of new tokens to the power `length_penalty`.
        scores: `T` floats `[R, V]`, after processing, warping included; `[B * num_beams, V]` of
            beam search: log-probabilities before they add up.
        logits: `T` floats like `scores`, as the model gave them.
        beam_indices: int32 `[R, T]` of beam search, the running text, a row of `scores`, that each
            token was added to; -1 after the end.
        attentions: For each new token, `L` floats `[R, N, T, S]`: of the prompt with `T = P` for
            the first, of the token before with `T = 1` for the others.
        hidden_states: For each new token, `L + 1` floats `[R, T, D]`.
        cross_attentions: Like `attentions`, `[R, N, T, E]`, over an encoder.
        token_logprobs: float32 `[R, T]`, nats of each new token under the model's own
            distribution; 0 after a row's end.
        num_tokens: int32 `[R]`, new tokens of each row, an end token included.
        finish_reason: `R` strings: `"length"`, `"eos"`, `"stop"`, `"time"`, or `"no_token"` where
            every token was ruled out.
        top_ids: int32 `[R, T, N]`, the likeliest tokens under the model's own distribution.
        top_logprobs: float32 `[R, T, N]`, their nats.
    """

    sequences: Any
    sequences_scores: Any
    scores: Any
    logits: Any
    beam_indices: Any
    attentions: Any
    hidden_states: Any
    cross_attentions: Any
    token_logprobs: Any
    num_tokens: Any
    finish_reason: Any
    top_ids: Any
    top_logprobs: Any


class TFGreedySearchDecoderOnlyOutput(TFGenerateOutput):
    """Results of greedy decoding; see `TFGenerateOutput`."""


class TFContrastiveSearchDecoderOnlyOutput(TFGenerateOutput):
    """Results of contrastive search; see `TFGenerateOutput`."""


class TFSampleDecoderOnlyOutput(TFGenerateOutput):
    """Results of sampling; see `TFGenerateOutput`."""


class TFBeamSearchDecoderOnlyOutput(TFGenerateOutput):
    """Results of beam search; see `TFGenerateOutput`."""


class TFBeamSampleDecoderOnlyOutput(TFGenerateOutput):
    """Results of beam search with sampling; see `TFGenerateOutput`."""


_CLASSES: dict[GenerationMode, type[TFGenerateOutput]] = {
    GenerationMode.SAMPLE: TFSampleDecoderOnlyOutput,
    GenerationMode.BEAM_SEARCH: TFBeamSearchDecoderOnlyOutput,
    GenerationMode.GROUP_BEAM_SEARCH: TFBeamSearchDecoderOnlyOutput,
    GenerationMode.BEAM_SAMPLE: TFBeamSampleDecoderOnlyOutput,
    GenerationMode.CONTRASTIVE_SEARCH: TFContrastiveSearchDecoderOnlyOutput,
}


def output_class(config: GenerationConfig) -> type[TFGenerateOutput]:
    """The class that transformers returns for a configuration.

    Example:
        >>> output_class(GenerationConfig(do_sample=True)).__name__
        'TFSampleDecoderOnlyOutput'
    """
    return _CLASSES.get(mode_of(config), TFGreedySearchDecoderOnlyOutput)
