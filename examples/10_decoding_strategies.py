"""Compares decoding strategies on one prompt: text, time and log-probability.

    python examples/10_decoding_strategies.py "Shall I compare thee to"

The log-probability is that of the model, before temperature and filters, so it is comparable
between strategies: beam search finds likelier texts than greedy decoding, which are not always
better. `first` includes the compilation, `again` is the second call.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfgpt2 import TextGenerator

STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "greedy, no 3 tokens twice": {"temperature": 0, "no_repeat_ngram_size": 3},
    "sampling": {"temperature": 1.0, "top_p": 1.0},
    "sampling, cooler, top-p": {"temperature": 0.7, "top_p": 0.9},
    "sampling, top-k": {"temperature": 1.0, "top_k": 20, "top_p": 1.0},
    "best of 4 samples": {"temperature": 1.0, "top_p": 0.9, "best_of": 4},
    "beams": {"temperature": 0, "num_beams": 4},
    "groups of beams": {
        "temperature": 0, "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0,
    },
    "contrastive search": {"penalty_alpha": 0.6, "top_k": 4, "do_sample": False},
    "greedy with lookup": {"temperature": 0, "prompt_lookup_num_tokens": 4},
    "constrained: a regular expression": {"temperature": 0, "regex": r"[a-z ,]+[.!?]"},
    "constrained: one of these": {
        "temperature": 0, "choices": [" a summer's day?", " a winter's night?"],
    },
}  # fmt: skip


def main(
    prompt: Annotated[
        str, typer.Argument(help="The text to continue.")
    ] = "Shall I compare thee to",
    model: str = "shakespeare-tiny",
    max_new_tokens: int = 32,
    seed: int = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="A strategy's name; may be given several times.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Runs the strategies and prints a table."""
    console = Console()
    generator = TextGenerator.from_pretrained(model)
    table = Table(title=repr(prompt), show_lines=True)
    for name in ("strategy", "text", "first s", "again ms", "tokens", "nats"):
        right = name not in ("strategy", "text")
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    results = []
    for name, options in STRATEGIES.items():
        if only and name not in only:
            continue
        seconds = []
        with console.status(name):
            for _ in range(2):
                start = time.perf_counter()
                found = generator.generate(
                    prompt, max_new_tokens=max_new_tokens, seed=seed, details=True, **options
                )
                seconds.append(time.perf_counter() - start)
        results.append({
            "strategy": name, "text": found.text, "logprob": found.logprob,
            "tokens": len(found.token_ids), "seconds": seconds,
        })  # fmt: skip
        table.add_row(name, Text(found.text.strip()), f"{seconds[0]:.1f}",
                      f"{seconds[1] * 1e3:.0f}", str(len(found.token_ids)),
                      f"{found.logprob:.1f}")  # fmt: skip
    console.print(table)
    if save:
        save.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
