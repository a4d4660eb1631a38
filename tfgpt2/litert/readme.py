"""The README of an exported folder: its contract in words."""

from __future__ import annotations

from typing import Any

from tfgpt2.litert.contract import MASKED, Contract
from tfgpt2.version import __version__


def readme(contract: Contract, config: Any) -> str:
    """Writes the contract for people who call the file from a program of their own.

    Args:
        contract: The contract.
        config: The model's configuration.
    """
    rows, size = contract.batch_size, contract.context
    small = [one for one in contract.cache_sizes if one != size]
    prefixes = ", ".join(f"`cache_{one}_`" for one in small)
    more = (
        f"Signatures whose names begin with {prefixes} do the same with a cache of so many columns."
        " They are faster for short texts, since a step reads all columns.\n"
        if small
        else ""
    )
    lengths = ", ".join(map(str, contract.prefill))
    return f"""\
# GPT-2 for LiteRT

Written by tfgpt2 {__version__}: {config.n_layer} layers, {config.n_head} heads, width {config.n_embd}, matrices in \
{contract.quantize or "float32"}. `model.tflite` uses built-in operations only.

In Python, without TensorFlow (`pip install 'tfgpt2[litert]'`):

    from tfgpt2.litert import LiteRTGenerator
    LiteRTGenerator.from_pretrained("this/folder").generate("Once upon a time", max_new_tokens=40)

## Files

| file | what |
|---|---|
| `model.tflite` | the model, with the signatures below |
| `litert.json` | sizes, end tokens and the start token, for programs |
| `generation_config.json` | default settings |
| `tokenizer.json` | text to ids, for the `tokenizers` library and its ports; also as `vocab.json` and `merges.txt` |
| `token_texts.json` | ids to bytes: `written[id]` is the token as Latin-1 text, one character per byte; ids in `special` are not shown |

## Signatures

`B` = {rows} rows, `S` = {size} columns of the cache, `V` = {contract.vocab_size} ids, `H` = {contract.head_size}.

| signature | inputs | outputs |
|---|---|---|
| `prefill_N`, N in {lengths} | `tokens` int32 `[B, N]`, `input_pos` int32 `[N]`, `mask` float32 `[B, 1, N, S]`, the cache | the cache |
| `decode` | `tokens` int32 `[B, 1]`, `input_pos` int32 `[1]`, `mask` float32 `[B, 1, 1, S]`, the cache | `logits` float32 `[B, 1, V]`, the cache |
| `score_{contract.score}` | as `prefill_N`, and `targets` int32 `[B, N]` | `logprobs` float32 `[B, N]`: of each target after its token, in nats; the cache |

The cache is `kv_cache_k_0`, `kv_cache_v_0`, ... `kv_cache_v_{contract.layers - 1}`, float32 `[B, heads, S, H]`. Input and output may be the same
buffer, which saves copying. Begin with zeros.
{more}
- `input_pos` are the columns that the tokens are written to: consecutive numbers, and `input_pos[0] + N` at most `S`.
- `mask` is added to the attention scores: 0 at the columns that a token sees, its own included, and {MASKED:g} (or another
  large negative number) at the others. The number of columns that it sees, less one, is its position.
- Read all tokens of a prompt but the last with `prefill_N`. A call that is longer than the rest of the prompt is filled with
  any ids; columns after the prompt are written again later. Then give the last token, and each new one, to `decode`.
- With several rows, push prompts of different lengths to the right, so that all end in the same column, and mask the columns before.
- End at an id of `eos_token_ids` in `litert.json`. Ids before every prompt: `prefix_ids`. An empty prompt is `start_id`.
"""
