"""JSON files that are nested too deeply end in an explained error, whichever file it is.

Python parses some 1,000 levels, and then cannot copy or write what it has parsed.
"""

import json
import shutil

import pytest

import tfgpt2
from tfgpt2 import hub
from tfgpt2.batch.formats import json_lines
from tfgpt2.files import parse_json, parse_json_lines
from tfgpt2.training.checkpoint import _STATE, _read_state
from tfgpt2.training.data.corpus import _read

LEVELS = (150, 900, 5000)
FILES = {
    "config.json": tfgpt2.GPT2Config.from_pretrained,
    "generation_config.json": tfgpt2.GenerationConfig.from_pretrained,
    "tokenizer_config.json": tfgpt2.GPT2Tokenizer.from_pretrained,
    "special_tokens_map.json": tfgpt2.GPT2Tokenizer.from_pretrained,
    "tokenizer.json": tfgpt2.GPT2Tokenizer.from_pretrained,
    _STATE: _read_state,
    "corpus.json": lambda folder: _read(folder, {}),
}


def nested(levels, kind):
    return "[" * levels + "]" * levels if kind == "lists" else '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize("kind", ["lists", "objects"])
@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name, kind):
    folder = tmp_path / "model"
    shutil.copytree(hub.ASSETS / "shakespeare-tiny", folder)
    path = folder / name
    whole = json.loads(path.read_text()) if path.exists() else {"step": 1, "about": {}, "extra": {}}
    for levels in LEVELS:
        path.write_text(json.dumps(whole)[:-1] + f', "x": {nested(levels, kind)}}}')
        with pytest.raises(ValueError, match="nested more than 100 levels deep.* Received: "):
            FILES[name](folder)


def test_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    for levels in LEVELS:
        path.write_text(f'{{"text": "a", "x": {nested(levels, "lists")}}}\n{{"text": "b"}}\n')
        with pytest.raises(ValueError, match="nested more than 100 levels deep.* Received: "):
            list(parse_json_lines(path.read_text(), path))
        damaged, good = json_lines.read(path)
        assert "nested more than 100 levels deep" in damaged[-1] and good[0] == {"text": "b"}


def test_what_is_not_too_deep():
    for text in (nested(100, "lists"), nested(100, "objects"), "1", '"a"', "[]", "null"):
        assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize("content", ["{", "[1]", "{}", '{"dtype": "int32", "identity": 3}'])
def test_the_damaged_description_of_a_cache(tmp_path, content):
    (tmp_path / "corpus.json").write_text(content)
    with pytest.raises(ValueError, match="not a readable cache.* Received: "):
        _read(tmp_path, {"a": 1})
