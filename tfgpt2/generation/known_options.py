"""All options of generation: ours, and those of transformers that ask for something else here."""

from __future__ import annotations

from typing import Any

from tfgpt2.generation.options import BEAM_OPTIONS

# transformers' names and defaults of everything `model.generate` understands, and a few names of
# our own at the end of each group.
DEFAULTS: dict[str, Any] = {
    "max_length": None,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": None,
    "max_time": None,
    "stop_strings": None,
    "do_sample": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "prompt_lookup_num_tokens": None,
    "max_matching_ngram_size": 3,
    "num_assistant_tokens": 5,
    "use_cache": True,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "seed": None,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "choices": None,
    "regex": None,
    "json_schema": None,
    "length_penalty": 1.0,
    "early_stopping": False,
    "diversity_penalty": 0.0,
    "num_return_sequences": 1,
    "best_of": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "return_dict_in_generate": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "top_logprobs": 0,
}
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
BEAMS_ONLY = (*BEAM_OPTIONS, "num_beam_groups")
FLAGS = ("do_sample", "use_cache", "return_dict_in_generate", "output_scores", "output_logits",
          "output_attentions", "output_hidden_states")  # fmt: skip
# Counts: the least value of each.
COUNTS = {
    "max_length": 0, "min_length": 0, "bos_token_id": 0, "pad_token_id": 0, "num_beams": 1,
    "num_beam_groups": 1, "num_return_sequences": 1, "best_of": 1, "prompt_lookup_num_tokens": 1,
    "max_matching_ngram_size": 1, "num_assistant_tokens": 1, "top_logprobs": 0,
}  # fmt: skip

# Options of transformers that ask for something else here: what to do instead. The values that
# ask for nothing are accepted, in files any value is kept.
ELSEWHERE: dict[str, tuple[tuple[Any, ...], str]] = {
    "force_words_ids": ((None,), "Use regex=..., choices=... or json_schema=..."),
    "constraints": ((None,), "Use regex=..., choices=... or json_schema=..."),
    "prefix_allowed_tokens_fn": ((None,), "Use regex=..., choices=... or a logits_processor."),
    "token_healing": ((False, None), "End the prompt at a token's boundary: without a space."),
    "watermarking_config": ((None,), "Pass a logits_processor that adds the watermark's bias."),
    "dola_layers": ((None,), "There is no such decoding here; try guidance_scale=..."),
    "assistant_early_exit": ((None,), "Pass assistant_model=..., a smaller model."),
    "assistant_confidence_threshold": ((None, 0.4), "Set num_assistant_tokens."),
    "num_assistant_tokens_schedule": (("constant", None), "The number stays the same here."),
    "assistant_lookbehind": ((None, 10), "The assistant has the same vocabulary here."),
    "target_lookbehind": ((None, 10), "The assistant has the same vocabulary here."),
    "is_assistant": ((False, None), "Pass the model as assistant_model=..."),
    "decoder_start_token_id": ((None,), "GPT-2 has no decoder of its own; use bos_token_id."),
    "cache_implementation": ((None, "static"), "The cache is always static here."),
    "cache_config": ((None,), "The cache is always static here."),
    "return_legacy_cache": ((True, None), "Pass prefix=model.prefix(ids) to go on from a text."),
    "prefill_chunk_size": ((None,), "The prompt is always read at once."),
    "low_memory": ((False, None), "Use fewer beams, or smaller batches."),
    "compile_config": ((None,), "Use jit_compile=False to run without XLA."),
    "disable_compile": ((False, None), "Use jit_compile=False to run without XLA."),
    "synced_gpus": ((False, None), "Rows of a batch never wait for another process here."),
    "use_model_defaults": ((True, None), "Pass a generation_config=... of your own."),
    "custom_generate": ((None,), "No code is loaded from a hub; write a logits_processor."),
    "trust_remote_code": ((False, None), "No code is loaded from a hub."),
}
