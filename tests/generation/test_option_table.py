"""The table of options in the docs says of every option what really happens."""

import importlib.util
import re

import pytest

from tests.support.paths import DOCS
from tfgpt2 import GenerationConfig
from tfgpt2.generation.options import UNSUPPORTED

PAGE = (DOCS / "generation.md").read_text()
ROWS = {
    name: (default, here)
    for name, default, here in re.findall(
        r"^\| `(\w+)` \| (.+?) \|(?: [^|]*\|){4} ([^|]+?) \| [^|]*\|$", PAGE, re.MULTILINE
    )
}
# What transformers 4.57.6's `GenerationConfig.__init__` reads, and the arguments of `generate`.
TRANSFORMERS = """
assistant_confidence_threshold assistant_early_exit assistant_lookbehind bad_words_ids
begin_suppress_tokens bos_token_id cache_config cache_implementation compile_config constraints
decoder_start_token_id disable_compile diversity_penalty do_sample dola_layers early_stopping
encoder_no_repeat_ngram_size encoder_repetition_penalty eos_token_id epsilon_cutoff eta_cutoff
exponential_decay_length_penalty force_words_ids forced_bos_token_id forced_eos_token_id
guidance_scale is_assistant length_penalty low_memory max_length max_matching_ngram_size
max_new_tokens max_time min_length min_new_tokens min_p no_repeat_ngram_size num_assistant_tokens
num_assistant_tokens_schedule num_beam_groups num_beams num_return_sequences output_attentions
output_hidden_states output_logits output_scores pad_token_id penalty_alpha prefill_chunk_size
prompt_lookup_num_tokens remove_invalid_values renormalize_logits repetition_penalty
return_dict_in_generate return_legacy_cache sequence_bias stop_strings suppress_tokens
target_lookbehind temperature token_healing top_k top_p typical_p use_cache watermarking_config
custom_generate prefix_allowed_tokens_fn synced_gpus use_model_defaults
""".split()


def test_the_table_is_the_one_that_the_options_make():
    spec = importlib.util.spec_from_file_location("table", DOCS / "make_option_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.table() in PAGE, "run: python docs/make_option_table.py"


def test_every_option_has_a_row():
    ours = set(GenerationConfig().to_dict())
    assert set(ROWS) == ours | set(UNSUPPORTED)
    assert not set(TRANSFORMERS) - set(ROWS)


@pytest.mark.parametrize("name", sorted(set(ROWS) - set(UNSUPPORTED)))
def test_defaults_are_true(name):
    default, here = ROWS[name]
    assert str(getattr(GenerationConfig(), name)) == default
    assert not here.startswith("raises")


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_what_raises(name):
    assert ROWS[name][1].startswith("raises")
    for neutral in UNSUPPORTED[name][0]:
        GenerationConfig(**{name: neutral})
    with pytest.raises(ValueError, match=f"`{name}` of transformers does nothing here"):
        GenerationConfig(**{name: "something"})
    assert GenerationConfig.from_dict({name: "something"}).to_dict()[name] == "something"


def test_installed_transformers_has_no_option_we_never_heard_of():
    transformers = pytest.importorskip("transformers")
    new = {"assistant_ensemble_weight", "continuous_batching_config", "max_cache_len", "top_h",
           "speculation_type", "use_mtp", "transformers_version"}  # fmt: skip
    theirs = {name for name in transformers.GenerationConfig().to_dict() if name[0] != "_"}
    assert theirs - new <= set(ROWS)
