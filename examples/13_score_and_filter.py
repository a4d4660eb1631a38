"""Scores a corpus line by line and keeps what the model finds plausible.

    python examples/13_score_and_filter.py corpus.txt --output filtered

The corpus may be JSON Lines, CSV, TSV, Parquet, TFRecord or text, of any size. `filtered/scores`
is the job's folder: started again after an interruption, the program goes on there. Texts of too
few tokens say little, and a perplexity is not comparable between models with different
vocabularies.
"""

import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tfgpt2.batch.job import run_job
from tfgpt2.batch.settings import JobSettings
from tfgpt2.batch.tasks.text_scoring import Score


def main(
    corpus: Annotated[list[str], typer.Argument(help="Files or patterns.")],
    output: Annotated[Path, typer.Option(help="Folder for scores and the filtered corpus.")],
    model: str = "shakespeare-tiny",
    text_column: str = "text",
    keep: Annotated[float, typer.Option(help="Share of the rows, the most plausible ones.")] = 0.5,
    min_tokens: Annotated[int, typer.Option(help="Shorter texts are left out.")] = 5,
    batch_size: int = 32,
) -> None:
    """Scores, finds the limit, filters."""
    console, scores = Console(), output / "scores"
    settings = JobSettings(text_column=text_column, batch_size=batch_size)
    report = run_job(Score(), corpus, scores, model=model, settings=settings, console=console)
    found = [row["perplexity"] for row in rows(scores) if is_usable(row, min_tokens)]
    if not found:
        raise typer.BadParameter(f"No text has {min_tokens} tokens or more.")
    limit = heapq.nsmallest(max(1, round(keep * len(found))), found)[-1]
    kept = 0
    with (output / "kept.jsonl").open("w", encoding="utf-8") as file:
        for row in rows(scores):
            if is_usable(row, min_tokens) and row["perplexity"] <= limit:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                kept += 1
    console.print(
        f"{report.rows} rows scored now, {len(found)} usable, {kept} kept: perplexity at most"
        f" {limit:.1f}; {output / 'kept.jsonl'}"
    )


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of a job's output files, in the order of the input."""
    for part in sorted(folder.glob("part-*.jsonl")):
        with part.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def is_usable(row: dict[str, Any], min_tokens: int) -> bool:
    """Whether a row was scored, whole, on enough tokens."""
    return row["error"] is None and row["num_tokens"] >= min_tokens and row["truncated"] == 0


if __name__ == "__main__":
    typer.run(main)
