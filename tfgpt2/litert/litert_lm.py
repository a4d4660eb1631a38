"""The `.litertlm` file of LiteRT-LM: model, tokenizer and metadata in one container.

Source: litert-lm 0.18: `litert_lm_builder`, the tool itself, `runtime/engine/engine_settings.cc`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from tfgpt2.errors import explain, value_error
from tfgpt2.extras import require
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.written_text import TokenTexts
from tfgpt2.litert.contract import MODEL, TOKENIZER, Contract
from tfgpt2.litert.settings import default_settings, merge

_METADATA = "llm_metadata.pb"
_NO_METADATA = ("min_new_tokens", "min_p", "repetition_penalty")  # options without a field
# A content comes as a list of parts, whatever was sent, and templates expect texts. The block ends
# in the newline that `trim_blocks` removes, so that a template begins as if it stood alone.
_CONTENTS_AS_TEXTS = """\
{%- set chat = namespace(messages=[], text="") -%}
{%- for message in messages -%}
{%- set chat.text = "" -%}
{%- if message.content is string -%}
{%- set chat.text = message.content -%}
{%- else -%}
{%- for part in message.content -%}
{%- set chat.text = chat.text ~ part.text -%}
{%- endfor -%}
{%- endif -%}
{%- set chat.messages = chat.messages + [{"role": message.role, "content": chat.text}] -%}
{%- endfor -%}
{%- set messages = chat.messages %}
"""
# GPT-2 continues text: the messages of a chat are just joined.
_JOINED = "{% for message in messages %}{{ message.content }}{% endfor %}"


def import_builder() -> tuple[Any, Any]:
    """Imports the library that writes such files, and its protocol buffers.

    Raises:
        ImportError: It is not installed, or the installed protobuf is too old for it.
    """
    require("The format litertlm", "litertlm")
    try:
        import litert_lm_builder
        from litert_lm_builder.runtime.proto import llm_metadata_pb2
    except Exception as error:  # protobuf's own
        raise ImportError(
            explain(
                "litert-lm-builder does not work in this environment.",
                fix="Run: pip install 'tfgpt2[litertlm]'. TensorFlow before 2.20 has a protobuf"
                " that is too old for it.",
                error=str(error),
            )
        ) from error
    return litert_lm_builder, llm_metadata_pb2


def check_contract(contract: Contract, config: Mapping[str, Any]) -> None:
    """Checks that a file can say what a generator does.

    Args:
        contract: The contract.
        config: The generation configuration as a dict.

    Raises:
        ValueError: It has an option that LiteRT-LM does not have, or reads for each text only.
    """
    values = merge(default_settings(config), {})
    given = {name: values[name] for name in _NO_METADATA}
    given = {name: one for name, one in given.items() if one != REQUEST_OPTIONS[name].off}
    if contract.stop_strings:
        given["stop_strings"] = contract.stop_strings
    if given:
        raise value_error(
            f"A .litertlm file has no default for `{next(iter(given))}`, so LiteRT-LM would write"
            " other texts.",
            fix="Leave it out of the generation configuration.",
            **given,
        )
    if len(contract.prefix_ids) > 1:
        raise value_error(
            "LiteRT-LM puts at most one token before a text.",
            fix="Give the tokenizer a template with one.",
            prefix_ids=contract.prefix_ids,
        )


def check_texts(tokenizer: tokenizers.Tokenizer, texts: TokenTexts) -> None:
    """Checks that LiteRT-LM writes tokens as we do: it decodes with the tokenizer's own decoder.

    Args:
        tokenizer: What `tokenizer.json` holds.
        texts: The text of every token.

    Raises:
        ValueError: They differ for some of 500 random sequences.
    """
    plain = [token for token in range(len(texts.written)) if token not in texts.special]
    for row in np.random.default_rng(0).choice(plain, [500, 4]).tolist():
        expected = b"".join(texts.written[token] for token in row).decode("utf-8", "replace")
        found = tokenizer.decode(row, skip_special_tokens=False)
        if found != expected:
            raise value_error(
                "LiteRT-LM would write other texts: the decoder of this tokenizer joins tokens in a"
                " way of its own.",
                fix="Export the format litert, which does not use it.",
                tokens=row,
                decoded=found,
                text=expected,
            )


def metadata(
    contract: Contract, config: Mapping[str, Any], template: str | None, special: Mapping[str, str]
) -> Any:
    """The metadata of a model.

    Args:
        contract: The contract.
        config: The generation configuration as a dict.
        template: The chat template, or None for a text that goes on.
        special: Names to special tokens, which the template can use.

    Returns:
        An `LlmMetadata` message.
    """
    _, protos = import_builder()
    result = protos.LlmMetadata(max_num_tokens=contract.context)
    # A model without a stop token starts no session; this id is none that it could write.
    for token in contract.eos_token_ids or (contract.vocab_size,):
        result.stop_tokens.add().token_ids.ids.append(token)
    if contract.prefix_ids:
        result.start_token.token_ids.ids.extend(contract.prefix_ids)
    result.llm_model_type.generic_model.SetInParent()
    result.jinja_prompt_template = chat_template(template, special)
    values, sampler = merge(default_settings(config), {}), result.sampler_params
    # Of the types only this one runs on a CPU: GREEDY and TOP_K are "not implemented yet". Greedy
    # decoding is the best one of all tokens, and all tokens are as many as there are.
    sampler.type = sampler.TOP_P
    sampler.k, sampler.p, sampler.temperature = 1, 1.0, 1.0
    if values["temperature"] > 0:
        sampler.k = int(values["top_k"]) or contract.vocab_size
        sampler.p, sampler.temperature = float(values["top_p"]), float(values["temperature"])
    return result


def chat_template(template: str | None, special: Mapping[str, str]) -> str:
    r"""A chat template for LiteRT-LM, which knows no special tokens, and contents as lists.

    Args:
        template: See `metadata`, as for the next.
        special: See there.

    Example:
        >>> chat_template("{{ eos_token }}", {"eos_token": "<s>"})[-44:]
        '{%- set eos_token = "<s>" %}\n{{ eos_token }}'
    """
    if template is None:
        return _CONTENTS_AS_TEXTS + _JOINED
    tokens = "".join(
        f"{{%- set {name} = {json.dumps(token, ensure_ascii=False)} %}}\n"
        for name, token in special.items()
    )
    return _CONTENTS_AS_TEXTS + tokens + template


def pack(folder: Path, message: Any, path: Path, *, quantize: str | None) -> None:
    """Writes a `.litertlm` file.

    Args:
        folder: Has `model.tflite` and `tokenizer.json`.
        message: See `metadata`.
        path: The file.
        quantize: How the matrices are stored. Only float32 may run on a GPU: its delegate takes no
            `DEQUANTIZE` of float16, and fails where it prepares int8.
    """
    library, _ = import_builder()
    (folder / _METADATA).write_bytes(message.SerializeToString())
    builder = library.LitertLmFileBuilder()
    builder.add_llm_metadata(str(folder / _METADATA))
    builder.add_tflite_model(
        str(folder / MODEL),
        library.TfLiteModelType.PREFILL_DECODE,
        backend_constraint=None if quantize is None else "cpu",
    )
    builder.add_hf_tokenizer(str(folder / TOKENIZER))
    with path.open("wb") as stream:
        builder.build(stream)
