"""`tfgpt2 tokenize`."""

from __future__ import annotations

from tfgpt2.cli.console import notes, progress, read_text
from tfgpt2.cli.options import DEFAULT_MODEL, Model, Prompt


def tokenize(prompt: Prompt = None, model: Model = DEFAULT_MODEL) -> None:
    """Show the tokens of a text: one line per token with its id and its bytes."""
    text = read_text(prompt)
    with progress(f"Loading {model}"):
        from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

        tokenizer = TFGPT2Tokenizer.from_pretrained(model)
        ids = tokenizer.tokenize(text).numpy().tolist()
    for token_id in ids:
        print(f"{token_id}\t{tokenizer.token_bytes[token_id]!r}")
    notes.print(f"{len(text.encode())} bytes, {len(ids)} tokens", style="dim")
