"""`tfgpt2 info`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tfgpt2.cli.console import progress
from tfgpt2.cli.options import DEFAULT_MODEL, Model


def info(model: Model = DEFAULT_MODEL) -> None:
    """Show the size, vocabulary and default settings of a model."""
    with progress(f"Loading {model}"):
        from tfgpt2.text.generator import TextGenerator

        generator = TextGenerator.from_pretrained(model)
    config, settings = generator.model.config, generator.generation_config
    table = Table(show_header=False, box=None)
    for name, value in {
        "model": model,
        "parameters": f"{generator.model.num_parameters():,}",
        "layers x heads x width": f"{config.n_layer} x {config.n_head} x {config.n_embd}",
        "context": f"{config.n_positions} tokens",
        "vocabulary": f"{config.vocab_size:,} in the model,"
        f" {generator.tokenizer.vocab_size:,} in the tokenizer",
        "activation": config.activation_function,
        "start / end token": f"{config.bos_token_id} / {settings.eos_ids or None}",
        "default settings": ", ".join(f"{k}={v}" for k, v in settings.request_values().items()),
    }.items():
        table.add_row(name, str(value))
    Console().print(table)
