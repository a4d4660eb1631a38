"""A small model for jobs."""

import pytest
import tensorflow as tf

import tfgpt2


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A small random model with the bundled tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
    ids = dict.fromkeys(("bos_token_id", "eos_token_id"), 0)
    config = tfgpt2.GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=64, n_embd=16, n_layer=2, n_head=2, **ids
    )
    tf.keras.utils.set_random_seed(3)
    tfgpt2.TextGenerator(tfgpt2.TFGPT2LMHeadModel(config), tokenizer).save_pretrained(folder)
    return folder
