"""Writes the table of generation options into `docs/generation.md`.

    python docs/make_option_table.py

Each option's owner holds its default and what it does here (`tfgpt2.generation.options.Option`);
`tests/generation/test_option_table.py` compares the page with them.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from tfgpt2.generation.logits.pipeline import PROCESSORS
from tfgpt2.generation.option_table import EXTRA_OPTIONS, OPTIONS
from tfgpt2.generation.options import (
    FLAGS,
    MAX_ID,
    MAX_TOKENS,
    REQUEST_OPTIONS,
    UNSUPPORTED,
    Option,
)
from tfgpt2.generation.strategies.registry import STRATEGIES
from tfgpt2.serving.server.completion_request import _FIELDS as SERVER

PAGE = Path(__file__).parent / "generation.md"
COLUMNS = ("option", "default", "value", "per row", "export", "server", "here", "source")
# Of options that are no numbers; those of flags and numbers are in their `expected`.
VALUES = {
    "sequence_bias": "`{(id, ...): number}`, or a list of `[ids, number]`",
    "bad_words_ids": "a list of lists of ids",
    "forced_bos_token_id": "an id",
    "forced_eos_token_id": "an id, or several",
    "exponential_decay_length_penalty": "`(start, factor)`",
    "suppress_tokens": "a list of ids",
    "begin_suppress_tokens": "a list of ids",
    "max_time": "a number of seconds above 0",
    "stop_strings": "a string or strings",
    "eos_token_id": "an id or several",
    "choices": "a list of strings",
    "regex": "a string",
    "json_schema": "a dict, JSON text or a pydantic model",
}
# Fields of `/v1/completions` with another name.
FIELDS = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "stop_strings": "stop",
          "num_return_sequences": "n", "top_logprobs": "logprobs"}  # fmt: skip
# What an export does not have: results of Python, and the clock.
NOT_EXPORTED = ("return_dict_in_generate", "max_time", "max_length", *(
    flag.name for flag in FLAGS if flag.name.startswith("output_")))  # fmt: skip


def table() -> str:
    """The rows of all options, with transformers' that are not supported at the end."""
    owners = [(one, one.option.name) for one in PROCESSORS]
    owners += [(one, option.name) for one in STRATEGIES for option in one.options]
    modules = {name: inspect.getmodule(one if inspect.isclass(one) else type(one)).__name__
               for one, name in owners}  # fmt: skip
    rows = [_row(option, modules.get(name, "")) for name, option in OPTIONS.items()]
    for name, (neutral, fix) in UNSUPPORTED.items():
        rows.append((f"`{name}`", _shown(neutral[0]), "", "", "", "", f"raises. {fix}", ""))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    head = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"
    return "\n".join([head, *lines]) + "\n"


def _row(option: Option, module: str) -> tuple[str, ...]:
    """The cells of an option."""
    name = option.name
    value = VALUES.get(name) or option.expected or "True or False"
    for bound in (MAX_TOKENS, MAX_ID, 2**63 - 1):  # what fits the type is no news
        value = re.sub(rf"[,;] at most {bound}$", "", value)
    by_row = bool(option.dtype) or "per row" in option.help
    if name in REQUEST_OPTIONS:
        export = "input"
    elif name in EXTRA_OPTIONS:
        export = "input if asked for"
    else:
        export = "no" if name in NOT_EXPORTED else "fixed"
    field = FIELDS.get(name, name)
    here = re.sub(r"^(yes|own), per row(; |, |$)", r"\1\2", option.help)
    source = f"`{module.removeprefix('tfgpt2.generation.').replace('.', '/')}.py`" if module else ""
    return (
        f"`{name}`", _shown(option.default), value, "yes" if by_row else "no", export,
        f"`{field}`" if field in SERVER else "no", here, source,
    )  # fmt: skip


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def main() -> None:
    """Replaces the table of the page."""
    page = PAGE.read_text(encoding="utf-8")
    old = re.search(r"^\| option \| default \|.*\n(\|.*\n)+", page, re.M).group(0)
    PAGE.write_text(page.replace(old, table()), encoding="utf-8")


if __name__ == "__main__":
    main()
