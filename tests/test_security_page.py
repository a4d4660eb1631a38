"""Promises of SECURITY.md that no other test holds."""

import hmac
import json
import shutil

import tfgpt2
from tests.support.server_requests import MODEL
from tfgpt2 import hub
from tfgpt2.serving.server.api_key import has_key

WRITES = "from pathlib import Path\nPath({!r}).write_text('executed')\n"


def test_code_beside_a_checkpoint_is_not_loaded(tmp_path):
    """`auto_map` and `custom_generate` name code of a repository; nothing of it is executed."""
    folder, trace = tmp_path / "model", tmp_path / "trace"
    shutil.copytree(hub.ASSETS / MODEL, folder)
    names = {"modeling_own": "AutoModelForCausalLM", "tokenization_own": "AutoTokenizer",
             "configuration_own": "AutoConfig"}  # fmt: skip
    for module in (*names, "custom_generate/generate"):
        path = folder / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(WRITES.format(str(trace)))
    auto_map = {entry: f"{module}.Own" for module, entry in names.items()}
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))
    # Nor is a template rendered.
    (folder / "chat_template.jinja").write_text("{{ raise_exception('rendered') }}")
    generator = tfgpt2.TextGenerator.from_pretrained(folder, jit_compile=False)
    assert len(generator.generate("ROMEO:\n", max_new_tokens=2)) > 0
    assert not trace.exists()


def test_the_key_is_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert has_key(b"Bearer sesame", "sesame") and not has_key(b"Bearer s", "sesame")
    assert compared == [(b"sesame", b"sesame"), (b"s", b"sesame")]
