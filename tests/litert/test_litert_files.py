"""Folders that are no exports, damaged, or do not belong together: one clear error each."""

import json
import shutil
import sys

import pytest

from tfgpt2.litert import LiteRTGenerator
from tfgpt2.litert.contract import CONTRACT, FILES, MODEL, TOKEN_TEXTS, TOKENIZER


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the export."""
    return shutil.copytree(exported[0], tmp_path / "copy")


def load(folder, tmp_path, **options):
    return LiteRTGenerator.from_pretrained(folder, cache_dir=tmp_path / "weights", **options)


def change(folder, **values):
    path = folder / CONTRACT
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_that_is_no_export(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match="holds no LiteRT export: it has no"):
            load(folder, tmp_path)


@pytest.mark.parametrize("name", [name for name in FILES if name != CONTRACT])
def test_a_file_that_is_missing(folder, tmp_path, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"The export lacks {name}"):
        load(folder, tmp_path)


def test_a_model_cut_short(folder, tmp_path):
    data = (folder / MODEL).read_bytes()
    (folder / MODEL).write_bytes(data[:-100])
    with pytest.raises(ValueError, match=f"it has {len(data) - 100} bytes in place of {len(data)}"):
        load(folder, tmp_path)


def test_a_model_that_the_runtime_cannot_read(folder, tmp_path):
    (folder / MODEL).write_bytes(b"\0" * (folder / MODEL).stat().st_size)
    with pytest.raises(ValueError, match="The runtime cannot run model.tflite"):
        load(folder, tmp_path)
    assert not any((tmp_path / "weights").iterdir())


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"format": 2}, "a format that this version does not read"),
        ({"vocab_size": "x"}, "'vocab_size' is missing or wrong"),
        ({"heads": [1, "2"]}, "'heads' is missing or wrong"),
        ({"other": 1}, "'other' is missing or wrong"),
        ({"batch_size": 3}, "is not the file that litert.json describes"),
        ({"context": 32, "cache_sizes": [24, 32]}, "is not the file that litert.json describes"),
        ({"prefill": [4, 8]}, "is not the file that litert.json describes"),
        ({"vocab_size": 5}, "tokens, and the model 5"),
    ],
    ids=str,
)
def test_a_contract_that_is_wrong(folder, tmp_path, values, text):
    change(folder, **values)
    with pytest.raises(ValueError, match=text):
        load(folder, tmp_path)


@pytest.mark.parametrize("name", [CONTRACT, TOKENIZER, TOKEN_TEXTS, "generation_config.json"])
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_file_that_is_no_json_object(folder, tmp_path, name, data):
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} is not a readable"):
        load(folder, tmp_path)


def test_options_of_loading(folder, tmp_path):
    with pytest.raises(ValueError, match="`threads` must be"):
        load(folder, tmp_path, threads=0)
    with pytest.raises(ValueError, match="`on_long_prompt` must be one of"):
        load(folder, tmp_path, on_long_prompt="cut")


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"batch_size": 3}, ValueError, "has batch_size=2, which is fixed .* with batch_size=3"),
        ({"context": 1024}, ValueError, "has context=64, which is fixed"),
        ({"quantize": "int8"}, ValueError, "has quantize=None"),
        ({"contxt": 64}, TypeError, "no argument 'contxt'.*'context'"),
    ],
    ids=str,
)
def test_what_the_export_fixes(folder, tmp_path, values, error, text):
    with pytest.raises(error, match=text):
        load(folder, tmp_path, **values)
    assert load(folder, tmp_path, batch_size=2, context=64).contract.context == 64


def test_without_the_extra(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.compiled_model", None)
    with pytest.raises(ImportError, match=r"pip install 'tfgpt2\[litert\]'"):
        load(folder, tmp_path)


def test_a_place_that_cannot_be_written_costs_memory_only(folder, tmp_path):
    (tmp_path / "weights").write_text("a file")
    assert load(folder, tmp_path).generate("a", temperature=0, max_new_tokens=2)
