"""The lines of the page, in an environment of its own: LiteRT without TensorFlow installed."""

import json
import os
import re
import shutil
import subprocess
import venv

import httpx
import pytest

from tests.support.paths import PACKAGE

ROOT = PACKAGE.parent
_PROGRAM = """
import importlib.util, json, sys
from tfgpt2.litert import LiteRTGenerator
absent = [n for n in ("tensorflow", "keras", "h5py") if importlib.util.find_spec(n) is None]
text = LiteRTGenerator.from_pretrained(sys.argv[1]).generate("the", max_new_tokens=9, temperature=0)
print(json.dumps([text, absent]))
"""


def install_lines():
    """The commands of `docs/how-to/litert.md`."""
    page = (ROOT / "docs" / "how-to" / "litert.md").read_text(encoding="utf-8")
    found = re.findall(r"^pip install (?!')([^#\n]+)", page, re.M)
    return [line.split() for line in found if not line.startswith("litert-lm")]


@pytest.mark.long
def test_the_lines_of_the_page_are_all_that_is_needed(exported, loaded, tmp_path):
    source = tmp_path / "source"  # a build writes beside the sources
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "tfgpt2", ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(tmp_path / "venv", with_pip=True)
    run = tmp_path / "venv" / "bin"
    home = {k: x for k, x in os.environ.items() if k != "PYTHONPATH"}
    home["XDG_CACHE_HOME"] = str(tmp_path)

    def call(*command, **options):
        return subprocess.run(
            command, env=home, cwd=tmp_path, capture_output=True, text=True, timeout=600, **options
        )

    lines = install_lines()
    assert len(lines) == 4 and lines[0] == ["--no-deps", "tfgpt2"]
    lines[0][1] = str(source)
    for number, line in enumerate(lines):
        done = call(run / "pip", "install", "--quiet", *line)
        assert done.returncode == 0, done.stderr
        if number == 1:
            done = call(run / "python", "-c", _PROGRAM, exported[0])
            assert done.returncode == 0, done.stderr
            text, absent = json.loads(done.stdout)
            assert absent == ["tensorflow", "keras", "h5py"]
            assert text == loaded.generate("the", max_new_tokens=9, temperature=0)
    options = ["--runtime", "litert", "-n", "9", "--temperature", "0"]
    done = call(run / "tfgpt2", "generate", "the", "-m", exported[0], *options)
    assert (done.returncode, done.stdout) == (0, f"the{text}\n"), done.stderr
    command = [run / "tfgpt2", "serve", exported[0], "--port", "0"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=home) as process:
        url = process.stdout.readline().split()[-1]
        body = {"model": exported[0].name, "prompt": "the", "max_tokens": 9, "temperature": 0}
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
        process.terminate()
        assert process.wait(60) == 0, process.stderr.read()
    assert answer.json()["choices"][0]["text"] == text
