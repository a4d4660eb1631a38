"""Records of generation options, and the options that no processor and no strategy owns.

This module imports neither TensorFlow nor NumPy, so that clients can use it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

MAX_TOKENS, MAX_ID, MOST_SECONDS = 2**30, 2**31 - 1, 10**9
# A program is compiled for each of these numbers.
_MOST_SEQUENCES, _MOST_DRAFT_TOKENS, _LONGEST_MATCH = 4096, 1024, 64
MOST_STOPS, LONGEST_STOP = 64, 256  # stop strings of a row, bytes of a stop string


class Option(NamedTuple):
    """One option of `GenerationConfig`.

    Attributes:
        name: Its name, transformers' where transformers has it.
        default: Its value when it is left out, transformers' likewise.
        help: What it does here, for the table in `docs/generation.md`.
        dtype: Type of its tensor with one value per row; empty for options of another kind.
        off: The value that does nothing.
        low: Smallest value.
        high: Largest value.
        expected: The range in words.
    """

    name: str
    default: Any = None
    help: str = "yes"
    dtype: str = ""
    off: Any = None
    low: float = 0
    high: float = 0
    expected: str = ""


# Settings that every program has, and every `generate` signature unless an export says otherwise.
REQUEST_OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option("max_new_tokens", None, "yes, per row",
               "int32", 64, 0, MAX_TOKENS, f"an integer of 0 or more, at most {MAX_TOKENS}"),
        Option("min_new_tokens", None, "yes, per row",
               "int32", 0, 0, MAX_TOKENS, f"an integer of 0 or more, at most {MAX_TOKENS}"),
        Option("temperature", 1.0, "yes, per row; 0 is greedy",
               "float32", 0.0, 0, 1e6, "a number of 0 (greedy) or more, at most 1000000"),
        Option("top_k", 50, "yes, per row; 0 is off",
               "int32", 0, 0, MAX_TOKENS,
               f"an integer of 0 (off) or more, at most {MAX_TOKENS}"),
        Option("top_p", 1.0, "yes, per row",
               "float32", 1.0, 0, 1, "a number in [0, 1]; 1 is off"),
        Option("min_p", None, "yes, per row",
               "float32", 0.0, 0, 1, "a number in [0, 1]; 0 is off"),
        Option("repetition_penalty", 1.0, "yes, per row; padding is never penalized",
               "float32", 1.0, 1e-3, 1e3, "a number in [0.001, 1000]"),
        Option("seed", None, "own: row `i` uses `seed + i`; None or -1 draws a new seed",
               "int64", -1, -1, 2**63 - 1,
               f"an integer of 0 or more; -1 is a fresh one each time; at most {2**63 - 1}"),
    )
}  # fmt: skip

# Options with one value for a call: True or False, a count, ids, or something else.
FLAGS = tuple(
    Option(*fields)
    for fields in (
        ("do_sample", False, "yes"),
        ("use_cache", True, "yes; False recomputes the whole sequence for each token"),
        ("return_dict_in_generate", False, "yes, a `TFGenerateOutput`"),
        ("output_scores", False,
         "yes: after logits processors and warpers; of beam search, of every beam"),
        ("output_logits", False, "yes"),
        ("output_attentions", False,
         "yes, from a forward pass over the finished sequences; for beam search, the returned"
         " ones"),
        ("output_hidden_states", False, "yes, in the same way"),
    )
)  # fmt: skip
COUNTS = tuple(
    Option(name, default, text, low=low, high=high,
           expected=f"an integer of {low} or more, at most {high}")
    for name, default, low, high, text in (
        ("max_length", None, 0, MAX_TOKENS, "yes; with neither this nor `max_new_tokens`, 20 new"
         " tokens (`TextGenerator`: 64, and `max_length` is not read)"),
        ("min_length", 0, 0, MAX_TOKENS, "yes"),
        ("num_beams", 1, 1, _MOST_SEQUENCES, "yes"),
        ("num_beam_groups", 1, 1, _MOST_SEQUENCES, "yes"),
        ("num_return_sequences", 1, 1, _MOST_SEQUENCES,
         "yes; with greedy decoding it raises, as in transformers"),
        ("best_of", None, 1, _MOST_SEQUENCES, "own"),
        ("prompt_lookup_num_tokens", None, 1, _MOST_DRAFT_TOKENS, "yes; exact, see above"),
        ("max_matching_ngram_size", 3, 1, _LONGEST_MATCH,
         "longest n-gram matched by prompt lookup (2 in transformers)"),
        ("num_assistant_tokens", 5, 1, _MOST_DRAFT_TOKENS,
         "draft tokens per round of the draft model (20 in transformers)"),
        ("top_logprobs", 0, 0, MAX_TOKENS,
         "own: this many most likely tokens per position; raises with beam and contrastive"
         " search"),
        ("bos_token_id", None, 0, MAX_ID, "yes"),
        ("pad_token_id", None, 0, MAX_ID, "yes"),
    )
)  # fmt: skip
OTHERS = tuple(
    Option(*fields)
    for fields in (
        ("max_time", None, "seconds; greedy and sampling, checked every 8 tokens; rows end with"
         ' `finish_reason="time"`. Raises with beam and contrastive search and in graphs'),
        ("stop_strings", None, "yes, per row; matched on bytes across tokens; may begin in the"
         " prompt; `TextGenerator` removes them (`stop=`), and reads its own text alone"),
        ("eos_token_id", None, "yes, one or several"),
        ("choices", None, "own: the text is one of these; per row as a list of lists"),
        ("regex", None, "own: the text matches, as with `re.fullmatch`; per row as a list"),
        ("json_schema", None,
         "own: the text is JSON that is valid under the schema; dict, JSON text or pydantic"
         " model"),
    )
)  # fmt: skip
CONSTRAINTS = ("choices", "regex", "json_schema")

# Options of transformers that do nothing here: the values that ask for nothing are accepted, in
# files any value is kept; and what to do instead.
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "force_words_ids": ((None,), "Use regex=..., choices=... or json_schema=..."),
    "constraints": ((None,), "Use regex=..., choices=... or json_schema=..."),
    "prefix_allowed_tokens_fn": ((None,), "Use regex=..., choices=... or a logits_processor."),
    "token_healing": ((False, None), "End the prompt at a token boundary: without a space."),
    "watermarking_config": ((None,), "Pass a logits_processor that adds the watermark's bias."),
    "dola_layers": ((None,), "There is no such decoding here; try guidance_scale=..."),
    "assistant_early_exit": ((None,), "Pass assistant_model=..., a smaller model."),
    "assistant_confidence_threshold": ((0.4, None), "Set num_assistant_tokens."),
    "num_assistant_tokens_schedule": (("constant", None), "The number is constant here."),
    "assistant_lookbehind": ((10, None), "The assistant has the same vocabulary here."),
    "target_lookbehind": ((10, None), "The assistant has the same vocabulary here."),
    "is_assistant": ((False, None), "Pass the model as assistant_model=..."),
    "decoder_start_token_id": ((None,), "GPT-2 has no separate decoder; use bos_token_id."),
    "cache_implementation": ((None, "static"), "The cache is always static here."),
    "cache_config": ((None,), "The cache is always static here."),
    "return_legacy_cache": ((True, None), "Pass prefix=model.prefix(ids) to continue a prefix."),
    "prefill_chunk_size": ((None,), "The prompt is always read at once."),
    "low_memory": ((False, None), "Use fewer beams, or smaller batches."),
    "compile_config": ((None,), "Use jit_compile=False to run without XLA."),
    "disable_compile": ((False, None), "Use jit_compile=False to run without XLA."),
    "synced_gpus": ((False, None), "Rows of a batch never wait for another process here."),
    "use_model_defaults": ((True, None), "Pass a generation_config=... of your own."),
    "custom_generate": ((None,), "No code is loaded from a hub; write a logits_processor."),
    "trust_remote_code": ((False, None), "No code is loaded from a hub."),
}
