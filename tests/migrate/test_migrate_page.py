"""docs/migrate.md: the right columns run, and the command finds usages in the left ones."""

import re
from pathlib import Path

import pytest

from tests.support.paths import DOCS
from tfgpt2.migrate.check import check
from tfgpt2.migrate.usage import find_usages

PAGE = (DOCS / "migrate.md").read_text(encoding="utf-8")
START = re.search(r"```python\n(.*?)```", PAGE, re.S)[1]
SECTIONS = dict(re.findall(r"^## From ([\w-]+).*?\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
CODE = re.compile(r"`([^`]+)`")


def rows(section):
    """Left and right cells; a bar inside code is escaped."""
    for line in SECTIONS[section].splitlines():
        cells = [c.strip().replace(r"\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 2 and "`" in cells[0]:
            yield cells


def is_code(text):
    try:
        return "(" in text and bool(compile(text, "cell", "exec")) or text.startswith("from")
    except SyntaxError:
        return False


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """The names of the page's first block, without XLA, which would compile each cell again."""
    names = {}
    loads = "TextGenerator.from_pretrained(name"
    exec(START.replace(loads, f"{loads}, jit_compile=False"), names)
    return names


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("section", SECTIONS)
def test_the_right_columns_run(section, state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("input.txt").write_text("To be, or not to be: that is the question.\n" * 40)
    done = 0
    for _, right in rows(section):
        for code in CODE.findall(right):
            if not is_code(code) or "<!--" in right:
                continue
            code = code.replace("max_new_tokens=4)", "max_new_tokens=4, jit_compile=False)") \
                if code.startswith("model.generate") else code  # fmt: skip
            exec(compile(code, f"{section}: {code}", "exec"), state)
            done += 1
    assert done >= 8


@pytest.mark.parametrize("section", SECTIONS)
def test_the_command_finds_nothing_to_do_in_the_right_columns(section):
    codes = [code for _, right in rows(section) for code in CODE.findall(right) if is_code(code)]
    source = START + "\n".join(codes)
    assert {check(usage).status for usage in find_usages(source)} == {"unchanged"}, source


LEFT = {
    "transformers": "from transformers import (AutoTokenizer, DataCollatorForLanguageModeling,"
    " TFGPT2LMHeadModel, create_optimizer, pipeline, set_seed)\nimport tensorflow as tf\n"
    "tokenizer = AutoTokenizer.from_pretrained('x')\n"
    "model = TFGPT2LMHeadModel.from_pretrained(x)\n",
    "KerasHub": "import keras_hub\nlm = keras_hub.models.GPT2CausalLM.from_preset('x')\n",
    "gpt-2-simple": "import gpt_2_simple as gpt2\n",
}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_command_finds_the_left_columns(section):
    start = LEFT[section]
    for left, _ in rows(section):
        code = CODE.findall(left)[0].replace("...", "'x'")
        if "in-memory" in left or not is_code(code) or code.startswith("preprocessor"):
            continue
        found = [
            v
            for usage in find_usages(start + code)
            if (v := check(usage)).usage.line > start.count("\n")
        ]
        assert any(v.status in ("change", "import") for v in found), code
