"""Files beside an export with which `litert-lm pack FOLDER` makes a `.litertlm` file of it."""

from __future__ import annotations

import json
from pathlib import Path

from tfgpt2.litert.contract import MODEL, TOKENIZER, Contract

PACK, METADATA = "model.toml", "llm_metadata.pbtext"
# GPT-2 continues text: the messages of a chat are just joined.
_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"
)


def write_pack_files(contract: Contract, folder: Path) -> None:
    """Writes `model.toml` and `llm_metadata.pbtext`.

    There is no start token: LiteRT-LM would put it before every prompt, and GPT-2 expects none.

    Args:
        contract: A contract with one row, which is what LiteRT-LM runs.
        folder: The export.

    Source: litert-lm 0.18, `litert_lm_builder/litertlm_builder.py::from_toml_str` and
        `runtime/proto/llm_metadata.proto`.
    """
    stops = "".join(f"stop_tokens {{ token_ids {{ ids: {i} }} }}\n" for i in contract.eos_token_ids)
    metadata = (
        f"max_num_tokens: {contract.context}\n"
        f"jinja_prompt_template: {json.dumps(_TEMPLATE)}\n"
        "llm_model_type { generic_model { } }\n"
    )
    (folder / METADATA).write_text(stops + metadata, encoding="utf-8")
    sections = (
        ("LlmMetadata", METADATA, ""),
        ("TFLiteModel", MODEL, 'model_type = "prefill_decode"\n'),
        ("HF_Tokenizer", TOKENIZER, ""),
    )
    text = "".join(
        f'[[section]]\nsection_type = "{kind}"\ndata_path = "{name}"\n{more}\n'
        for kind, name, more in sections
    )
    (folder / PACK).write_text(text, encoding="utf-8")
